"""Folders of synthetic micrographs, for experiments that choose their images."""

from collections.abc import Iterable
from pathlib import Path

from slava_jax.checkpoint import atomic_folder
from slava_jax.data.images import encode_png
from slava_jax.data.processes import map_in_processes
from slava_jax.synthetic.micrographs import draw
from slava_jax.synthetic.records import GroundTruth

SIZE = 224
Drawing = tuple[str, int]  # category and seed


def truth(drawing: Drawing) -> GroundTruth:
    """The contents and acquisition settings of a drawing."""
    return draw(*drawing, SIZE).truth


def truths(drawings: Iterable[Drawing]) -> list[GroundTruth]:
    """The same for many drawings, in two processes."""
    return list(map_in_processes(truth, list(drawings), 2))


def folder(place: Path, drawings: Iterable[Drawing]) -> Path:
    """Writes `CATEGORY/SEED.png` files atomically; keeps an existing folder."""
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(place) as unfinished:
        for category, seed in drawings:
            path = unfinished / category / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(draw(category, seed, SIZE).image))
    return place

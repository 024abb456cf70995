"""Draws procedural micrographs in several processes; light to import, as every process does it."""

from collections.abc import Iterator, Sequence

from slava_jax.data.images import encode_png
from slava_jax.data.processes import map_in_processes
from slava_jax.synthetic.micrographs import draw


def draw_png(job: tuple[str, int, int]) -> tuple[bytes, str]:
    """Draws (category, seed, size) and returns the PNG and the record as JSON."""
    micrograph = draw(*job)
    return encode_png(micrograph.image), micrograph.truth.to_json()


def draw_all(jobs: Sequence[tuple[str, int, int]], workers: int) -> Iterator[tuple[bytes, str]]:
    """Yields `draw_png` of every job in order; runs in this process if workers is 1."""
    return map_in_processes(draw_png, jobs, workers)

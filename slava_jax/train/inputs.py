"""What a run began with: hashes of its images, instructions and tokens, compared at every start."""

import hashlib
import json
import sys
from pathlib import Path

from ml_collections import ConfigDict

from slava_jax import files, hosts
from slava_jax.data.datasets.store import SPLITS
from slava_jax.facts import parsed
from slava_jax.train.datasets import Datasets
from slava_jax.train.workdir import INPUTS, WorkdirError, write_atomically

_MOST_NAMED = 3  # images per line of an error

# Name of an input -> a hash for each of its parts, such as an image.
Hashes = dict[str, dict[str, str]]


def read_at_start(config: ConfigDict, workdir: Path, datasets: Datasets) -> Hashes:
    """The hashes of what `datasets.prepare` read: images, instructions and tokens."""
    data = workdir / "data"
    read = [data / "instructions" / f"{name}.jsonl" for name in SPLITS]
    read += [data / "tokenizer" / name for name in files.below(data / "tokenizer")]
    found = _of_files(workdir, read)
    own = config.data.instructions
    if own:
        found["data.instructions"] = {own: _sum(Path(own))}
    for name in SPLITS:
        images = getattr(datasets, name).images
        if images.hashes is not None:
            found[f"{name} images"] = dict(zip(images.keys, images.hashes, strict=True))
    return found


def read_with_neighbours(workdir: Path) -> Hashes:
    """The hashes of what `datasets.with_multi_image` read."""
    folder = workdir / "data" / "instructions"
    return _of_files(workdir, [folder / f"{name}-multi_image.jsonl" for name in SPLITS])


def _of_files(workdir: Path, paths: list[Path]) -> Hashes:
    return {path.relative_to(workdir).as_posix(): {"the file": _sum(path)} for path in paths}


def _sum(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be read: {error}") from error


def check_inputs(workdir: Path, now: Hashes, new: bool = False) -> None:
    """Compares inputs with those the run began with, and records those that are not yet recorded.

    Args:
      new: the run begins now: forget what was recorded.

    Raises:
      WorkdirError: an input has changed. The message lists what.
    """
    path = workdir / INPUTS
    with hosts.first_before_others():
        held = {} if new else _read(path)
        known = [name for name in now if name in held]
        told = [line for name in known for line in _changes(name, held[name], now[name])]
        if told:
            raise WorkdirError(
                f"{workdir}: what this run learns from has changed since it began:\n  "
                + "\n  ".join(told)
                + "\nRestore it, or start again in another --workdir"
            )
        if hosts.is_first() and not now.keys() <= held.keys():
            write_atomically(path, json.dumps({**now, **held}, indent=0, sort_keys=True) + "\n")


def _read(path: Path) -> Hashes:
    if not path.exists():
        if hosts.is_first() and any(path.parent.glob("*/last")):
            print(
                f"{path.parent}: begun by an older slava_jax, which did not record its inputs; "
                "they are recorded now",
                file=sys.stderr,
            )
        return {}
    try:
        held = parsed(path.read_text(encoding="utf-8"))
        if not all(isinstance(of, dict) for of in held.values()):
            raise ValueError("not the hashes of inputs")
        return held
    except (OSError, ValueError) as error:
        raise WorkdirError(
            f"{path}: damaged ({error}); delete it if you know that the images and instructions "
            "have not changed since the run began"
        ) from error


def _changes(name: str, held: dict[str, str], now: dict[str, str]) -> list[str]:
    kinds = {
        "changed": [key for key in now if key in held and held[key] != now[key] != ""],
        "added": [key for key in now if key not in held],
        "missing": [key for key in held if not now.get(key)],
    }
    return [f"{name}: {_listed(keys)} {kind}" for kind, keys in kinds.items() if keys]


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _MOST_NAMED} more" if len(keys) > _MOST_NAMED else ""
    return ", ".join(sorted(keys)[:_MOST_NAMED]) + more

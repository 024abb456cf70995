"""Versioned, atomic checkpoints on Orbax.

A checkpoint is one folder: the arrays (in Orbax's format) and, in its metadata, the format
version, the dtype and shape of every array, and a JSON dictionary of *facts* (iterator state,
plateau counters, the config). A folder is renamed to its final name once it is complete, so a
folder of that name is always a valid checkpoint, even if the process is killed.

With several processes (`jax.distributed`), all of them call every function here with the same
arguments on a shared directory; Orbax synchronizes them.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as orbax

from slava_jax import facts as descriptions
from slava_jax import hosts
from slava_jax.errors import UserError

FORMAT_VERSION = 2
PyTree = Any
_LEFTOVER = re.compile(r"\.(orbax-checkpoint-tmp.*|deleted)$")


class CheckpointError(UserError):
    """A checkpoint cannot be written, read, or does not match the request."""


class Checkpoints:
    """The numbered checkpoints of one run, `directory/<step>/`; only the newest is kept.

    Opening it removes unfinished checkpoints, so only one run may use the directory.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory).absolute()
        _make_directory(self.directory)
        _remove_leftovers(self.directory)

    def save(self, step: int, arrays: PyTree, facts: dict[str, Any]) -> None:
        """Writes a checkpoint, then drops earlier ones. Returns when it is on disk.

        Args:
          step: larger than every saved step.
          arrays: a pytree of jax or numpy arrays of any dtype, typed PRNG keys included.
          facts: JSON-serializable (tuples come back as lists, keys as strings).

        Raises:
          CheckpointError: it cannot be written (such as a full disk), the step is not new, or the
            facts are not JSON-serializable. Earlier checkpoints are kept.
        """
        latest = self.latest()
        if latest is not None and step <= latest:
            raise CheckpointError(
                f"{self.directory}: cannot save step {step}: step {latest} already exists"
            )
        try:
            _write(self.directory / str(step), arrays, facts)
        except CheckpointError as error:
            kept = "there was no earlier one" if latest is None else f"step {latest} is kept"
            raise CheckpointError(f"checkpoint of step {step} ({kept}): {error}") from error
        for old in _steps(self.directory)[:-1]:
            _remove(self.directory / str(old))

    def restore(self, template: PyTree) -> tuple[int, PyTree, dict]:
        """Reads the newest into the structure, dtypes, shapes and shardings of `template`.

        Args:
          template: a pytree of arrays or `jax.ShapeDtypeStruct`. A numpy leaf gives a numpy
            array, any other a jax array with that leaf's sharding (default: the first device).

        Returns:
          (step, arrays, facts)

        Raises:
          CheckpointError: there is none, it is damaged or of another format, or its arrays differ
            from the template's (the error lists all differences).
        """
        step = self.latest()
        if step is None:
            raise CheckpointError(f"{self.directory}: no checkpoint found")
        return step, *load_tree(self.directory / str(step), template)

    def latest(self) -> int | None:
        """The newest saved step as seen by the first process, None if there is none."""
        newest = hosts.from_first(max(_steps(self.directory), default=-1))
        return None if newest < 0 else newest


def newest(directory: Path) -> Path | None:
    """The newest checkpoint in another run's directory, which is not modified."""
    steps = _steps(directory) if directory.is_dir() else []
    return directory / str(steps[-1]) if steps else None


def _steps(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def save_tree(path: str | os.PathLike, tree: PyTree, facts: dict[str, Any]) -> None:
    """Writes a single checkpoint folder (frozen weights, a finished assistant) atomically.

    Arguments as in `Checkpoints.save`.

    Raises:
      CheckpointError: the path exists (it is complete; delete it to replace it), or as in `save`.
    """
    _write(new_folder(path), tree, facts)


def lay_out(path: Path, shapes: Mapping[str, jax.ShapeDtypeStruct], facts: dict[str, Any]) -> None:
    """Writes a folder like `save_tree`'s that describes `shapes` but has one-element arrays.

    streaming.py then replaces the arrays. Names are as in "vit/norm/scale".
    """
    one = {name: np.zeros(1, leaf.dtype) for name, leaf in shapes.items()}
    _write(path, _nest(one), facts, shapes)


def new_folder(path: str | os.PathLike) -> Path:
    """The absolute path of a folder that does not exist yet; creates its parent.

    Raises:
      CheckpointError: it exists, or the parent cannot be created.
    """
    path = Path(path).absolute()
    if path.exists() or path.is_symlink():  # also a broken link
        raise CheckpointError(f"{path} already exists: delete it first")
    _make_directory(path.parent)
    return path


@contextmanager
def atomic_folder(
    path: str | os.PathLike, size: int = 0, reads: str | os.PathLike | None = None
) -> Iterator[Path]:
    """A temporary path for a folder of `size` bytes; it is renamed to `path` when complete.

    Args:
      reads: the input of the body; must not be inside the temporary folder, which is deleted.

    Raises:
      CheckpointError: as `new_folder`; the disk has too little space; `reads` is inside the
        temporary folder; or the body raised an OSError. Nothing is left behind.
    """
    path = new_folder(path)
    unfinished = path.with_name(f".{path.name}.slava-tmp")  # unlikely as a user's file name
    if reads is not None and Path(reads).resolve().is_relative_to(unfinished.resolve()):
        raise CheckpointError(
            f"{reads}: is inside {unfinished}, a temporary folder that is deleted; move it, or "
            "choose another target"
        )
    shutil.rmtree(unfinished, ignore_errors=True)  # before measuring: leftovers take space
    need, free = size / 2**30, shutil.disk_usage(path.parent).free / 2**30
    if need > free:
        raise CheckpointError(f"{path.parent}: {need:.2f} GiB needed, {free:.2f} GiB free")
    try:
        yield unfinished
        os.rename(unfinished, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def content_hash(tree: PyTree) -> str:
    """SHA-256 of a tree's leaves in the order of their names: name, dtype, shape and bytes.

    Numpy and jax arrays of the same content give the same hash. Copies one leaf at a time.
    """
    leaves = _flatten(tree, Path("tree"))
    digest = hashlib.sha256()
    for name in sorted(leaves):
        digest.update(json.dumps([name, *_describe(leaves[name])]).encode())
        array = np.ascontiguousarray(leaves[name])
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def load_tree(path: str | os.PathLike, template: PyTree | None = None) -> tuple[PyTree, dict]:
    """Reads a folder of `save_tree`: (tree, facts).

    With a template as in `Checkpoints.restore`. Without one: nested dicts of numpy arrays, where
    sequences become dicts keyed "0", "1", ... and empty containers are missing.

    Raises:
      CheckpointError: as in `Checkpoints.restore`; or it holds PRNG keys and there is no template.
    """
    path = Path(path).absolute()
    metadata = _read_metadata(path)
    stored = metadata["arrays"]
    wanted = _as_numpy(stored, path) if template is None else _flatten(template, path)
    _check_same(path, stored, {name: _describe(leaf) for name, leaf in wanted.items()})
    leaves = {
        name: _read_as(leaf) if _has_elements(leaf) else _no_elements(leaf)
        for name, leaf in wanted.items()
    }
    abstract = {name: leaf for name, leaf in leaves.items() if _has_elements(leaf)}
    if abstract:
        try:
            leaves.update(_flatten(orbax.load(path, _nest(abstract)), path))
        except (ValueError, KeyError, OSError) as error:
            raise CheckpointError(f"{path}: damaged or unreadable: {error}") from error
    if template is None:
        return _nest(leaves), metadata["facts"]
    return jax.tree.unflatten(jax.tree.structure(template), leaves.values()), metadata["facts"]


def load_facts(path: str | os.PathLike) -> dict[str, Any]:
    """Reads only the facts of a folder, not its arrays. Raises CheckpointError as `load_tree`."""
    return _read_metadata(Path(path).absolute())["facts"]


def _write(path: Path, tree: PyTree, facts: dict[str, Any], described=None) -> None:
    """Saves `tree`. `described` gives the true shapes if its arrays are placeholders."""
    leaves = _flatten(tree, path)
    try:
        facts_json = json.dumps(facts)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: facts must be JSON-serializable: {error}") from error
    metadata = {
        "slava_jax_format": FORMAT_VERSION,
        "arrays": {name: _describe(leaf) for name, leaf in (described or leaves).items()},
        "facts": facts_json,
    }
    # Orbax refuses empty arrays and empty trees. The metadata above describes empty arrays fully;
    # the entry "-" replaces an empty tree.
    full = {name: _shared(leaf) for name, leaf in leaves.items() if _has_elements(leaf)}
    try:
        with _quiet_orbax():
            orbax.save(path, _nest(full) or {"-": np.zeros(1)}, custom_metadata=metadata)
    except (OSError, ValueError) as error:  # tensorstore reports a full disk as ValueError
        _remove_leftovers(path.parent, of=path.name)
        free = shutil.disk_usage(path.parent).free / 2**20
        need = sum(leaf.nbytes for leaf in full.values()) / 2**20
        raise CheckpointError(
            f"cannot be written to {path.parent} ({free:.1f} MiB free, "
            f"up to {need:.1f} MiB needed): {error}"
        ) from error


def _read_metadata(path: Path) -> dict[str, Any]:
    """{"slava_jax_format", "arrays": {name: [dtype, shape]}, "facts"}"""
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        metadata = dict(orbax.metadata(path).custom_metadata or {})
    except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {error}") from error
    version = metadata.get("slava_jax_format")
    if not isinstance(version, int):
        raise CheckpointError(f"{path}: not written by slava_jax (it has no format version)")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: written by a newer slava_jax (format {version}, this one reads up to "
            f"{FORMAT_VERSION}): update"
        )
    if version < FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: written by an older slava_jax (format {version}, this one reads "
            f"{FORMAT_VERSION}): read it with that version, or train again"
        )
    try:
        return descriptions.metadata(metadata)
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: {error}; restore it from a copy") from error


def _check_same(path: Path, stored: dict[str, list], wanted: dict[str, list]) -> None:
    def say(dtype: str, shape: list[int]) -> str:
        return f"{dtype}{shape}"

    rows = [
        f"  {name}: stored {say(*stored[name])}, expected {say(*wanted[name])}"
        for name in stored
        if name in wanted and stored[name] != wanted[name]
    ]
    rows += [f"  {n}: not stored, expected {say(*wanted[n])}" for n in wanted if n not in stored]
    rows += [f"  {n}: stored {say(*stored[n])}, not expected" for n in stored if n not in wanted]
    if rows:
        raise CheckpointError(f"{path}: made for another model or config:\n" + "\n".join(rows))


def _flatten(tree: PyTree, path: Path) -> dict[str, Any]:
    """Leaves by name, "params/head/kernel", in the order of `jax.tree.leaves`."""
    leaves: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        parts = [jax.tree_util.keystr((key,), simple=True) for key in keys]
        name = "/".join(parts)
        # Orbax joins names with dots, so a dot or slash inside a name could cause collisions.
        if not parts or any(not part or set(part) & {".", "/"} for part in parts) or name in leaves:
            raise CheckpointError(f"{path}: {name!r} is not a valid array name")
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise CheckpointError(
                f"{path}: {name} is {type(leaf).__name__}, not an array: store it in the facts"
            )
        leaves[name] = np.asarray(leaf) if isinstance(leaf, np.generic) else leaf
    return leaves


def _nest(leaves: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _describe(leaf: Any) -> list:
    """[dtype, shape] in JSON form."""
    return [str(leaf.dtype), list(leaf.shape)]


def _has_elements(leaf: Any) -> bool:
    return 0 not in leaf.shape


def _shared(leaf: Any) -> Any:
    """Host-local jax arrays as numpy: Orbax refuses the former in multi-process runs."""
    alone = jax.process_count() > 1 and isinstance(leaf, jax.Array) and leaf.is_fully_addressable
    return np.asarray(leaf) if alone else leaf


def _as_numpy(stored: dict[str, list], path: Path) -> dict[str, np.ndarray]:
    """Placeholders for the stored arrays, without memory of their own."""
    keys = [name for name, (dtype, _) in stored.items() if dtype.startswith("key<")]
    if keys:
        raise CheckpointError(f"{path} contains PRNG keys ({', '.join(keys)}): pass a template")
    return {
        name: np.broadcast_to(np.zeros((), jax.numpy.dtype(dtype)), shape)
        for name, (dtype, shape) in stored.items()
    }


def _read_as(leaf: Any) -> Any:
    """The restore request to Orbax for a leaf of the template."""
    if isinstance(leaf, np.ndarray):
        return leaf
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _no_elements(leaf: Any) -> Any:
    zeros = np.zeros if isinstance(leaf, np.ndarray) else jax.numpy.zeros
    return zeros(leaf.shape, leaf.dtype)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be created: {error}") from error


def _remove(path: Path) -> None:
    if jax.process_index() != 0:
        return
    # Renamed first: a half-deleted folder must not look like a checkpoint.
    doomed = path.with_name(path.name + ".deleted")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _remove_leftovers(directory: Path, of: str | None = None) -> None:
    """Removes partly written or partly deleted folders, of one name or of all."""
    if jax.process_index() != 0:
        return
    for path in directory.iterdir():
        leftover = _LEFTOVER.search(path.name)
        if leftover and of in (None, path.name[: leftover.start()]):
            # Threads of a failed save may still be writing; the next call removes the rest.
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Silences Orbax's threads, which would log a failed save with tracebacks; it raises anyway."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)

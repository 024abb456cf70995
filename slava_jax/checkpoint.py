"""Versioned, atomic checkpoints on Orbax.

A checkpoint is one folder: the arrays (in Orbax's format) and, in its metadata, the format
version, the dtype and shape of every array, and a JSON dictionary of *facts* (iterator state,
plateau counters, the config). A list of checksums covers all its files, and every reader compares
them. A folder is renamed to its final name once it is complete, so a folder of that name is always
a valid checkpoint, even if the process is killed.

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

from slava_jax import files, hosts
from slava_jax.layout import FORMAT_VERSION, METADATA, check_files, check_place, read_metadata
from slava_jax.leaves import (
    CheckpointError,
    PyTree,
    as_numpy,
    check_same,
    describe,
    flatten,
    has_elements,
    nest,
    no_elements,
    read_as,
)

_UNFINISHED, _NEW, _LOCK = ".unfinished", "new", "lock"
_NOTE = "commit_success.txt"
_LEFTOVER = re.compile(r"\.(unfinished(\..*)?|orbax-checkpoint-tmp.*|deleted)$")


class Checkpoints:
    """The numbered checkpoints of one run, `directory/<step>/`; only the newest `keep` are kept.

    Opening it removes unfinished checkpoints, so only one run may use the directory.

    Raises CheckpointError if the directory cannot be created, or arrays cannot be kept there.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 1):
        self.directory, self.keep = Path(directory).absolute(), keep
        check_place(self.directory)
        _make_directory(self.directory)
        _remove_leftovers(self.directory)
        self._sound: set[int] = set()  # steps whose checksums have been compared

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
            _save(self.directory / str(step), arrays, facts)
        except CheckpointError as error:
            kept = "there was no earlier one" if latest is None else f"step {latest} is kept"
            raise CheckpointError(f"checkpoint of step {step} ({kept}): {error}") from error
        for old in _steps(self.directory)[: -self.keep]:
            self.drop(old)

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
        path = self.directory / str(step)
        if step not in self._sound:
            check_files(path)
        return step, *_load(path, template)

    def damage(self, step: int) -> str:
        """How the files of a saved step differ from what was written; '' if they do not.

        The first process decides, for all.
        """
        found, path = "", self.directory / str(step)
        if hosts.is_first():
            try:
                check_files(path)
            except CheckpointError as error:
                found = str(error)
        if hosts.from_first(bool(found)):
            return found or f"{path}: is damaged, as the first host says"
        self._sound.add(step)
        return ""

    def drop(self, step: int) -> None:
        """Deletes a saved step."""
        _remove(self.directory / str(step))

    def steps(self) -> list[int]:
        """The newest `keep` saved steps, in order, as seen by the first process."""
        newest = _steps(self.directory)[-self.keep :]
        padded = [-1] * (self.keep - len(newest)) + newest
        return [step for step in hosts.from_first(padded) if step >= 0]

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
    check_place(Path(path))
    _save(new_folder(path), tree, facts)


def lay_out(path: Path, shapes: Mapping[str, jax.ShapeDtypeStruct], facts: dict[str, Any]) -> None:
    """Writes a folder like `save_tree`'s that describes `shapes` but has one-element arrays.

    streaming.py then replaces the arrays and adds the checksums. Names are as in "vit/norm/scale".
    """
    one = {name: np.zeros(1, leaf.dtype) for name, leaf in shapes.items()}
    _write(path, nest(one), facts, shapes)


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

    Two processes cannot write the same folder at once.

    Args:
      reads: the input of the body; must not be inside the temporary folder, which is deleted.

    Raises:
      CheckpointError: as `new_folder`; the disk has too little space; `reads` is inside the
        temporary folder; another process is writing the folder; or the body raised an OSError.
        Nothing is left behind.
    """
    path = new_folder(path)
    unfinished = path.with_name(f".{path.name}.slava-tmp")  # unlikely as a user's file name
    if reads is not None and Path(reads).resolve().is_relative_to(unfinished.resolve()):
        raise CheckpointError(
            f"{reads}: is inside {unfinished}, a temporary folder that is deleted; move it, or "
            "choose another target"
        )
    try:
        unfinished.mkdir(exist_ok=True)  # stays here until the end, because it holds the lock
        with files.locked(unfinished / _LOCK):
            try:
                yield _room(unfinished, size)
                os.rename(unfinished / _NEW, path)
                files.sync_folder(path.parent)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except files.UsedError as error:
        raise CheckpointError(
            f"{path}: another process is writing it; wait until it ends, or choose another target"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


def _room(unfinished: Path, size: int) -> Path:
    """A path in the folder for something of `size` bytes, once leftovers are removed."""
    place, parent = unfinished / _NEW, unfinished.parent
    for leftover in unfinished.iterdir():  # before measuring: leftovers take space
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        elif leftover.name != _LOCK:
            leftover.unlink()
    need, free = size / 2**30, shutil.disk_usage(parent).free / 2**30
    if need > free:
        raise CheckpointError(f"{parent}: {need:.2f} GiB needed, {free:.2f} GiB free")
    return place


def content_hash(tree: PyTree) -> str:
    """SHA-256 of a tree's leaves in the order of their names: name, dtype, shape and bytes.

    Numpy and jax arrays of the same content give the same hash. Copies one leaf at a time.
    """
    leaves = flatten(tree, Path("tree"))
    digest = hashlib.sha256()
    for name in sorted(leaves):
        digest.update(json.dumps([name, *describe(leaves[name])]).encode())
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
    check_files(path)
    return _load(path, template)


def _load(path: Path, template: PyTree | None) -> tuple[PyTree, dict]:
    """As `load_tree`, once the checksums have been compared."""
    metadata = read_metadata(path)
    stored = metadata["arrays"]
    wanted = as_numpy(stored, path) if template is None else flatten(template, path)
    check_same(path, stored, {name: describe(leaf) for name, leaf in wanted.items()})
    leaves = {
        name: read_as(leaf) if has_elements(leaf) else no_elements(leaf)
        for name, leaf in wanted.items()
    }
    abstract = {name: leaf for name, leaf in leaves.items() if has_elements(leaf)}
    if abstract:
        try:
            leaves.update(flatten(orbax.load(path, nest(abstract)), path))
        except (ValueError, KeyError, OSError, ExceptionGroup) as error:
            raise CheckpointError(f"{path}: damaged or unreadable: {error}") from error
    if template is None:
        return nest(leaves), metadata["facts"]
    return jax.tree.unflatten(jax.tree.structure(template), leaves.values()), metadata["facts"]


def load_facts(path: str | os.PathLike) -> dict[str, Any]:
    """Reads only the facts of a folder, not its arrays. Raises CheckpointError as `load_tree`."""
    path = Path(path).absolute()
    check_files(path, [METADATA])
    return read_metadata(path)["facts"]


def _save(path: Path, tree: PyTree, facts: dict[str, Any]) -> None:
    """Saves `tree` under a temporary name, adds the checksums, and renames the folder."""
    check_place(path)
    unfinished = path.with_name(path.name + _UNFINISHED)
    _remove_leftovers(path.parent, of=path.name)
    hosts.barrier()  # so that no other host writes before
    failed = ""
    try:
        _write(unfinished, tree, facts)
        if hosts.is_first():
            try:
                files.seal(unfinished)
                os.rename(unfinished, path)
                files.sync_folder(path.parent)
            except OSError as error:
                failed = str(error)
        if hosts.from_first(bool(failed)):
            raise CheckpointError(f"cannot be written to {path.parent}: {failed or 'first host'}")
    except CheckpointError:
        _remove_leftovers(path.parent, of=path.name)
        raise


def _write(path: Path, tree: PyTree, facts: dict[str, Any], described=None) -> None:
    """Saves `tree`. `described` gives the true shapes if its arrays are placeholders."""
    leaves = flatten(tree, path)
    try:
        facts_json = json.dumps(facts)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: facts must be JSON-serializable: {error}") from error
    metadata = {
        "slava_jax_format": FORMAT_VERSION,
        "arrays": {name: describe(leaf) for name, leaf in (described or leaves).items()},
        "facts": facts_json,
    }
    # Orbax refuses empty arrays and empty trees. The metadata above describes empty arrays fully;
    # the entry "-" replaces an empty tree.
    full = {name: _shared(leaf) for name, leaf in leaves.items() if has_elements(leaf)}
    try:
        with _quiet_orbax():
            orbax.save(path, nest(full) or {"-": np.zeros(1)}, custom_metadata=metadata)
        # Orbax notes the absolute path there, but a folder may be given to others.
        if hosts.is_first() and (path / _NOTE).exists():
            (path / _NOTE).write_text("Checkpoint commit was successful\n")
    except (OSError, ValueError) as error:  # tensorstore reports a full disk as ValueError
        free = shutil.disk_usage(path.parent).free / 2**20
        need = sum(leaf.nbytes for leaf in full.values()) / 2**20
        raise CheckpointError(
            f"cannot be written to {path.parent} ({free:.1f} MiB free, "
            f"up to {need:.1f} MiB needed): {error}"
        ) from error


def _shared(leaf: Any) -> Any:
    """Host-local jax arrays as numpy: Orbax refuses the former in multi-process runs."""
    alone = jax.process_count() > 1 and isinstance(leaf, jax.Array) and leaf.is_fully_addressable
    return np.asarray(leaf) if alone else leaf


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

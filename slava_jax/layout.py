"""What is in a checkpoint's folder besides the arrays: its format, metadata and checksums."""

import sys
from pathlib import Path
from typing import Any

from slava_jax import facts, files, hosts
from slava_jax.leaves import CheckpointError

FORMAT_VERSION = 3
# Format 2 has no checksums. It is still read, because what it holds took hours to train and
# refusing would not make it any safer; that it is unprotected is said each time.
_OLDEST_VERSION = 2

METADATA = "_CHECKPOINT_METADATA"  # Orbax's file, which has ours


def check_place(path: Path) -> None:
    """Raises CheckpointError if arrays cannot be kept at this path, and says why."""
    if problem := files.check_place(path.absolute()):
        raise CheckpointError(problem)


def check_files(path: Path, names: list[str] | None = None) -> None:
    """Compares a folder's files, or only some, with its checksums.

    Raises:
      CheckpointError: there is no folder, a file differs, or the checksums are missing.
    """
    check_place(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        checked = files.check(path, names)
    except files.DamagedError as error:
        raise CheckpointError(str(error)) from error
    if checked:
        return
    version = _read_version(path)
    if version > _OLDEST_VERSION:
        raise CheckpointError(
            f"{path / files.SUMS}: is missing, so damage would not be noticed; restore it from a "
            "copy"
        )
    if names is None and hosts.is_first():
        print(
            f"{path}: written by an older slava_jax, without checksums: damage is not noticed",
            file=sys.stderr,
        )


def read_metadata(path: Path) -> dict[str, Any]:
    """{"slava_jax_format", "arrays": {name: [dtype, shape]}, "facts"}, of a folder of ours."""
    metadata = _custom_metadata(path)
    _read_version(path, metadata)
    try:
        return facts.metadata(metadata)
    except ValueError as error:
        raise CheckpointError(
            f"{path / METADATA}: damaged: {error}; restore it from a copy"
        ) from error


def _custom_metadata(path: Path) -> dict[str, Any]:
    try:
        held = facts.parsed((path / METADATA).read_text(encoding="utf-8"))
        return dict(held["custom_metadata"] or {})
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {error!r}") from error


def _read_version(path: Path, metadata: dict[str, Any] | None = None) -> int:
    """The format of a folder. Raises CheckpointError if it is not one that can be read."""
    metadata = _custom_metadata(path) if metadata is None else metadata
    version = metadata.get("slava_jax_format") if isinstance(metadata, dict) else None
    if not isinstance(version, int):
        raise CheckpointError(f"{path}: not written by slava_jax (it has no format version)")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: written by a newer slava_jax (format {version}, this one reads up to "
            f"{FORMAT_VERSION}): update"
        )
    if version < _OLDEST_VERSION:
        raise CheckpointError(
            f"{path}: written by an older slava_jax (format {version}, this one reads "
            f"{_OLDEST_VERSION} and {FORMAT_VERSION}): read it with that version, or train again"
        )
    return version

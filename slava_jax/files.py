"""Files that are whole or noticed: checksums, atomic writes, a lock.

The checksums of a folder are in a file of the form that `sha256sum` writes and checks:
`cd FOLDER && sha256sum -c slava.sha256`.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from slava_jax.errors import UserError

SUMS = "slava.sha256"
# Bytes of a path that TensorStore, which stores arrays, takes for something else.
_UNUSABLE = ("[", "]", "\\")


class DamagedError(UserError, ValueError):
    """A file differs from what was written; the message names it."""


class UsedError(UserError, RuntimeError):
    """Another process holds the lock."""


def check_place(path: Path) -> str:
    """Why arrays cannot be kept at this absolute path; '' if they can."""
    bad = [letter for letter in _UNUSABLE if letter in str(path)]
    if not bad:
        return ""
    return (
        f"{path}: arrays saved below a path with {' or '.join(bad)} cannot be read again; "
        "use another name"
    )


def below(folder: Path) -> list[str]:
    """The files below a folder, in order, without hidden ones and the list of checksums."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = (path for path in files if not any(part.startswith(".") for part in path.parts))
    return sorted(path.as_posix() for path in shown if path.name != SUMS)


def without_places(value: Any) -> Any:
    """A copy of nested dicts and sequences where absolute paths are only their last name.

    For what may be given to others, who should not learn the names of a user's folders.
    """
    if isinstance(value, dict):
        return {name: without_places(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_places(held) for held in value)
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def seal(folder: Path, names: Iterable[str] | None = None) -> None:
    """Writes the SHA-256 of files into `folder / SUMS`, and syncs all of them to disk.

    Args:
      names: paths relative to the folder; by default all files below it.

    Raises:
      OSError: a file cannot be read or written.
    """
    names = below(folder) if names is None else sorted(names)
    lines = zip(_sums(folder, names), names, strict=True)
    write_text(folder / SUMS, "".join(f"{checksum}  {name}\n" for checksum, name in lines))


def check(folder: Path, names: Iterable[str] | None = None, beside: Path | None = None) -> bool:
    """Compares files with their checksums; returns False if the folder has no checksums.

    Args:
      names: only these, which must be listed; by default all files below the folder, and all that
        are listed. Hidden files, which disks and desktops add, are skipped.
      beside: a folder that was saved with this one: if it has checksums, so must this one.

    Raises:
      DamagedError: a file differs, is missing, or was added; names it.
    """
    if not (folder / SUMS).exists():
        if beside is not None and (beside / SUMS).exists():
            raise DamagedError(
                f"{folder / SUMS}: is missing, so damage would not be noticed; restore it from a "
                "copy"
            )
        return False
    listed = _listed(folder / SUMS)
    names = sorted({*listed, *below(folder)}) if names is None else list(names)
    for name in names:
        if name not in listed:
            raise DamagedError(
                f"{folder / name}: is not listed in {SUMS}: that file is damaged, or this one was "
                "added later; restore that one, or remove this one"
            )
        if not (folder / name).is_file():
            raise DamagedError(f"{folder / name}: is missing, but listed in {SUMS}; restore it")
    try:
        found = _sums(folder, names)
    except OSError as error:
        raise DamagedError(f"{folder}: cannot be read: {error}") from error
    for name, checksum in zip(names, found, strict=True):
        if checksum != listed[name]:
            raise DamagedError(
                f"{folder / name}: damaged: not the bytes that were written (its SHA-256 differs "
                f"from that in {SUMS}); restore it from a copy"
            )
    return True


def _listed(path: Path) -> dict[str, str]:
    """Name -> checksum. Raises DamagedError for a line that is not one of `seal`."""
    try:
        lines = path.read_bytes().decode().split("\n")
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: damaged: {error}") from error
    listed = {}
    if lines.pop():
        raise DamagedError(f"{path}: damaged: is cut off")
    for number, line in enumerate(lines, start=1):
        checksum, _, name = line.partition("  ")
        if len(checksum) != 64 or not name or name in listed or ".." in Path(name).parts:
            raise DamagedError(f"{path}:{number}: damaged: not a checksum and a file")
        listed[name] = checksum
    if not listed:
        raise DamagedError(f"{path}: damaged: is empty")
    return listed


def _sums(folder: Path, names: list[str]) -> list[str]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the interpreter's lock
        return list(pool.map(lambda name: _sum(folder / name), names))


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replaces a file atomically, also if the power fails. Raises OSError."""
    with replaced(path) as file:
        file.write(text.encode())


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Opens a hidden file `.NAME.new` that replaces `path` once the body succeeds.

    It is on disk before. Its name is always the same, so that the next write of the file takes over
    what a killed process left; another process that writes the same file is waited for.

    Raises:
      OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    with _own(temporary) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    sync_folder(path.parent)


def _own(temporary: Path) -> BinaryIO:
    """An empty file that no other process writes to."""
    while True:
        # A link may have been put there that leads out of the folder.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        file = os.fdopen(handle, "wb")
        with contextlib.suppress(OSError):  # network disks may know no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if _is_at(handle, temporary):
            file.truncate(0)
            return file
        file.close()  # another process renamed it while this one waited


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def sync_folder(folder: Path) -> None:
    """Syncs the names in a folder to disk, such as after a rename. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds a lock on a file, which is created, during the body; it ends with the process.

    Yields False if the disk knows no locks, as some network disks.

    Raises:
      UsedError: another process holds it. OSError: the file cannot be created.
    """
    with path.open("a") as file:
        held = True
        try:
            # Of the process, so workers that it started do not keep it when it is killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UsedError(f"{path.parent}: another process is using it") from error
        except OSError:
            held = False
        yield held

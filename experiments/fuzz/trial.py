"""One damaged input: written to a folder, read by the library, compared with another reading."""

import dataclasses
import shutil
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from slava_jax.errors import UserError

LONGEST = 5.0  # seconds of processor time, after which an input counts as a hang
MOST_MEMORY = 512  # MiB that one input may add to the most memory that its process ever had
FAULTS = ("tracebacks", "hangs", "memory", "silent_changes")
Files = dict[str, bytes]  # contents by name, relative to the folder of an input


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
      make: the files of an input, from a generator.
      read: what the library reads from a folder with these files.
      differs: how that differs from what another reading of the files finds; '' if it does not,
        or if there is none.
      full: number of inputs of a whole experiment.
    """

    make: Callable[[np.random.Generator], Files]
    read: Callable[[Path], Any]
    differs: Callable[[Files, Any], str] = lambda files, value: ""
    full: int = 20_000


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an input: 'documented_errors', 'accepted' or one of FAULTS, and details."""

    what: str
    detail: str = ""


def attempt(name: str, kind: Kind, seed: int, place: Path) -> Outcome:
    """Reads one input of a kind.

    Args:
      place: a folder that is emptied.
    """
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    files = kind.make(rng)
    if place.exists():
        shutil.rmtree(place)
    for path, content in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    memory, start = most_memory(), time.process_time()
    outcome = _read(kind, files, place)
    seconds, grown = time.process_time() - start, most_memory() - memory
    if seconds > LONGEST:
        return Outcome("hangs", f"{seconds:.1f} s of processor time")
    return Outcome("memory", f"{grown} MiB") if grown > MOST_MEMORY else outcome


def _read(kind: Kind, files: Files, place: Path) -> Outcome:
    try:
        value = kind.read(place)
    except UserError as error:
        return Outcome("documented_errors", str(error))
    except BaseException as error:  # a panic of Rust code is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        return Outcome("tracebacks", f"{type(error).__name__}: {str(error)[:200]} ({where})")
    difference = kind.differs(files, value)
    return Outcome("silent_changes", difference[:400]) if difference else Outcome("accepted")


def most_memory() -> int:
    """The most memory that this process ever had, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    return 0

"""The work directory of a run: which run owns it, run times, the machine."""

import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from slava_jax import files, hosts
from slava_jax.errors import UserError
from slava_jax.facts import checked, parsed

CONFIG, REPORT = "config.json", "report.html"  # the report is written last
METRICS, PREDICTIONS, LOCK = "metrics.json", "predictions.csv", ".lock"
INPUTS = "inputs.json"  # what the run began with, see inputs.py
_CLOCK = {"wall": float, "parts": dict}  # what its file holds
_ALONE = "start only one run in this directory"
_MAY_CHANGE = ("evaluation.", "image.cache_mb:", "image.states:")  # in an unfinished run
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


class WorkdirError(UserError, RuntimeError):
    """The work directory cannot be used for this run; the message says why."""


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file atomically and syncs it. Raises WorkdirError if it cannot be written."""
    try:
        files.write_text(path, text)
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be written: {error}") from error


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Creates the work directory and keeps other runs out of it during the body.

    Several hosts of one run count as one: the first has the lock.

    Raises:
      WorkdirError: another run uses the directory; its path cannot hold checkpoints; or it cannot
        be created.
    """
    if problem := files.check_place(workdir.absolute()):
        raise WorkdirError(f"--workdir: {problem}")
    with contextlib.ExitStack() as held:
        failed = ""
        if hosts.is_first():
            try:
                workdir.mkdir(parents=True, exist_ok=True)
                if not held.enter_context(files.locked(workdir / LOCK)):
                    print(f"{workdir / LOCK}: this disk has no locks: {_ALONE}", file=sys.stderr)
            except files.UsedError:
                failed = f"{workdir}: another run uses it: wait until it ends, or give another"
                failed += " --workdir"
            except OSError as error:
                failed = f"{workdir}: cannot be created or written to: {error}"
        if hosts.from_first(bool(failed)):
            raise WorkdirError(failed or f"{workdir}: cannot be used; the first host says why")
        yield


def claim(workdir: Path, config: ConfigDict, finished: bool = False) -> bool:
    """Claims the directory for this config, or checks that it owns it; returns whether it was new.

    Until the run is `finished`, the settings of evaluation and image cache may change: an
    evaluation that ran out of memory can be repeated with smaller batches, without training again.

    Raises:
      WorkdirError: it belongs to another config (the error lists the keys that differ), or cannot
        be written to.
    """
    path = workdir / CONFIG
    wanted = json.loads(config.to_json())
    if path.exists():
        try:
            held = parsed(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WorkdirError(f"{path}: not JSON ({error}); delete it or {workdir}") from error
        differences = _differences(held, wanted)
        # The first host decides; the others follow it.
        free = _MAY_CHANGE if hosts.is_first() else ()
        lasting = [line for line in differences if not line.startswith(free)]
        if lasting or (differences and finished):
            do = "give another --workdir, or delete that one"
            if not lasting:
                do += f", or only its {REPORT} to evaluate again with these settings"
            told = "\n  ".join(differences if finished else lasting)
            raise WorkdirError(
                f"{workdir} contains a run with another config; {do}. Different:\n  {told}"
            )
        if differences:
            write_atomically(path, json.dumps(wanted, indent=1, sort_keys=True))
        return False
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"{workdir}: cannot be created: {error}") from error
    write_atomically(path, json.dumps(wanted, indent=1, sort_keys=True))
    return True


def _differences(held, wanted, name="") -> list[str]:
    if isinstance(held, dict) and isinstance(wanted, dict):
        lines = []
        for key in sorted({*held, *wanted}):
            here, there = held.get(key, "(not set)"), wanted.get(key, "(not set)")
            lines += _differences(here, there, f"{name}.{key}" if name else key)
        return lines
    return [] if held == wanted else [f"{name}: {held} there, {wanted} now"]


def run_config(workdir: Path) -> dict:
    """The config of the run in a work directory. Raises WorkdirError if there is none."""
    path = workdir / CONFIG
    try:
        held = parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkdirError(f"{workdir}: not a work directory ({path}: {error})") from error
    needed = ("data", "start_from")
    if not all(isinstance(held.get(name), dict) for name in needed):
        raise WorkdirError(f"{path}: damaged: not the config of a run; restore it from a copy")
    return held


def write_metrics(workdir: Path, metrics: dict[str, float], table: str) -> None:
    """Writes metrics.json and predictions.csv, whose text is `table`, and their checksums."""
    write_atomically(workdir / METRICS, json.dumps(metrics, indent=1, sort_keys=True))
    write_atomically(workdir / PREDICTIONS, table)
    try:
        files.seal(workdir, [METRICS, PREDICTIONS])
    except OSError as error:
        raise WorkdirError(f"{workdir}: cannot be written to: {error}") from error


def finished_metrics(workdir: Path) -> dict[str, float] | None:
    """The metrics of a finished run; None if it is not finished.

    A run whose metrics are damaged is not: they are computed again, which the user is told.
    """
    if not (workdir / REPORT).exists():
        return None
    try:
        if not files.check(workdir, [METRICS]) and (workdir / INPUTS).exists():
            # Runs of older versions have neither.
            raise files.DamagedError(f"{files.SUMS} is missing, so damage would not be noticed")
        return parsed((workdir / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # a DamagedError is a ValueError
        if hosts.is_first():
            print(f"{workdir / METRICS}: {error}\nThe run is evaluated again", file=sys.stderr)
        return None


class Clock:
    """Wall-clock seconds of a run and its parts, summed over interruptions.

    If the run is killed, the time since the start of the current part is lost.
    """

    def __init__(self, path: Path, started: float):
        """`started`: `time.monotonic()` when this process began, before libraries were loaded."""
        self._path, self._started = path, started
        try:
            held = checked(parsed(path.read_text(encoding="utf-8")), _CLOCK)
            self._before, parts = float(held["wall"]), held["parts"]
            parts = checked(parts, dict.fromkeys(parts, float), "parts")
            self._parts = {name: float(seconds) for name, seconds in parts.items()}
        except FileNotFoundError:
            self._before, self._parts = 0.0, {}
        except (OSError, ValueError):
            # Not worth stopping a run for.
            print(f"{path}: damaged: the run's time is counted from now", file=sys.stderr)
            self._before, self._parts = 0.0, {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times the body as part `name`."""
        start = time.monotonic()
        yield
        self._parts[name] = self._parts.get(name, 0.0) + time.monotonic() - start
        if hosts.is_first():
            write_atomically(self._path, json.dumps({"wall": self._wall(), "parts": self._parts}))

    def metrics(self) -> dict[str, float]:
        """`run.wall_seconds` up to now, and `run.seconds.<part>`."""
        parts = {f"run.seconds.{name}": value for name, value in self._parts.items()}
        return {"run.wall_seconds": self._wall(), **parts}

    def _wall(self) -> float:
        return self._before + time.monotonic() - self._started


def machine_metrics() -> dict[str, float]:
    """Peak memory of this process, and a reference matmul rate for comparing machines.

    Returns:
      `run.peak_memory_gib`; `run.matmul_gflops`, the fastest of ten products of float32 1024 x 1024
      matrices.
    """
    size = 1024
    matrix = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.dot)
    product(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"run.peak_memory_gib": peak, "run.matmul_gflops": 2 * size**3 / best / 1e9}


def environment() -> dict[str, object]:
    """Hardware and package versions, without anything that identifies the machine."""
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # benchmarks need only some of them


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

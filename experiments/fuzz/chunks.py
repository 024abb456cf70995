"""Reads damaged inputs in processes of their own, so that one that ends or hangs is counted."""

import logging
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from experiments.fuzz.kinds import KINDS
from experiments.fuzz.trial import attempt, most_memory

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a folder without a disk
_STUCK = 60  # seconds for one input, after which its process is ended
_START = 600  # seconds until a process is ready
_WARM = 50  # inputs of a process before its memory is measured: the first load libraries


def outcomes(name: str, seeds: range) -> Iterator[tuple[int, str, str, int]]:
    """(seed, what, detail, growth of memory in MiB) of inputs of a kind.

    Raises:
      RuntimeError: a process does not start.
    """
    spawn = multiprocessing.get_context("spawn")
    while seeds:
        pipe, end = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_read, args=(name, seeds, end))
        process.start()
        end.close()
        ready, problem = False, ("hangs", f"no end after {_STUCK} s")
        try:
            ready = pipe.poll(_START) and pipe.recv()
            while ready and seeds and pipe.poll(_STUCK):
                yield pipe.recv()
                seeds = seeds[1:]
        except EOFError:
            process.join()
            problem = ("tracebacks", f"the process ended with {process.exitcode}")
        if seeds:
            process.kill()
        process.join()
        if not ready:
            raise RuntimeError(f"{name}: the process that reads inputs does not start")
        if seeds:
            yield seeds[0], *problem, 0
            seeds = seeds[1:]


def _read(name: str, seeds: range, pipe) -> None:
    """Sends True, then every outcome."""
    # Orbax's tasks report there what the caller is told by an exception.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        pipe.send(True)
        base = 0
        for number, seed in enumerate(seeds):
            outcome = attempt(name, KINDS[name], seed, Path(place) / "input")
            base = most_memory() if number <= _WARM else base
            pipe.send((seed, outcome.what, outcome.detail, most_memory() - base))

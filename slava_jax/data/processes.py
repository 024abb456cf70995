"""Maps a function over many jobs in several processes; light to import, as every worker does it."""

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def map_in_processes(function: Callable, jobs: Sequence, workers: int) -> Iterator[Any]:
    """Yields `function` of every job in order; runs in this process if workers is 1."""
    if workers == 1:
        yield from map(function, jobs)
        return
    # Forking after JAX has started its threads can deadlock; spawning cannot.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _end_with_parent) as pool:
        yield from pool.map(function, jobs, chunksize=8)


def _end_with_parent() -> None:
    """Ends this worker when its parent exits, even if the parent was killed."""
    parent = multiprocessing.parent_process()

    def wait():
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

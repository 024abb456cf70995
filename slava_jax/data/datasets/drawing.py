"""Draws procedural micrographs in several processes; light to import, as each of them does it."""

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence

from slava_jax.data.images import encode_png
from slava_jax.data.micrographs import draw


def draw_png(job: tuple[str, int, int]) -> tuple[bytes, str]:
    """(category, seed, size) -> the picture as PNG and its record as JSON."""
    micrograph = draw(*job)
    return encode_png(micrograph.image), micrograph.truth.to_json()


def draw_all(jobs: Sequence[tuple[str, int, int]], workers: int) -> Iterator[tuple[bytes, str]]:
    """`draw_png` of every job, in order; in this process where workers is 1."""
    if workers == 1:
        yield from map(draw_png, jobs)
        return
    # Forking a process in which JAX has started its threads can deadlock; spawning cannot.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _end_with_parent) as pool:
        yield from pool.map(draw_png, jobs, chunksize=8)


def _end_with_parent() -> None:
    """Ends this worker when its parent is gone, which a killed parent cannot ask for."""
    parent = multiprocessing.parent_process()

    def wait():
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

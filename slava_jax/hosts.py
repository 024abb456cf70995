"""Coordinates several hosts (processes of `jax.distributed`) of one run in one work directory.

All of them run the same program; with a single host these functions do nothing.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from slava_jax.errors import UserError

_LONGEST = 7 * 24 * 3600 * 1000  # ms; if a host dies, JAX ends the others long before
_meetings = itertools.count()


class HostsError(UserError, RuntimeError):
    """The hosts cannot find each other; the message names the settings to fix."""


def join() -> None:
    """Connects this process to the others. Must be called before JAX is used.

    The addresses come from a cluster manager that JAX supports, or from the environment: JAX itself
    reads JAX_COORDINATOR_ADDRESS, the other two variables are read here.

    Raises:
      HostsError: the addresses are missing, or the others do not answer.
    """
    numbers = {}
    for argument, name in (("num_processes", "NUM_PROCESSES"), ("process_id", "PROCESS_ID")):
        text = os.environ.get(f"JAX_{name}")
        if text is not None:
            if not text.isdecimal():
                raise HostsError(f"JAX_{name}: must be a whole number, is {text!r}")
            numbers[argument] = int(text)
    try:
        jax.distributed.initialize(**numbers)
    except ValueError as error:
        raise HostsError(
            f"--distributed: found no supported cluster manager and no full address ({error}); "
            "set JAX_COORDINATOR_ADDRESS=HOST:PORT (of the first host) and JAX_NUM_PROCESSES=N, "
            "the same on all hosts, and JAX_PROCESS_ID=0 to N-1"
        ) from error
    except RuntimeError as error:
        address = os.environ.get("JAX_COORDINATOR_ADDRESS", "that of the cluster manager")
        raise HostsError(
            f"--distributed: the hosts cannot connect at {address} ({error}); its port must be "
            "free on the first host and open to the others"
        ) from error
    _connect()


def _connect() -> None:
    """Runs one collective of each kind before any long work.

    On CPUs the first collective times out after 30 s, later ones never do, and compiling a large
    model may take one host longer than that.
    """
    barrier()
    add = jax.pmap(lambda a: jax.lax.psum(a, "devices"), axis_name="devices")
    jax.block_until_ready(add(np.ones(jax.local_device_count())))
    from_first(0)


def is_first() -> bool:
    """Whether this is the first host, which writes the shared files."""
    return jax.process_index() == 0


def barrier() -> None:
    """Returns once all hosts have called it."""
    # Not a device collective, because these time out within seconds on some devices.
    multihost.get_barrier_sync_fn()(key=f"slava{next(_meetings)}", timeout_ms=_LONGEST)


@contextmanager
def first_before_others() -> Iterator[None]:
    """Runs the body on the first host, then on the others, which find its files.

    If it raises on the first host, the others run it too and raise the same error.
    """
    if not is_first():
        barrier()
    try:
        yield
    finally:
        if is_first():
            barrier()
        barrier()


def from_first(numbers: Any) -> Any:
    """Broadcasts the first host's numbers (a pytree), so that all hosts decide the same.

    Hosts may round a loss differently, or see files on a network disk later.
    """
    if jax.process_count() == 1:
        return numbers
    return jax.tree.map(lambda a: a.item(), multihost_utils.broadcast_one_to_all(numbers))

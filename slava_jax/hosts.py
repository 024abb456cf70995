"""Several hosts (processes of `jax.distributed`) that make one run in one work directory.

All of them run the same program; with one host nothing here does anything.
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

_LONGEST = 7 * 24 * 3600 * 1000  # ms; a host that dies ends the others long before
_meetings = itertools.count()


class HostsError(UserError, RuntimeError):
    """The hosts cannot find each other; the message says what to set."""


def join() -> None:
    """Makes this process one of several, before JAX is used.

    A cluster manager that JAX knows says where the others are. Without one, the environment does:
    JAX itself reads JAX_COORDINATOR_ADDRESS, and the other two are read here.

    Raises:
      HostsError: neither says it, or the others are not found there.
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
            f"--distributed: no cluster manager that JAX knows, and no whole address ({error}); "
            "set JAX_COORDINATOR_ADDRESS=HOST:PORT (of the first host) and JAX_NUM_PROCESSES=N, "
            "the same on all hosts, and JAX_PROCESS_ID=0 to N-1"
        ) from error
    except RuntimeError as error:
        address = os.environ.get("JAX_COORDINATOR_ADDRESS", "that of the cluster manager")
        raise HostsError(
            f"--distributed: the hosts do not meet at {address} ({error}); its port must be free "
            "on the first host and open to the others"
        ) from error
    _connect()


def _connect() -> None:
    """The first collectives of each kind, while no host has anything else to do.

    On CPUs a host waits 30 s for the others the first time, and ever after as long as it takes:
    compiling the step of a large model may take one of them longer than that.
    """
    meet()
    add = jax.pmap(lambda a: jax.lax.psum(a, "devices"), axis_name="devices")
    jax.block_until_ready(add(np.ones(jax.local_device_count())))
    as_first(0)


def is_first() -> bool:
    """Whether this is the host that writes what is written once."""
    return jax.process_index() == 0


def meet() -> None:
    """Returns when all hosts have called it as often."""
    # Not by a collective of the devices, whose patience is seconds on some of them.
    multihost.get_barrier_sync_fn()(key=f"slava{next(_meetings)}", timeout_ms=_LONGEST)


@contextmanager
def first_before_others() -> Iterator[None]:
    """The body runs on the first host, then on the others, which find what it made.

    Where it raises on the first host, the others come to the same error.
    """
    if not is_first():
        meet()
    try:
        yield
    finally:
        if is_first():
            meet()
        meet()


def as_first(numbers: Any) -> Any:
    """The first host's of a number or a tree of them, for what all must decide alike.

    Another may round a loss otherwise, or see what is on a network disk later.
    """
    if jax.process_count() == 1:
        return numbers
    return jax.tree.map(lambda a: a.item(), multihost_utils.broadcast_one_to_all(numbers))

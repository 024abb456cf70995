"""The memory of a program: in large pages, and given back behind a compilation. On Linux."""

import ctypes
import os
import sys

_VARIABLE = "GLIBC_TUNABLES"
_COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's event for it
_LONG = 1.0  # seconds; a shorter compilation leaves little behind


def use_large_pages() -> None:
    """Starts this program again, once, with memory in pages of 2 MiB; before it does anything.

    XLA takes the working memory of a step on CPU from the C library and gives it back behind it. In
    pages of 4 KiB that is a hundred thousand of them to map and clear in every step, a fifth of its
    time. glibc reads the setting before anything of ours runs, hence the new start. Where
    GLIBC_TUNABLES is set already there is none; another C library ignores the setting.
    """
    if sys.platform == "linux" and _VARIABLE not in os.environ:
        os.environ[_VARIABLE] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def trim_after_compiling() -> None:
    """From now on what a long compilation has left free goes back to the system at its end.

    The compiler frees hundreds of MB, which glibc keeps in pieces that no array of a step fits
    into: the step's memory would come on top of them. Another C library has no such call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return
    import jax.monitoring  # not above: a program loads this module before it starts again

    def after(event: str, seconds: float, **_) -> None:
        if event == _COMPILED and seconds > _LONG:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(after)

"""Memory settings on Linux: large pages, and returning memory after compilations."""

import ctypes
import os
import sys

_VARIABLE = "GLIBC_TUNABLES"
_COMPILED = "/jax/core/compile/backend_compile_duration"  # name of JAX's event
_LONG = 1.0  # seconds; shorter compilations leave little memory behind


def use_large_pages() -> None:
    """Restarts this program once with memory in pages of 2 MiB; call it first.

    On CPU, XLA allocates the working memory of every step from the C library and frees it
    afterwards. With 4 KiB pages that means mapping and clearing a hundred thousand pages per step,
    a fifth of its time. glibc reads the setting at process start, hence the restart. Does nothing
    if GLIBC_TUNABLES is set already; other C libraries ignore the setting.
    """
    if sys.platform == "linux" and _VARIABLE not in os.environ:
        os.environ[_VARIABLE] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def trim_after_compiling() -> None:
    """Makes the process return free memory to the system after every long compilation.

    The compiler frees hundreds of MB, which glibc keeps in pieces too small for the arrays of a
    step, so the step's memory would come on top. Other C libraries have no such call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return
    import jax.monitoring  # not at the top: this module is loaded before the restart

    def after(event: str, seconds: float, **_) -> None:
        if event == _COMPILED and seconds > _LONG:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(after)

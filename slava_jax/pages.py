"""The memory of a program in large pages, where Linux has them for the asking."""

import os
import sys

_VARIABLE = "GLIBC_TUNABLES"


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

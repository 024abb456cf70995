"""The base class of errors that users can correct, and how commands report them.

Also the lower-bound check that all modules share.
"""

import contextlib
import errno
import sys
from collections.abc import Iterator, Mapping

# Errors of the disk, not of this program. Files written before are kept.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}


class UserError(Exception):
    """An error that the user can correct: the message names the file, line or key, and the fix.

    Commands print it as one line without a traceback (`reported`). A subclass keeps a built-in base
    if callers may catch that: `class DataError(UserError, ValueError)`.
    """


@contextlib.contextmanager
def reported(resume: str | None = None) -> Iterator[None]:
    """Ends the program with `error: ...` on a UserError or an OSError; other errors pass.

    Args:
      resume: how to resume a long run, printed after a disk error. Any other OSError in such a run
        is a bug and keeps its traceback. Without it, every OSError is reported in one line.
    """
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if resume is None:
            sys.exit(f"error: {error}")
        if error.errno not in _DISK_ERRORS:
            raise
        sys.exit(f"error: {error}\n{resume}")


def too_small(settings: Mapping, least: int, *names: str) -> Iterator[str]:
    """Problems with settings that must be `least` or more."""
    for name in names:
        if settings[name] < least:
            yield f"{name}: must be {least} or more, is {settings[name]}"

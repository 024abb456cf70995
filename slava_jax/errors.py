"""The base of every error whose message is all that its reader needs, and how a command ends.

And the one bound that every room sets on its settings.
"""

import contextlib
import errno
import sys
from collections.abc import Iterator, Mapping

# Of the disk and not of this program; what was written before stays.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}


class UserError(Exception):
    """What the user can correct: the message names the file, line or key, and what to do.

    Commands print it as one line without a traceback (`reported`). An error class keeps its other
    base where a caller may know it as that: `class DataError(UserError, ValueError)`.
    """


@contextlib.contextmanager
def reported(resume: str | None = None) -> Iterator[None]:
    """Ends the program with `error: ...` on a UserError or an OSError; all else passes.

    Args:
      resume: how a long run goes on, said behind an error of the disk. Any other OSError in such a
        run is a fault of ours and keeps its traceback; a short command names the file it was given.
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
    """What is wrong with settings that must be `least` or more."""
    for name in names:
        if settings[name] < least:
            yield f"{name}: must be {least} or more, is {settings[name]}"

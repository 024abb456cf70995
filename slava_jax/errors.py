"""The base class of errors that users can correct, and how commands report them.

Also the lower-bound check that all modules share.
"""

import contextlib
import errno
import re
import sys
from collections.abc import Iterator, Mapping

# Errors of the disk, not of this program. Files written before are kept.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}

# Characters that change what a terminal shows: control characters except tab and newline, marks
# that reorder text, line separators, and halves of characters, which cannot be printed at all.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_LONGEST = 800  # characters of a line of a message
_MOST = 4800  # characters of all lines; those of a longer message are shortened evenly
_MOST_LINES = 40


class UserError(Exception):
    """An error that the user can correct: the message names the file, line or key, and the fix.

    Commands print it as one line without a traceback (`reported`). A subclass keeps a built-in base
    if callers may catch that: `class DataError(UserError, ValueError)`.

    The message may quote names and values of any length from files: as text it is `brief` and
    `printable`.
    """

    def __str__(self) -> str:
        return brief(printable(super().__str__()))


def printable(text: str) -> str:
    """Returns a text with `UNSAFE` characters as \\x1b or \\u202e, so that it can be shown."""
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def brief(text: str) -> str:
    """Cuts out the middle of long lines, and of more than 40 lines those before the last.

    A message begins with the place and ends with what to do, so both are kept.
    """
    lines = text.split("\n")
    if len(lines) > _MOST_LINES:
        left_out = f"... and {len(lines) - _MOST_LINES + 1} more lines"
        lines = [*lines[: _MOST_LINES - 2], left_out, lines[-1]]
    too_much = sum(min(len(line), _LONGEST) for line in lines) > _MOST
    half = (_MOST // len(lines) if too_much else _LONGEST) // 2
    return "\n".join(
        line if len(line) <= 2 * half else f"{line[: half - 3]} ... {line[2 - half :]}"
        for line in lines
    )


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
        if resume is not None and error.errno not in _DISK_ERRORS:
            raise
        told = f"error: {brief(printable(str(error)))}"
        sys.exit(told if resume is None else f"{told}\n{resume}")


def too_small(settings: Mapping, least: int, *names: str) -> Iterator[str]:
    """Problems with settings that must be `least` or more."""
    for name in names:
        if settings[name] < least:
            yield f"{name}: must be {least} or more, is {settings[name]}"

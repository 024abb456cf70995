"""Trains, evaluates and reports: slava train --config configs/X.py --workdir DIR."""

import difflib
import re
import sys
import time
import traceback
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from slava_jax.pages import trim_after_compiling, use_large_pages

_STARTED = time.monotonic()  # before loading jax, which takes seconds

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Config file; see configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for all files of the run.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Run as one process of several hosts; see docs/scale.md."
)


def main(_) -> None:
    """Entry point."""
    # Imported here so that --help and wrong flags answer at once.
    from slava_jax import hosts
    from slava_jax.errors import reported
    from slava_jax.train.loop import run

    logging.set_verbosity(logging.WARNING)  # Orbax logs a lot at INFO.
    again = f"The same command resumes the run once {_WORKDIR.value} is writable"
    with reported(resume=again):
        if _DISTRIBUTED.value:
            hosts.join()
        trim_after_compiling()
        run(_CONFIG.value, _WORKDIR.value, _STARTED)


def parse_flags(arguments: list[str]) -> list[str]:
    """Parses flags with absl, but reports a missing key or file in one line, not a traceback."""
    if {"-h", "--help"} & set(arguments[1:]):
        app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)  # absl would exit with 1
    check_files(arguments)
    try:
        rest = app.parse_flags_with_usage(arguments)
        _ = _CONFIG.value.is_locked  # a missing config file raises only on access
    except (AttributeError, KeyError, TypeError, OSError) as error:
        sys.exit(f"error: {_where(error)}: {_text(error)}")
    return rest


def check_files(arguments: list[str]) -> None:
    """Ends with a clear error for a missing --config or --workdir, or a config file that is not."""
    given = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name in ("config", "workdir"):
            given[name] = value if equals else following
    for name, what in (("config", "a file of configs/"), ("workdir", "a folder for the run")):
        if not given.get(name):
            sys.exit(f"error: --{name} is missing: give {what}")
    path = Path(given["config"].partition(":")[0])  # arguments of get_config follow a colon
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], 1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        sys.exit(f"error: {path}: there is no such config file{hint}")


def _text(error: Exception) -> str:
    """The message that ml_collections wraps into other errors, quotes and a list of all keys."""
    if isinstance(error, OSError):
        return " ".join(str(error).split())
    while isinstance(error.args[0], Exception):
        error = error.args[0]
    first, *rest = str(error.args[0]).splitlines()
    text = re.sub(r'^Key "(\w+)" does not exist and cannot be added.*', r"'\1'", first)
    hint = "".join(f" ({line})" for line in rest)
    return f"no setting {text}{hint}" if isinstance(error, KeyError) else text + hint


def _where(error: Exception) -> str:
    """The line of the config file that raised, else "--config"."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and f.filename != __file__]
    own = [f for f in own if not f.filename.startswith("<frozen")]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else "--config"


if __name__ == "__main__":
    use_large_pages()
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)

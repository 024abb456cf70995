"""The program `slava`: runs a command and loads only its module."""

import difflib
import os
import runpy
import sys

# Name: (module, run as with `python -m`; what it does).
COMMANDS = {
    "train": ("slava_jax.main", "train, evaluate and report according to a config"),
    "ask": ("slava_jax.commands.ask", "ask an assistant about images"),
    "convert": ("slava_jax.commands.convert", "import and export weights of other libraries"),
    "teach": ("slava_jax.commands.teach", "let a large model write instructions about images"),
    "reformat": ("slava_jax.commands.reformat", "import and export instructions of other tools"),
    "wordnet": ("slava_jax.commands.wordnet", "install WordNet, which METEOR needs"),
}


def main() -> None:
    """Entry point. Exits with status 2 if the command is missing or unknown."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        print(refusal(name), file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = arguments
    # Configs import each other as configs.X from the current folder. It comes last, so that no file
    # there hides a module.
    sys.path.append(os.getcwd())
    # As __main__, because absl's --help shows the flags of that module, and subprocesses of a
    # command load it again by its name.
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)


def usage() -> str:
    """The text of `slava --help`, with a line for each command."""
    lines = (f"  {name:10}{what}" for name, (_, what) in COMMANDS.items())
    return "\n".join(
        ("usage: slava COMMAND ...", "", *lines, "", "slava COMMAND --help lists its options.")
    )


def refusal(name: str) -> str:
    """The error message for the unknown command `name`."""
    if not name:
        return usage()
    close = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; use one of {', '.join(COMMANDS)}"
    return f"error: unknown command {name!r}{hint}"

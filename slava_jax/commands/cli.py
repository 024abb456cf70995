"""The program `slava`: finds the command, and loads nothing but that."""

import difflib
import os
import runpy
import sys

# Name: the module that runs as if by `python -m`, and what it does.
COMMANDS = {
    "train": ("slava_jax.main", "train, evaluate and report, as a config says"),
    "ask": ("slava_jax.commands.ask", "ask an assistant about images"),
    "convert": ("slava_jax.commands.convert", "other libraries' weights in, and ours out"),
    "teach": ("slava_jax.commands.teach", "let a large model write instructions about images"),
    "reformat": ("slava_jax.commands.reformat", "other tools' instructions in, and ours out"),
    "wordnet": ("slava_jax.commands.wordnet", "install WordNet, which METEOR needs"),
}


def main() -> None:
    """Entry point; the status is 2 where no command, or one that there is not, was given."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        print(refusal(name), file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = arguments
    # A config imports others as configs.X from the folder that the command is given in. As the last
    # place, so that no file there hides a module.
    sys.path.append(os.getcwd())
    # As __main__: absl's --help shows the flags of that module, and processes that a command starts
    # load it again by its name.
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)


def usage() -> str:
    """What `slava --help` prints: a line for each command."""
    lines = (f"  {name:10}{what}" for name, (_, what) in COMMANDS.items())
    return "\n".join(
        ("usage: slava COMMAND ...", "", *lines, "", "slava COMMAND --help shows what it takes.")
    )


def refusal(name: str) -> str:
    """What is said where `name` is no command."""
    if not name:
        return usage()
    close = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(COMMANDS)}"
    return f"error: no command {name!r}{hint}"

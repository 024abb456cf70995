"""Installs WordNet 3.0 for METEOR, without root access: slava wordnet [--check [DIR]]."""

import argparse

from slava_jax.errors import reported
from slava_jax.eval.wordnet import check, install


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Reports what was installed on stdout."""
    asked = parser().parse_args(arguments)
    with reported():
        if asked.check is None:
            print(install())
        else:
            check(asked.check or None)


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    options = argparse.ArgumentParser("slava wordnet", description=__doc__.split(":")[0])
    options.add_argument(
        "--check", nargs="?", const="", metavar="DIR",
        help="only check the installed WordNet (or that in the NLTK data folder DIR)",
    )  # fmt: skip
    return options


if __name__ == "__main__":
    main()

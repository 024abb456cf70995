"""Prints the lines of constraints.txt, hashes included, that some extras need.

    python tools/locked.py test docs > locked.txt && pip install --require-hashes -r locked.txt

`package` stands for what the package itself needs; other names are packages, printed alone. pip
takes hashes only from a requirements file in which every package is pinned; all of constraints.txt
would install every extra. Which package needs which is in the comments that uv writes. Needs the
standard library only, because it runs before anything is installed.
"""

import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def normal(requirement: str) -> str:
    """The name of a requirement, as constraints.txt spells it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>!~; ]", requirement)[0]).lower()


def blocks(text: str) -> list[tuple[str, str, set[str]]]:
    """(name, text, names of the packages that need it) of every pin."""
    found = []
    for block in re.findall(r"^\S.*\n(?:[ \t].*\n)*", text, re.M):
        needed_by = re.findall(r"^ +# +(?:via +)?(?!via$)(\S+)", block, re.M)
        found.append((normal(block), block, {normal(name) for name in needed_by}))
    return found


def select(text: str, wanted: list[str], extras: dict[str, list[str]]) -> str:
    """The pins that `wanted` names of extras need, and those of other names.

    Args:
      text: of constraints.txt. extras: requirements by extra.

    Raises:
      KeyError: constraints.txt lacks a package.
    """
    pins = blocks(text)
    names = [normal(r) for name in wanted if name in extras for r in extras[name]]
    alone = [normal(name) for name in wanted if name not in extras]
    missing = {*names, *alone} - {name for name, _, _ in pins}
    if missing:
        raise KeyError(f"not in constraints.txt: {', '.join(sorted(missing))}; run make lock")
    needed, before = set(names), set()
    while needed != before:
        before = set(needed)
        needed |= {name for name, _, needed_by in pins if needed_by & needed}
    return "".join(block for name, block, _ in pins if name in needed or name in alone)


def main() -> None:
    """Prints what the arguments select."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = {name: text.split() for name, text in setup["options.extras_require"].items()}
    extras["package"] = setup["options"]["install_requires"].split()
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    try:
        print(select(text, sys.argv[1:], extras), end="")
    except KeyError as error:
        sys.exit(f"error: {error.args[0]}")


if __name__ == "__main__":
    main()

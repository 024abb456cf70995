"""docs/extending.md: the worked example runs when applied to a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The only fenced block of a language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)
    return text


def run(*command: str, cwd: Path, text: str | None = None, **variables: str) -> None:
    """Runs a command in a folder; its output is the error if it fails."""
    done = subprocess.run(
        command, cwd=cwd, input=text, env=os.environ | variables, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_worked_example_does_what_it_says(tmp_path):
    leave_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "slava_jax", tmp_path / "slava_jax", ignore=leave_out)
    # Git must not look for a repository above: it would ignore files outside of that.
    run(
        "git",
        "apply",
        "-",
        cwd=tmp_path,
        text=block("diff"),
        GIT_CEILING_DIRECTORIES=str(tmp_path.parent),
    )
    (tmp_path / "test_connectors.py").write_text(block("python"))
    path = os.pathsep.join(map(str, (tmp_path, ROOT / "tests", ROOT)))
    pytest = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    run(*pytest, "test_connectors.py", cwd=tmp_path, PYTHONPATH=path)


def test_it_is_short_enough_to_be_read():
    assert len(PAGE.splitlines()) <= 120

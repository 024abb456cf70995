"""One JSON file for the results of an experiment, extended after each measurement."""

import json
from pathlib import Path
from typing import Any

from slava_jax.train.workdir import write_atomically


def read(path: Path) -> dict[str, Any]:
    """The results so far by name of the measurement; {} before the first."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def add(path: Path, name: str, result: Any) -> None:
    """Adds one measurement; replaces the file atomically."""
    held = read(path) | {name: result}
    write_atomically(path, json.dumps(dict(sorted(held.items())), indent=1) + "\n")

"""One JSON file for the results of an experiment, extended after each measurement."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from slava_jax.train.workdir import write_atomically


def read(path: Path) -> dict[str, Any]:
    """The results so far by name of the measurement; {} before the first."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def settings_of(config: ConfigDict) -> str:
    """A hash of every setting of a run."""
    return hashlib.sha256(config.to_json(sort_keys=True).encode()).hexdigest()[:16]


def measured(path: Path, name: str, settings: str) -> bool:
    """Whether a measurement is there. Exits where it is one of other settings."""
    held = read(path).get(name)
    if held is not None and held["settings"] != settings:
        sys.exit(
            f"error: {path}: {name!r} was measured with another config; delete it to repeat it"
        )
    return held is not None


def add(path: Path, name: str, result: Any) -> None:
    """Adds one measurement; replaces the file atomically."""
    held = read(path) | {name: result}
    write_atomically(path, json.dumps(dict(sorted(held.items())), indent=1) + "\n")

"""sLAVA and LLaVA in JAX: small vision-language assistants for electron micrographs.

    import slava_jax

    assistant = slava_jax.load_assistant("runs/quickstart")
    assistant.ask("IMAGE.png", "What does this micrograph show?")

docs/api.md shows every name in use.
"""

import importlib
import os
from typing import Any

# transformers announces at import that it found no torch, which this library does not need.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

# Loaded on first use: a command that only prints its help must not wait for JAX.
_PUBLIC = {
    "Assistant": ("inference.assistant", "Assistant"),
    "UserError": ("errors", "UserError"),
    "convert_weights": ("convert.reading", "convert_weights"),
    "default_config": ("config", "default_config"),
    "load_assistant": ("inference.assistant", "load_assistant"),
    "train_assistant": ("train.loop", "run"),
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'slava_jax' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(f"slava_jax.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})

"""Checked access to JSON files and to their values, which may come from anywhere.

Every function but `read_json` raises KeyError if a key without a default is missing, and
ValueError, naming the key, if the value is invalid.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slava_jax.convert.rules import ConvertError
from slava_jax.data.strict_json import parsed
from slava_jax.facts import LARGEST, shown

_HUGE = 1e30  # larger values and NaN are rejected
_FEW, _FEW_LAYERS = 2**17, 1024  # sizes that are built in a moment
# Sizes that are also a dimension of some tensor, or divide one.
_DIMENSIONS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "head_dim", "patch_size", "num_channels",
)  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises ConvertError if the file is missing or is not one."""
    try:
        value = parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConvertError(f"{path}: does not exist; download it with the weights") from error
    except (OSError, ValueError) as error:
        raise ConvertError(
            f"{path}: cannot be read as JSON ({error}); download it again"
        ) from error
    if not isinstance(value, dict):
        raise ConvertError(f"{path}: is not a JSON object; download it again")
    return value


def check_sizes(
    settings: dict[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    layers: str = "num_hidden_layers",
    dimensions: Sequence[str] = _DIMENSIONS,
) -> None:
    """Compares the sizes in a config with the tensors of its file.

    Comes before tables and vocabularies of these sizes are built: a wrong size may be too large
    for any memory. Smaller sizes pass, because `rules.plan` compares tensor by tensor afterwards.

    Args:
      shapes: of all tensors; empty ones are ignored, because their dimensions take no bytes.
      layers, dimensions: the keys to check, by default those of transformers' config.json.
    """
    full = [shape for shape in shapes.values() if math.prod(shape)]
    most = max((max(shape, default=1) for shape in full), default=1)
    limits = {key: (most, _FEW, "any dimension of a tensor") for key in dimensions}
    limits[layers] = (len(full), _FEW_LAYERS, "the number of tensors")
    for key, (found, harmless, of) in limits.items():
        value = settings.get(key)
        if type(value) is int and value > max(found, harmless):
            raise ValueError(
                f"{key}: is {shown(value)}, more than {of} ({found}); config and weights do not "
                "belong together, or are damaged"
            )


def whole(settings: dict[str, Any], key: str, *default: int) -> int:
    """An integer of 1 or more, below 2**31."""
    value = _value(settings, key, default)
    if type(value) is not int or not 1 <= value <= LARGEST:
        raise ValueError(f"{key}: must be an integer of 1 or more, is {shown(value)}")
    return value


def positive(settings: dict[str, Any], key: str, *default: float) -> float:
    """A number above 0."""
    value = _value(settings, key, default)
    if not _is_number(value) or value <= 0:
        raise ValueError(f"{key}: must be a number above 0, is {shown(value)}")
    return float(value)


def epsilon(settings: dict[str, Any], key: str, *default: float) -> float:
    """A number above 0 and below 1: the epsilon of a norm, which no other one can be."""
    value = positive(settings, key, *default)
    if value >= 1:
        raise ValueError(f"{key}: must be below 1, as the epsilon of a norm is, is {shown(value)}")
    return value


def numbers(settings: dict[str, Any], key: str) -> tuple[float, ...]:
    """A list of numbers, one per channel."""
    value = settings[key]
    if not isinstance(value, list | tuple) or not value or not all(map(_is_number, value)):
        raise ValueError(f"{key}: must be a list of numbers, one per channel, is {shown(value)}")
    return tuple(float(number) for number in value)


def flag(settings: dict[str, Any], key: str, default: bool) -> bool:
    """true or false; null is the default."""
    value = settings.get(key)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{key}: must be true or false, is {shown(value)}")
    return default if value is None else value


def mapping(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """A JSON object; empty if missing or null."""
    value = settings.get(key)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{key}: must be a JSON object, is {shown(value)}")
    return value or {}


def _value(settings: dict[str, Any], key: str, default: tuple) -> Any:
    return settings.get(key, default[0]) if default else settings[key]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _HUGE

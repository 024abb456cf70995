"""Checked access to values of a JSON config, which may come from anywhere.

Every function raises KeyError if a key without a default is missing, and ValueError, naming the
key, if the value is invalid.
"""

from typing import Any

_HUGE = 1e30  # larger values and NaN are rejected


def whole(settings: dict[str, Any], key: str, *default: int) -> int:
    """An integer of 1 or more."""
    value = _value(settings, key, default)
    if type(value) is not int or not 1 <= value < _HUGE:
        raise ValueError(f"{key}: must be an integer of 1 or more, is {value!r}")
    return value


def positive(settings: dict[str, Any], key: str, *default: float) -> float:
    """A number above 0."""
    value = _value(settings, key, default)
    if not _is_number(value) or value <= 0:
        raise ValueError(f"{key}: must be a number above 0, is {value!r}")
    return float(value)


def numbers(settings: dict[str, Any], key: str) -> tuple[float, ...]:
    """A list of numbers, one per channel."""
    value = settings[key]
    if not isinstance(value, list | tuple) or not value or not all(map(_is_number, value)):
        raise ValueError(f"{key}: must be a list of numbers, one per channel, is {value!r}")
    return tuple(float(number) for number in value)


def flag(settings: dict[str, Any], key: str, default: bool) -> bool:
    """true or false; null is the default."""
    value = settings.get(key)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{key}: must be true or false, is {value!r}")
    return default if value is None else value


def mapping(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """A JSON object; empty if missing or null."""
    value = settings.get(key)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{key}: must be a JSON object, is {value!r}")
    return value or {}


def _value(settings: dict[str, Any], key: str, default: tuple) -> Any:
    return settings.get(key, default[0]) if default else settings[key]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _HUGE

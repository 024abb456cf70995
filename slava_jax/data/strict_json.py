"""Parses JSON from other programs, and refuses what Python's parser would silently change."""

import json
import math
from collections.abc import Iterator
from typing import Any

from slava_jax.facts import unique

_DEEPEST = 100  # levels of nesting; far below those at which Python gives up reading or writing
_SPACE = " \t\r\n"


def parsed(text: str) -> Any:
    """Returns the value of a JSON text; see `parsed_at`."""
    value, end = parsed_at(text, len(text) - len(text.lstrip(_SPACE)))
    if text[end:].strip(_SPACE):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def parsed_at(text: str, position: int) -> tuple[Any, int]:
    """Returns the JSON value that starts at `position`, and where it ends.

    Raises:
      ValueError: not JSON (a json.JSONDecodeError, with its place); a key twice in one object; a
        number that is not finite, or too long to be read; half a character (a lone surrogate); or
        more than 100 levels of nesting. Names the key or field.
    """
    try:
        try:
            value, end = _DECODER.raw_decode(text, position)
        except OverflowError as error:  # read again, to say where it is
            value, end = json.JSONDecoder().raw_decode(text, position)
            _check_depth(value)
            raise _named(value, str(error)) from error
    except RecursionError as error:
        raise _too_deep() from error
    if text.count("[", position, end) + text.count("{", position, end) > _DEEPEST:
        _check_depth(value)
    if text.find("\\u", position, end) >= 0:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise _named(value, "half a character (a lone surrogate)") from error
    return value, end


def _too_deep() -> ValueError:
    return ValueError(f"nested deeper than {_DEEPEST} levels; make it flatter")


def _named(value: Any, what: str) -> ValueError:
    return ValueError(f"field {next(_faults(value), '')!r}: holds {what}; correct it")


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _inside(outer)]:
        depth += 1
        if depth > _DEEPEST:
            raise _too_deep()


def _inside(value: Any) -> list:
    return list(value.values()) if isinstance(value, dict) else value if type(value) is list else []


def _faults(value: Any, place: str = "") -> Iterator[str]:
    """The fields, such as 'turns[0][1]', that hold half a character or a number without end."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _faults(key, "key")
            yield from _faults(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _faults(inner, f"{place}[{i}]")
    elif isinstance(value, str):
        if value != value.encode(errors="replace").decode():
            yield place
    elif isinstance(value, float) and not math.isfinite(value):
        yield place


def _number(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> float:
    raise OverflowError(f"{text}, which is not a finite number")


_DECODER = json.JSONDecoder(object_pairs_hook=unique, parse_float=_number, parse_constant=_refuse)

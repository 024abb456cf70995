"""Checked reading of what a folder says of itself: JSON objects, and the classes they describe.

They may be damaged, or come from anywhere. A wrong key, type or number is a ValueError that names
it, before anything of that size is made.
"""

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from typing import Any, get_args, get_origin

LARGEST = 2**31 - 1  # of whole numbers, either sign
_SHOWN = 80  # characters of a value in an error
_NAMES = {
    int: "a whole number below 2**31", float: "a number", bool: "true or false", str: "text",
    dict: "an object", list: "a list", types.NoneType: "null", tuple: "a list of numbers",
}  # fmt: skip


def shown(value: Any) -> str:
    """A value as it appears in an error: at most a line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of its keys and values. Raises ValueError if a key occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {shown(twice)} occurs twice in one object; keep one")
    return found


def parsed(text: str) -> dict[str, Any]:
    """The JSON object in a text. Raises ValueError if there is none, or a key occurs twice."""
    try:
        value = json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def checked(held: Any, kinds: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """`held`, once all the keys of `kinds` are there and of their type. Others are not checked.

    Args:
      kinds: a type or a union of types for each key; one that may be None may be missing.
      name: of `held` itself, to name its keys in errors.
    """
    if not isinstance(held, Mapping):
        raise ValueError(f"{name or 'it'}: must be an object, is {shown(held)}")
    stem = f"{name}." if name else ""
    for key, kind in kinds.items():
        if key not in held and not _is(None, kind):
            raise ValueError(f"{stem}{key}: is missing")
        if not _is(held.get(key), kind):
            raise ValueError(f"{stem}{key}: must be {_said(kind)}, is {shown(held[key])}")
    return {**dict.fromkeys(kinds), **held}


def filled(kind: type, settings: Any, name: str = "", **own: Any) -> Any:
    """An object of a dataclass from settings by field name; missing ones have their defaults.

    Args:
      kind: with fields of type int, float, bool, str or tuple[float, ...], except those in `own`.
      settings: lists stand for tuples. name: of the group of settings, for errors.
      own: fields that are not settings; `settings` may not have them.

    Raises:
      ValueError: an unknown key, a wrong type, or what the class itself refuses.
    """
    if not hasattr(settings, "items"):  # a ConfigDict is no Mapping
        raise ValueError(f"{name or 'it'}: must be an object, is {shown(settings)}")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    kinds = {f.name: f.type for f in dataclasses.fields(kind) if f.name not in own}
    stem = f"{name}." if name else ""
    if unknown := sorted(set(map(str, settings)) - set(kinds)):
        raise ValueError(f"{stem}{shown(unknown[0])}: unknown, known are {', '.join(kinds)}")
    checked(settings, {key: kinds[key] for key in settings}, name)
    return kind(**settings, **own)


def metadata(held: Any) -> dict[str, Any]:
    """A checkpoint's metadata, its facts parsed: "arrays" is {name: [dtype, shape]}."""
    held = checked(held, {"arrays": dict, "facts": str})
    for name, entry in held["arrays"].items():
        pair = isinstance(entry, list) and [type(part) for part in entry] == [str, list]
        if not pair or not all(_is(size, int) and size >= 0 for size in entry[1]):
            raise ValueError(f"arrays.{name[:_SHOWN]}: must be [dtype, shape], is {shown(entry)}")
    return {**held, "facts": parsed(held["facts"])}


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_is(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(number, float) for number in value)
    if kind is int:
        return type(value) is int and abs(value) <= LARGEST
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) <= 1e30 and math.isfinite(value)
    return isinstance(value, kind)


def _said(kind: Any) -> str:
    parts = get_args(kind) if isinstance(kind, types.UnionType) else (get_origin(kind) or kind,)
    return " or ".join(_NAMES[part] for part in parts)

"""Damages bytes, texts and JSON at random. What comes out depends on the generator alone."""

import copy
import json
import re
from typing import Any

from numpy.random import Generator

_NUMBERS = (
    "0", "-1", "1", "-0.0", "0.5", "1e308", "-1e308", "1e309", "1e-320", "10" * 60, "9" * 5000,
    str(2**31), str(2**53 + 1), str(2**63), str(2**64), "NaN", "Infinity", "-Infinity", "1_0",
    "1,000", "10,5", "0x10", "1e", "+1", "007", "1.2.3", "\u0661\u0662",
)  # fmt: skip
_WORDS = (
    "", " ", "null", "true", "\"", "'", "\\", "\n", "\r\n", "\t", ",", ";", ":", "{", "}", "[", "]",
    "=", "#", "%", "..", "../x", "/", "=1+1", "\0", "\x1b[31m", "\u202e", "\ufeff", "\ud800",
    "e\u0301", "\u00b5", "\u03bc", "\U0001f52c", "<image>", "</s>", "<unk>", "a" * 3000, " " * 3000,
)  # fmt: skip
_PIECE = re.compile(r"-?\d+(?:\.\d+)?|[^\W\d_]+|[^\w\s]")
# Values that a JSON tree may get; "@@..." is replaced once it is text.
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**53 + 1, 2**63, 10**400, 10**30,
    float("nan"), float("inf"), "", " ", "0", "null", "x", "a" * 3000, "\ud800", "\0", "\x1b[31m",
    "\u202e", "../x", "/etc/hostname", "<image>", "e\u0301", [], {}, [[]], [0], [None], ["x"],
    {"x": 1}, [1, 2], {"type": "text"}, "@@150", "@@100000",
)  # fmt: skip
_WORD_SIZES = (1, 2, 4, 8)


def chance(rng: Generator, probability: float) -> bool:
    """True with this probability."""
    return rng.random() < probability


def chosen(rng: Generator, items) -> Any:
    """One of the items."""
    return items[int(rng.integers(len(items)))]


def _few(rng: Generator) -> int:
    """How often an input is damaged: more often rarely passes the first check."""
    return chosen(rng, (1, 1, 1, 2, 3))


def damaged_bytes(raw: bytes, rng: Generator) -> bytes:
    """Flips, overwrites, inserts, removes or cuts off some bytes; at least one byte changes."""
    out = raw
    for _ in range(20):
        for _ in range(_few(rng)):
            out = _one_damage(out, rng)
        if out != raw:
            return out
    return raw + b"\0"


def _one_damage(raw: bytes, rng: Generator) -> bytes:
    if not raw:
        return rng.bytes(8)
    # Headers are at the start, and short.
    end = len(raw) if chance(rng, 0.6) else min(len(raw), 256)
    at, kind = int(rng.integers(end)), int(rng.integers(8))
    length = int(rng.integers(1, 17))
    if kind <= 2:  # bits
        return raw[:at] + bytes([raw[at] ^ (1 << int(rng.integers(8)))]) + raw[at + 1 :]
    if kind == 3:
        return raw[:at] + rng.bytes(1) + raw[at + 1 :]
    if kind == 4:  # a number of some width
        width = chosen(rng, _WORD_SIZES)
        number = chosen(rng, (0, 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, 255))
        return raw[:at] + number.to_bytes(width, chosen(rng, ("little", "big"))) + raw[at + width :]
    if kind == 5:
        return raw[:at] + (rng.bytes(length) if chance(rng, 0.5) else raw[:length]) + raw[at:]
    return raw[:at] + raw[at + length :] if kind == 6 else raw[:at]


def damaged_text(text: str, rng: Generator) -> str:
    """Replaces, repeats or removes some numbers, words or signs."""
    for _ in range(_few(rng)):
        pieces = [match.span() for match in _PIECE.finditer(text)]
        if not pieces:
            return text + chosen(rng, _WORDS)
        start, end = chosen(rng, pieces)
        same = _NUMBERS if text[start:end].strip("-.").isdecimal() else _WORDS
        new = chosen(rng, same if chance(rng, 0.7) else _NUMBERS + _WORDS)
        if chance(rng, 0.15):
            new = text[start:end] + new
        elif chance(rng, 0.1):
            other, last = chosen(rng, pieces)
            new = text[other:last]
        text = text[:start] + new + text[end:]
    return text


def utf8(text: str) -> bytes:
    """The text in UTF-8; half a character becomes bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def damaged_json(value: Any, rng: Generator) -> bytes:
    """A JSON text of the value with other types, numbers, keys or nesting, or damaged as text."""
    kind = rng.random()
    if kind < 0.15:
        return damaged_bytes(json.dumps(value).encode(), rng)
    if kind < 0.35:
        return utf8(damaged_text(json.dumps(value, ensure_ascii=False), rng))
    value = json.loads(json.dumps(value))
    for _ in range(_few(rng)):
        value = _changed(value, rng)
    text = json.dumps(value, ensure_ascii=chance(rng, 0.8))
    text = re.sub(r'"@@(\d+)"', lambda found: _nested(int(found[1])), text)
    if chance(rng, 0.15):
        keys = [*re.finditer(r'"[^"\\]*": ', text)]
        if keys:  # a key twice
            key = chosen(rng, keys)
            text = f"{text[: key.start()]}{key[0]}{chosen(rng, _NUMBERS)}, {text[key.start() :]}"
    return utf8(text)


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def _new_value(rng: Generator) -> Any:
    return copy.deepcopy(chosen(rng, _VALUES))  # it may be changed next


def _changed(value: Any, rng: Generator) -> Any:
    """One change at a random place of a tree of dicts and lists."""
    inside = isinstance(value, dict | list) and len(value) > 0
    if not inside or chance(rng, 0.1):
        return _new_value(rng)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = chosen(rng, keys)
    action = rng.random()
    if action < 0.7:
        value[key] = _changed(value[key], rng)
    elif action < 0.8:
        del value[key]
    elif action < 0.9 and isinstance(value, dict):
        new = chosen(rng, ("", "x", "\ud800", "__class__", "e\u0301", *keys))
        value[new] = _new_value(rng)
    elif isinstance(value, list):
        value.append(copy.deepcopy(value[key]) if chance(rng, 0.5) else _new_value(rng))
    else:  # two values change places
        other = chosen(rng, keys)
        value[key], value[other] = value[other], value[key]
    return value

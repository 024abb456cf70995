"""Reads and writes JSON records, as one array (like LLaVA's files) or as JSON Lines."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from slava_jax.data.instructions import InstructionError, new_file
from slava_jax.data.strict_json import parsed_at

_SPACE = re.compile(r"[ \t\r\n]*")
_MARK = b"\xef\xbb\xbf"  # byte order mark


def read_records(path: str | os.PathLike) -> Iterator[tuple[str, Any]]:
    """Yields the records of a JSON array or JSON Lines file, each with its place in the file.

    An array file is read into memory at once and decoded record by record; JSON Lines are read
    line by line. The encoding is UTF-8; a byte order mark and blank lines are ignored.

    Yields:
      (place, record); the place is 'FILE:LINE', or 'FILE:LINE: record N' in an array (N from 1).

    Raises:
      InstructionError: the file is not UTF-8 or not JSON; names file and line.
      FileNotFoundError: there is no such file.
    """
    path = Path(path)
    with open(path, "rb") as file:
        start = file.read(4096).removeprefix(_MARK).lstrip()
    return _array(path) if start.startswith(b"[") else _lines(path)


def write_records(path: str | os.PathLike, records: Iterable[dict], array: bool) -> None:
    """Writes records one per line, as an array or as JSON Lines; the file is written atomically."""
    with new_file(path) as file:
        before, between, after = (b"[\n", b",\n", b"\n]\n") if array else (b"", b"\n", b"\n")
        for record in records:
            text = json.dumps(record, ensure_ascii=False, allow_nan=False)
            file.write(before + text.encode("utf-8"))
            before = between
        file.write(after if before == between else b"[]\n" if array else b"")


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    text = _text(path.read_bytes(), path, 1)
    line, counted, number, position = 1, 0, 0, text.index("[") + 1
    while True:
        position = _SPACE.match(text, position).end()
        line, counted = line + text.count("\n", counted, position), position
        if number == 0 and text.startswith("]", position):
            break
        number += 1
        where = f"{path}:{line}: record {number}"
        record, position = _decoded(text, position, path, 1, where)
        yield where, record
        position = _SPACE.match(text, position).end()
        if text.startswith("]", position):
            break
        if not text.startswith(",", position):
            raise InstructionError(
                f"{where}: must be followed by a comma or ]; add it (is the file truncated here?)"
            )
        position += 1
    if text[position + 1 :].strip():
        line += text.count("\n", counted, position)
        raise InstructionError(f"{path}:{line}: text after the end of the array; remove it")


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            text = _text(raw, path, number).strip()
            if text:
                where = f"{path}:{number}"
                record, end = _decoded(text, 0, path, number, where)
                if text[end:].strip():
                    raise InstructionError(
                        f"{where}: text after the record; write one object per line or a "
                        "single array"
                    )
                yield where, record


def _text(raw: bytes, path: Path, line: int) -> str:
    """Decodes UTF-8; `line` is the line number of the first byte."""
    raw = raw.removeprefix(_MARK) if line == 1 else raw
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        raise InstructionError(
            f"{path}:{line}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error


def _decoded(
    text: str, position: int, path: Path, line: int, where: str
) -> tuple[Any, int]:
    """Returns the record at `position` and its end; `line` is the line where `text` begins."""
    try:
        return parsed_at(text, position)
    except json.JSONDecodeError as error:
        raise InstructionError(
            f"{path}:{line + error.lineno - 1}: not JSON at column {error.colno} ({error.msg}); "
            "fix it (is the file truncated here?)"
        ) from error
    except ValueError as error:
        raise InstructionError(f"{where}: cannot be parsed as JSON: {error}") from error

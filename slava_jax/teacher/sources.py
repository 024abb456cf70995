"""The user's input to a teacher besides the images: texts of figures, and groups of images."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slava_jax.data.datasets.base import ImageSet
from slava_jax.data.names import composed
from slava_jax.data.strict_json import parsed
from slava_jax.teacher.settings import TeacherError


@dataclasses.dataclass(frozen=True)
class Context:
    """A publication's text about a figure."""

    caption: str = ""
    paragraphs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Group:
    """Images of one question; the last one is the target, which belongs to `split`."""

    images: tuple[str, ...]
    kind: str
    split: str


def read_contexts(path: str, sets: Mapping[str, ImageSet]) -> dict[str, Context]:
    """Reads lines of {"image": key, "caption": text, "paragraphs": [texts]}; {} for no path.

    Raises:
      TeacherError: invalid input; the message names file, line and field.
    """
    contexts: dict[str, Context] = {}
    for where, line in _lines(path):
        key, caption = line.get("image"), line.get("caption", "")
        paragraphs = line.get("paragraphs", [])
        key = _composed(key)
        known = isinstance(key, str) and any(key in images.index for images in sets.values())
        if not known or key in contexts:
            raise TeacherError(
                f"{where}: image: must be the key of an image, not repeated, is {key!r}"
            )
        if not isinstance(caption, str):
            raise TeacherError(f"{where}: caption: must be text, is {caption!r}")
        if not isinstance(paragraphs, list) or not all(isinstance(p, str) for p in paragraphs):
            raise TeacherError(f"{where}: paragraphs: must be a list of strings, is {paragraphs!r}")
        contexts[key] = Context(" ".join(caption.split()), tuple(map(_one_line, paragraphs)))
    return contexts


def read_groups(path: str, sets: Mapping[str, ImageSet], kinds: tuple[str, ...]) -> list[Group]:
    """Reads lines of {"images": [keys, the target last], "kind": one of `kinds`}; [] for no path.

    Images before the target must be from the training split or from the target's split. Groups must
    not be repeated. Other fields are ignored.

    Raises:
      TeacherError: invalid input; the message names file, line and field.
    """
    split_of = {key: split for split, images in sets.items() for key in images.index}
    groups: dict[Group, str] = {}
    for where, line in _lines(path):
        keys, kind = line.get("images"), line.get("kind")
        keys = [_composed(key) for key in keys] if isinstance(keys, list) else keys
        if not isinstance(keys, list) or len(keys) < 2 or len(set(map(str, keys))) < len(keys):
            raise TeacherError(
                f"{where}: images: must be a list of 2 or more different keys, is {keys!r}"
            )
        if unknown := [key for key in keys if not isinstance(key, str) or key not in split_of]:
            raise TeacherError(f"{where}: images: {unknown[0]!r} is not in the data set")
        splits = [split_of[key] for key in keys]
        if not set(splits) <= {"train", splits[-1]}:
            raise TeacherError(
                f"{where}: images: all must be from train or from the split of the last one, the "
                f"target ({splits[-1]}); the others are from {', '.join(splits[:-1])}"
            )
        if kind not in kinds:
            raise TeacherError(f"{where}: kind: must be one of {', '.join(kinds)}, is {kind!r}")
        group = Group(tuple(keys), kind, splits[-1])
        if group in groups:
            raise TeacherError(f"{where}: same group as in {groups[group]}; remove one of them")
        groups[group] = where
    return list(groups)


def _composed(key: Any) -> Any:
    return composed(key) if isinstance(key, str) else key


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _lines(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path:
        return
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TeacherError(f"{path}: cannot be read as UTF-8: {error}") from error
    for number, raw in enumerate(text.split("\n"), start=1):
        if not raw.strip():
            continue
        try:
            line = parsed(raw)
        except ValueError as error:
            raise TeacherError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(line, dict):
            raise TeacherError(f"{path}:{number}: must be a JSON object, is {raw.strip()[:40]!r}")
        yield f"{path}:{number}", line

"""The instruction record: a question about images with its answer, or a conversation with several
questions; stored as JSON Lines.

docs/instructions.md documents the schema field by field, with an example line. Teachers write these
records; the pipeline, the training stages and the evaluation read them.
"""

import contextlib
import copy
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from slava_jax import files
from slava_jax.data.names import composed
from slava_jax.data.strict_json import parsed
from slava_jax.errors import UserError

IMAGE_TOKEN = "<image>"
TASKS = ("classification", "caption", "vqa")
STYLES = ("short", "detailed")

_TEXT_FIELDS = ("id", "question", "answer", "task", "style", "category")
_METADATA_DEFAULTS = {"supplement": "", "claims": {}, "directional": False}
_OPTIONAL = ("metadata", "turns")  # fields that a line may leave out
# Keys of the metadata.
_OF_THE_LAST_ANSWER = ("question_type", "claims", "seen_claims", "shots", "asked")


class InstructionError(UserError, ValueError):
    """An instruction that violates the schema; the message names place and field, and the fix."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One question about images, with its answer (sections 4.3 and 4.6).

    `turns` are the earlier questions and answers of the same conversation; `images` are those of
    all its questions. The other fields refer to the last question and its answer, except for the
    supplement, which goes before the first question.

    `metadata` always has `question_type` (default: the task), `supplement` (default ''), `claims`
    (default none) and `directional` (default False); `seen_claims` (see `shown_false`) is optional,
    and further keys are kept unchanged.

    Raises:
      InstructionError: a field has the wrong type or a value that the schema does not allow.
    """

    id: str  # unique within a file
    images: tuple[str, ...]  # image keys; the last one is the target image
    question: str  # together with the earlier questions, holds one `<image>` per image
    answer: str
    task: str  # one of TASKS
    style: str  # one of STYLES
    category: str  # class name of the target image, '' if there is none
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    turns: tuple[tuple[str, str], ...] = ()  # earlier questions and their answers

    def __post_init__(self):
        _check_texts(self)
        object.__setattr__(self, "turns", _checked_turns(self.turns))
        images = self.images
        if not isinstance(images, tuple | list) or not images:
            raise _error("images", f"must be a non-empty list of image keys, is {images!r}")
        for image in images:
            if not isinstance(image, str) or not image:
                raise _error("images", f"must hold image keys (non-empty strings), holds {image!r}")
            _check_unicode("images", image)
        object.__setattr__(self, "images", tuple(map(composed, images)))
        object.__setattr__(self, "category", composed(self.category))
        tokens = sum(question.count(IMAGE_TOKEN) for question in self.questions)
        if tokens != len(images):
            also = ", counting the questions in 'turns'" if self.turns else ""
            raise _error(
                "question",
                f"must hold one {IMAGE_TOKEN} per image{also}: write {len(images)}, not {tokens}",
            )
        object.__setattr__(self, "metadata", _checked_metadata(self.metadata, self.task))
        examples, shots = len(images) - 1, self.metadata.get("shots", len(images) - 1)
        if type(shots) is not int or shots != examples:
            raise _error(
                "metadata.shots",
                f"must be {examples}, the number of images before the target, is {shots!r}",
            )

    @property
    def target(self) -> str:
        """The key of the image that the question is about."""
        return self.images[-1]

    @property
    def questions(self) -> tuple[str, ...]:
        """The earlier questions and the last one."""
        return (*(question for question, _ in self.turns), self.question)

    @property
    def question_type(self) -> str:
        """The question type: 'class', 'caption', 'basics', ... (scores are reported per type)."""
        return self.metadata["question_type"]

    @property
    def claims(self) -> dict[str, Any]:
        """The answer's assertions: fact name -> required value, or an interval [lo, hi]."""
        return self.metadata["claims"]

    def reworded(self, words: Callable[[str], str], supplement: str) -> "Instruction":
        """A copy in other words, which must keep every `<image>`.

        It is not checked again: for hundreds of thousands of instructions that takes a minute.
        """
        new = copy.copy(self)
        changed = {
            "question": words(self.question),
            "answer": words(self.answer),
            "turns": tuple((words(question), words(answer)) for question, answer in self.turns),
            "metadata": {**self.metadata, "supplement": supplement},
        }
        for name, value in changed.items():
            object.__setattr__(new, name, value)
        return new

    def each_turn(self) -> list["Instruction"]:
        """Splits a conversation into one instruction per turn (ID/1, ID/2, ...), for models that
        write one answer.

        Each has the earlier turns and the images shown so far, and is about the last of these
        images. A turn before the first image gets no instruction of its own. Earlier turns do not
        get `claims` and other metadata about the last answer, nor the category if their target is
        another image. An instruction without earlier turns is returned unchanged.
        """
        if not self.turns:
            return [self]
        known = {k: v for k, v in self.metadata.items() if k not in _OF_THE_LAST_ANSWER}
        items, shown = [], 0
        for i, (question, answer) in enumerate(self.turns):
            shown += question.count(IMAGE_TOKEN)
            if shown:
                item = dataclasses.replace(
                    self,
                    id=f"{self.id}/{i + 1}",
                    images=self.images[:shown],
                    question=question,
                    answer=answer,
                    category=self.category if self.images[shown - 1] == self.target else "",
                    metadata=known,
                    turns=self.turns[:i],
                )
                items.append(item)
        return [*items, dataclasses.replace(self, id=f"{self.id}/{len(self.turns) + 1}")]


def claims_hold(claims: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Returns whether an answer that asserts `claims` is true for an image with these `facts`.

    A claim about a missing fact does not hold, so that an answer about particle sizes is false for
    a picture without particles.

    Args:
      claims: fact name -> required value, or a closed interval [lo, hi] for a number.
      facts: fact name -> str, float, int or bool.
    """
    return all(name in facts and _agrees(claim, facts[name]) for name, claim in claims.items())


def shown_false(item: Instruction, facts: Mapping[str, Any]) -> bool:
    """Returns whether replacing the target image by one with these facts makes the answer false.

    The prompt, including the supplement, is unchanged, and a picture does not show nanometres. So
    the answer is judged by what is visible, which a teacher stores as `metadata['seen_claims']`
    (lengths in pixels, nothing that the supplement already says). Without that entry the claims
    themselves are used. Without any claims the result is False.
    """
    return not claims_hold(item.metadata.get("seen_claims", item.claims), facts)


def read_jsonl(path: str | os.PathLike) -> list[Instruction]:
    """Reads instructions from UTF-8 JSON Lines; a byte order mark and blank lines are ignored.

    Raises:
      InstructionError: an invalid line; names file, line and field, and says what to do.
      FileNotFoundError: there is no such file.
    """
    items, first_line = [], {}
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if not raw.strip():
                continue
            try:
                item = _parse_line(raw)
            except InstructionError as error:
                raise InstructionError(f"{os.fspath(path)}:{number}: {error}") from error
            if item.id in first_line:
                raise InstructionError(
                    f"{os.fspath(path)}:{number}: field 'id': {item.id!r} is already used in line "
                    f"{first_line[item.id]}; give every instruction a unique id"
                )
            first_line[item.id] = number
            items.append(item)
    return items


def write_jsonl(path: str | os.PathLike, items: Iterable[Instruction]) -> None:
    """Writes instructions, one per line; the file is written atomically.

    Raises:
      InstructionError: an id is repeated, or a record is not JSON-serializable as UTF-8.
    """
    path, seen = os.path.abspath(os.fspath(path)), set()
    with new_file(path) as file:
        for item in items:
            if item.id in seen:
                raise InstructionError(
                    f"{path}: field 'id': {item.id!r} occurs twice; "
                    "give every instruction a unique id"
                )
            seen.add(item.id)
            file.write(_line(item, path))


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a temporary file for writing, moved to `path` when the body succeeds."""
    path = Path(path).absolute()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder; create it first")
    with files.replaced(path) as file:
        yield file


def _line(item: Instruction, path: str) -> bytes:
    fields = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    if not item.turns:
        del fields["turns"]
    try:
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8") + b"\n"
    except (TypeError, ValueError) as error:
        raise InstructionError(
            f"{path}: instruction {item.id!r} cannot be written as JSON: {error}; use only finite "
            "numbers, valid text, lists and dicts with string keys"
        ) from error


def _parse_line(raw: bytes) -> Instruction:
    try:
        fields = parsed(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InstructionError(
            f"byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise InstructionError(
            f"not JSON at column {error.colno} ({error.msg}); write one object per line "
            "(is the file truncated here?)"
        ) from error
    except ValueError as error:
        raise InstructionError(f"cannot be parsed as JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InstructionError(
            f"a line must be a JSON object with the fields of an instruction, is a "
            f"{type(fields).__name__}"
        )
    known = [field.name for field in dataclasses.fields(Instruction)]
    for name in known:
        if name not in fields and name not in _OPTIONAL:
            raise _error(name, "is missing; add it")
    for name in fields:
        if name not in known:
            raise _error(
                name, f"is not part of the schema ({', '.join(known)}); move it to metadata"
            )
    if not isinstance(fields["images"], list):
        raise _error("images", f"must be a list of image keys, is {fields['images']!r}")
    return Instruction(**fields)


def _check_texts(item: Instruction) -> None:
    for name in _TEXT_FIELDS:
        value = getattr(item, name)
        if not isinstance(value, str):
            raise _error(name, f"must be a string, is {value!r}")
        _check_unicode(name, value)
        if not value.strip() and name != "category":
            raise _error(name, "must not be empty; fill it in or remove the instruction")
    for name, allowed in (("task", TASKS), ("style", STYLES)):
        if getattr(item, name) not in allowed:
            raise _error(name, f"must be one of {', '.join(allowed)}, is {getattr(item, name)!r}")


def _checked_turns(turns: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(turns, tuple | list):
        raise _error("turns", f"must be a list of [question, answer] pairs, is {turns!r}")
    for i, turn in enumerate(turns):
        if not isinstance(turn, tuple | list) or len(turn) != 2:
            raise _error(f"turns[{i}]", f"must be a [question, answer] pair, is {turn!r}")
        for j, text in enumerate(turn):
            if not isinstance(text, str) or not text.strip():
                raise _error(f"turns[{i}][{j}]", f"must be a non-empty string, is {text!r}")
            _check_unicode(f"turns[{i}][{j}]", text)
    return tuple((question, answer) for question, answer in turns)


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _error(
            name, f"has an invalid character (a lone surrogate) at {error.start}; remove it"
        ) from error


def _checked_metadata(metadata: Any, task: str) -> dict[str, Any]:
    """Returns the metadata with defaults filled in and intervals as lists, as in JSON."""
    if not isinstance(metadata, Mapping):
        raise _error("metadata", f"must be an object, is {metadata!r}")
    full = {"question_type": task, **_METADATA_DEFAULTS, **metadata}
    for name, kind in (("question_type", str), ("supplement", str), ("directional", bool)):
        if not isinstance(full[name], kind):
            raise _error(f"metadata.{name}", f"must be a {kind.__name__}, is {full[name]!r}")
    if not full["question_type"].strip():
        raise _error("metadata.question_type", "must not be empty; name the kind of question")
    asked = full.get("asked", [])
    if not isinstance(asked, tuple | list) or not all(isinstance(name, str) for name in asked):
        raise _error("metadata.asked", f"must be a list of fact names, is {asked!r}")
    for name in ("claims", "seen_claims"):
        if name in full:
            full[name] = _checked_claims(f"metadata.{name}", full[name])
    return full


def _checked_claims(field: str, claims: Any) -> dict[str, Any]:
    if not isinstance(claims, Mapping):
        raise _error(field, f"must be an object, is {claims!r}")
    for name in claims:
        if not isinstance(name, str):
            raise _error(field, f"keys must be fact names, has {name!r}")
    return {name: _checked_claim(f"{field}.{name}", claim) for name, claim in claims.items()}


def _checked_claim(field: str, claim: Any) -> Any:
    if isinstance(claim, tuple | list):
        if len(claim) != 2 or not all(_is_number(bound) for bound in claim):
            raise _error(field, f"an interval must be two finite numbers [lo, hi], is {claim!r}")
        if claim[0] > claim[1]:
            raise _error(field, f"an interval must have lo <= hi, is {claim!r}; swap the two")
        return list(claim)
    if not isinstance(claim, str | bool) and not _is_number(claim):
        raise _error(
            field, f"must be a string, a finite number, a bool or an interval, is {claim!r}"
        )
    return composed(claim) if isinstance(claim, str) else claim


def _agrees(claim: Any, fact: Any) -> bool:
    if isinstance(claim, tuple | list):
        return _is_number(fact) and claim[0] <= fact <= claim[1]
    # In Python True == 1, but a boolean claim is not a claim about the number 1.
    return isinstance(claim, bool) == isinstance(fact, bool) and claim == fact


def _is_number(value: Any) -> bool:
    # Unlike math.isfinite, comparisons work for integers beyond the range of a float.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -math.inf < value < math.inf


def _error(field: str, problem: str) -> InstructionError:
    return InstructionError(f"field {field!r}: {problem}")

"""Extracts valid answers from a teacher's replies, and the reasons for rejecting the others.

The rules only depend on the texts, so they can change without new requests.
"""

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from slava_jax.data.instructions import IMAGE_TOKEN, STYLES
from slava_jax.teacher.journal import Reply
from slava_jax.teacher.prompt_sets import Item

REFUSED, MALFORMED = "refused", "malformed"
Slot = tuple[str, str]  # name of a question, style of the answer

_REFUSALS = re.compile(
    r"^\W*(i['’]?m (very )?sorry|i am (very )?sorry|sorry\b|as an ai\b"
    r"|(unfortunately,? )?i( can['’]?t| cannot| can not| am unable to|['’]m unable to"
    r"| am not able to| won['’]t| will not)\b)"
    r"|\bwithout (any )?(visual )?access to the (image|picture|micrograph)"
    r"|\b(can['’]?t|cannot|unable to|not able to) (view|see|access|open|process|analy[sz]e) "
    r"(the |this |that |your |any |provided |attached )*(image|picture|micrograph|photo)"
    r"|\bno (image|picture|micrograph|photo)s? (was|were|is|has been|have been) "
    r"(provided|attached|given|included|shared|uploaded)"
    r"|\bi (do not|don['’]?t) see (an|any|the|your) (image|picture|micrograph|photo)",
    re.IGNORECASE,
)
_THOUGHT = "</think>"  # ends the reasoning before an answer; some servers omit the opening mark
# Line ends within strings are read, and numbers of any length.
_DECODER = json.JSONDecoder(strict=False, parse_int=float)
_OBJECT = re.compile(r'\{\s*"')
# Places that look like an object and are none, after which a text holds none; and how often all of
# it may be read in vain.
_MOST_STARTS, _MOST_READINGS = 50, 3
_LONGEST_REFUSAL = 4000  # characters; a longer text is no refusal
# An escape of JSON, or a lone backslash, as in the formulas of many answers.
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|\\')
_DIRECTIONS = re.compile(
    r"\b(left|right|top|bottom|upper|lower|vertical\w*|horizontal\w*|diagonal\w*|clockwise|"
    r"counter-?clockwise|upwards?|downwards?)\b",
    re.IGNORECASE,
)
_ENGLISH_LETTERS = 0.9  # minimum fraction of Latin letters
# Likelihood ratio over English above which a text counts as another language. For "Lamellae" the
# ratio is fifty, for a sentence in another language thousands.
_FOREIGN = 100


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer and its question, which the teacher may have written."""

    question: str
    text: str


@dataclasses.dataclass(frozen=True)
class Problem:
    """Why an answer is rejected: REFUSED or MALFORMED, and the reason."""

    status: str
    reason: str


def read_replies(
    replies: Iterable[Reply], items: Sequence[Item], longest: int
) -> tuple[dict[Slot, Answer], dict[Slot, Problem]]:
    """The first valid answer to each question among all replies to a request, and the problems.

    Args:
      longest: maximum number of characters of an answer, or of a question by the teacher.
    """
    slots = [(item.question.name, style) for item in items for style in STYLES]
    good: dict[Slot, Answer] = {}
    bad: dict[Slot, Problem] = {}
    for reply in replies:
        found = _read_reply(reply, items, longest)
        for slot in slots:
            if isinstance(found[slot], Answer):
                good.setdefault(slot, found[slot])
            else:
                bad[slot] = found[slot]
    return good, {slot: problem for slot, problem in bad.items() if slot not in good}


def is_directional(text: str) -> bool:
    """Whether the text names a direction in the image plane, so the image must not be rotated."""
    return bool(_DIRECTIONS.search(text))


def _read_reply(reply: Reply, items: Sequence[Item], longest: int) -> dict[Slot, Any]:
    slots = [(item.question.name, style) for item in items for style in STYLES]
    if reply.refusal or reply.finish == "content_filter":
        return dict.fromkeys(slots, Problem(REFUSED, reply.refusal or "content filter"))
    thought, mark, said = reply.text.partition(_THOUGHT)
    text = said if mark else thought
    names = [item.question.name for item in items]
    table = _table(text, names)
    if not table and mark and (of_thought := _table(thought, names)):
        table = of_thought  # the answer is within the marks
    cut = Problem(MALFORMED, "cut off: raise max_tokens, or ask fewer questions at once")
    if reply.finish == "length" and not table:
        problem = cut
    elif not table and not text.strip():
        problem = Problem(MALFORMED, "empty")
    elif table is None:
        refuses = _REFUSALS.search(text[:_LONGEST_REFUSAL])
        problem = Problem(MALFORMED, "not the requested JSON object")
        problem = Problem(REFUSED, "says so") if refuses else problem
    else:
        return {
            (item.question.name, style): cut
            if reply.finish == "length" and item.question.name not in table
            else _read_answer(table, item, style, longest)
            for item in items
            for style in STYLES
        }
    return dict.fromkeys(slots, problem)


def _table(text: str, names: Sequence[str]) -> dict | None:
    """The entries of these names in the JSON objects of a text, {} if objects have others only.

    The objects may be fenced, between sentences, within another one, or cut off after some entries;
    a later entry replaces an earlier one. None if there is no object.
    """
    objects = [*_objects(text)]
    if not objects and "\\" in text:
        text = _ESCAPE.sub(lambda match: match[0] if match[0] != "\\" else "\\\\", text)
        objects = [*_objects(text)]
    within = (value for table in objects for value in table.values() if isinstance(value, dict))
    for tables in (objects, within, _whole_entries(text, names)):
        found = {}
        for table in tables:
            found |= {n: table[n] for n in names if isinstance(table.get(n), dict)}
        if found:
            return found
    return {} if objects else None


def _whole_entries(text: str, names: Sequence[str]) -> Iterator[dict]:
    """The entries of an object that was cut off, or is not valid elsewhere."""
    for name in names:
        if start := re.search(rf'"{name}"\s*:\s*(?=\{{)', text):
            with contextlib.suppress(ValueError, RecursionError):  # not whole either
                yield {name: _DECODER.raw_decode(text, start.end())[0]}


def _objects(text: str) -> Iterator[dict]:
    """The outermost JSON objects in a text, except empty ones."""
    place, failed, cost = 0, 0, 0
    while failed < _MOST_STARTS and cost < _MOST_READINGS * len(text):
        start = _OBJECT.search(text, place)
        if start is None:
            return
        try:
            table, place = _DECODER.raw_decode(text, start.start())
            yield table
        except (ValueError, RecursionError) as error:
            place, failed = start.end() - 1, failed + 1
            cost += getattr(error, "pos", len(text)) - start.start()


def _read_answer(table: dict, item: Item, style: str, longest: int) -> Answer | Problem:
    entry = table.get(item.question.name)
    if not isinstance(entry, dict):
        return Problem(MALFORMED, "missing")
    said = {"answer": entry.get(style)}
    if not item.text:
        said["question"] = entry.get("question")
    for what, text in said.items():
        if problem := _text_problem(text, longest):
            return Problem(problem.status, f"{what}: {problem.reason}")
    question = item.text or said["question"]
    return Answer(" ".join(question.split()), " ".join(said["answer"].split()))


def _text_problem(text: Any, longest: int) -> Problem | None:
    if not isinstance(text, str):
        return Problem(MALFORMED, "missing" if text is None else "not a text")
    if not text.strip(" .…\n\t"):
        return Problem(MALFORMED, "empty")
    if len(text) > longest:
        return Problem(MALFORMED, f"{len(text)} characters, more than {longest}")
    if IMAGE_TOKEN in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        return Problem(MALFORMED, f"contains {IMAGE_TOKEN} or an unpaired surrogate")
    if _REFUSALS.search(text):
        return Problem(REFUSED, "says so")
    return None if is_english(text) else Problem(MALFORMED, "in another language")


def is_english(text: str) -> bool:
    """False for other scripts and for text that is clearly in another language.

    A few Latin words of uncertain language count as English.
    """
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum(letter < "\u0250" for letter in letters)
    if latin < _ENGLISH_LETTERS * len(letters):
        return False
    chances = dict(_languages().rank(text))
    return max(chances.values()) < _FOREIGN * chances["en"]


@functools.cache
def _languages() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

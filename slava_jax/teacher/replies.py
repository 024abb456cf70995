"""Extracts valid answers from a teacher's replies, and the reasons for rejecting the others.

The rules only depend on the texts, so they can change without new requests.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Sequence
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
# The reasoning before an answer; some servers omit the opening tag.
_THINKING = re.compile(r"^\s*(<think>)?.*?</think>", re.DOTALL)
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
    text = _THINKING.sub("", reply.text)
    table = _json_object(text)
    if reply.finish == "length":
        problem = Problem(MALFORMED, "cut off: raise max_tokens, or ask fewer questions at once")
    elif not text.strip():
        problem = Problem(MALFORMED, "empty")
    elif table is None:
        said = Problem(REFUSED, "says so") if _REFUSALS.search(text) else None
        problem = said or Problem(MALFORMED, "not the requested JSON object")
    else:
        return {
            (item.question.name, style): _read_answer(table, item, style, longest)
            for item in items
            for style in STYLES
        }
    return dict.fromkeys(slots, problem)


def _json_object(text: str) -> dict | None:
    """The JSON object in a text, which may be fenced or between sentences."""
    start, end = text.find("{"), text.rfind("}")
    try:
        table = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None


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

"""From what a teacher said to answers that can be taught, and to what is set aside, and why.

The rules look at texts alone, so that they can change without anything being asked again.
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
# What a reasoning model writes before its answer; a server may leave the first mark out.
_THINKING = re.compile(r"^\s*(<think>)?.*?</think>", re.DOTALL)
_DIRECTIONS = re.compile(
    r"\b(left|right|top|bottom|upper|lower|vertical\w*|horizontal\w*|diagonal\w*|clockwise|"
    r"counter-?clockwise|upwards?|downwards?)\b",
    re.IGNORECASE,
)
_ENGLISH_LETTERS = 0.9  # share of a text's letters that must be of the Latin alphabet
# So many times likelier than English another language must be: "Lamellae" is fifty times likelier
# of another, and a sentence of another thousands of times.
_FOREIGN = 100


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer and the question it answers, which may be the teacher's own."""

    question: str
    text: str


@dataclasses.dataclass(frozen=True)
class Problem:
    """Why an answer is set aside: REFUSED or MALFORMED, and what is wrong with it."""

    status: str
    reason: str


def read_replies(
    replies: Iterable[Reply], items: Sequence[Item], longest: int
) -> tuple[dict[Slot, Answer], dict[Slot, Problem]]:
    """The answers of all replies to one request, the first good one of each; and what lacks one.

    Args:
      longest: characters that an answer, or a question of the teacher's, may have.
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
    """Whether a direction in the image plane is named, so that the image must not be turned."""
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
        problem = said or Problem(MALFORMED, "not the JSON object that was asked for")
    else:
        return {
            (item.question.name, style): _read_answer(table, item, style, longest)
            for item in items
            for style in STYLES
        }
    return dict.fromkeys(slots, problem)


def _json_object(text: str) -> dict | None:
    """The object in a text, which may stand in a fence or between sentences."""
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
        return Problem(MALFORMED, f"holds {IMAGE_TOKEN} or half a character")
    if _REFUSALS.search(text):
        return Problem(REFUSED, "says so")
    return None if is_english(text) else Problem(MALFORMED, "in another language")


def is_english(text: str) -> bool:
    """False for other scripts and for what is surely of another language.

    A few words in the Latin alphabet, of which nobody could say, pass.
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

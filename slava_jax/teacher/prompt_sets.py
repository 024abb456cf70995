"""Sets of questions to a teacher, and the messages they make. The sets are data: prompts/*.toml."""

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from slava_jax.data.instructions import IMAGE_TOKEN, TASKS
from slava_jax.teacher.settings import TeacherError

CHALLENGES = "challenges"  # the set of questions to several images; its names are their kinds
_FOLDER = resources.files("slava_jax.teacher") / "prompts"
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FunctionLoader(lambda name: (_FOLDER / name).read_text(encoding="utf-8")),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


@dataclasses.dataclass(frozen=True)
class Question:
    """One question of a set.

    `wordings` are what the assistant will be asked, one of them each time; where there are none
    the teacher writes the question. `cover` tells the teacher what to speak of.
    """

    name: str  # the question type of the record
    cover: str
    wordings: tuple[str, ...] = ()
    task: str = "vqa"


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """The questions to one kind of image. `class_question` is '' for a general one."""

    about: str  # what the images are; '' of the challenges
    questions: tuple[Question, ...]
    class_question: str = ""


@dataclasses.dataclass(frozen=True)
class Item:
    """A question as it is put: its wording, '' where the teacher is to write it."""

    question: Question
    text: str


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a message says of an image besides its pixels. File names are not part of it."""

    category: str  # in words
    supplement: str
    caption: str = ""
    paragraphs: tuple[str, ...] = ()


def load_set(name: str) -> PromptSet:
    """A set of `prompts/` by its name, or a TOML file of the same form by its path.

    Raises:
      TeacherError: there is none, or it is not of that form; names file and key.
    """
    place = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not place.is_file():
        known = sorted(p.name.removesuffix(".toml") for p in _FOLDER.iterdir())
        known = [stem for stem in known if "." not in stem and stem != CHALLENGES]
        raise TeacherError(f"prompts {name!r}: give one of {', '.join(known)}, or a .toml file")
    try:
        table = tomllib.loads(place.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TeacherError(f"prompts {name!r}: not TOML: {error}") from error
    try:
        questions = tuple(_question(entry) for entry in table.pop("question", ()))
        prompts = PromptSet(**{"about": "", **table}, questions=questions)
    except (TypeError, ValueError) as error:
        raise TeacherError(f"prompts {name!r}: {error}") from error
    for text in (prompts.about, prompts.class_question):
        if not isinstance(text, str) or IMAGE_TOKEN in text:
            raise TeacherError(
                f"prompts {name!r}: about and class_question must be texts without {IMAGE_TOKEN}"
            )
    names = [question.name for question in questions]
    # The challenges are asked about the images of whatever set is chosen.
    if not names or len(set(names)) < len(names) or not (prompts.about or name == CHALLENGES):
        raise TeacherError(
            f"prompts {name!r}: must say what the images are (about) and hold [[question]] entries "
            "with names of their own"
        )
    return prompts


def _question(entry: Mapping[str, Any]) -> Question:
    wordings = entry.get("wordings", [])
    if not isinstance(wordings, list):
        raise ValueError(f"question {entry.get('name')!r}: wordings must be a list of texts")
    question = Question(**{**entry, "wordings": tuple(wordings)})
    texts = (question.name, question.cover, *question.wordings)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"question {question.name!r}: name, cover and wordings must be texts")
    if not re.fullmatch(r"\w+", question.name):
        raise ValueError(f"question {question.name!r}: name must be of letters, digits and _ alone")
    if question.task not in TASKS:
        raise ValueError(f"question {question.name!r}: task must be one of {', '.join(TASKS)}")
    if any(IMAGE_TOKEN in text for text in texts) or question.name == "class":
        raise ValueError(
            f"question {question.name!r}: {IMAGE_TOKEN} and the class question, which the label "
            "answers, are added by the program; take it out"
        )
    return question


def messages(about: str, items: Sequence[Item], pictures: Sequence[Shown]) -> tuple[str, str]:
    """The system message and the text of the request (both without the pixels)."""
    several = len(pictures) > 1
    system = _TEMPLATES.get_template("system.jinja").render(about=about, several=several)
    request = _TEMPLATES.get_template("request.jinja").render(items=items, pictures=pictures)
    return system, request

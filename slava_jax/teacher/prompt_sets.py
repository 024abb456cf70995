"""Sets of questions to a teacher (prompts/*.toml), and the messages made from them."""

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

CHALLENGES = "challenges"  # the set of questions about several images, named by kind
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

    `wordings`: the assistant is asked one of them at random; without any, the teacher writes the
    question. `cover` tells the teacher what to cover.
    """

    name: str  # the question type of the record
    cover: str
    wordings: tuple[str, ...] = ()
    task: str = "vqa"


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """The questions about one kind of image. `class_question` is '' for a general one."""

    about: str  # what the images show; '' for the challenges
    questions: tuple[Question, ...]
    class_question: str = ""


@dataclasses.dataclass(frozen=True)
class Item:
    """A question with its wording, '' if the teacher has to write it."""

    question: Question
    text: str


@dataclasses.dataclass(frozen=True)
class Shown:
    """The information about an image in a message besides its pixels, without file names."""

    category: str  # in words
    supplement: str
    caption: str = ""
    paragraphs: tuple[str, ...] = ()


def load_set(name: str) -> PromptSet:
    """Loads a set of `prompts/` by its name, or a TOML file of the same format by its path.

    Raises:
      TeacherError: it is missing or invalid; the message names file and key.
    """
    place = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not place.is_file():
        known = sorted(p.name.removesuffix(".toml") for p in _FOLDER.iterdir())
        known = [stem for stem in known if "." not in stem and stem != CHALLENGES]
        raise TeacherError(f"prompts {name!r}: must be one of {', '.join(known)}, or a .toml file")
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
                f"prompts {name!r}: about and class_question must be text without {IMAGE_TOKEN}"
            )
    names = [question.name for question in questions]
    # The challenges have no `about` of their own: they use that of the chosen set.
    if not names or len(set(names)) < len(names) or not (prompts.about or name == CHALLENGES):
        raise TeacherError(
            f"prompts {name!r}: must say what the images show (about) and have [[question]] "
            "entries with different names"
        )
    return prompts


def _question(entry: Mapping[str, Any]) -> Question:
    wordings = entry.get("wordings", [])
    if not isinstance(wordings, list):
        raise ValueError(f"question {entry.get('name')!r}: wordings must be a list of strings")
    question = Question(**{**entry, "wordings": tuple(wordings)})
    texts = (question.name, question.cover, *question.wordings)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"question {question.name!r}: name, cover and wordings must be text")
    if not re.fullmatch(r"\w+", question.name):
        raise ValueError(f"question {question.name!r}: name may contain only letters, digits and _")
    if question.task not in TASKS:
        raise ValueError(f"question {question.name!r}: task must be one of {', '.join(TASKS)}")
    if any(IMAGE_TOKEN in text for text in texts) or question.name == "class":
        raise ValueError(
            f"question {question.name!r}: remove it; {IMAGE_TOKEN} and the class question, which "
            "the label answers, are added automatically"
        )
    return question


def messages(about: str, items: Sequence[Item], pictures: Sequence[Shown]) -> tuple[str, str]:
    """The system message and the text of the request (both without the pixels)."""
    several = len(pictures) > 1
    system = _TEMPLATES.get_template("system.jinja").render(about=about, several=several)
    request = _TEMPLATES.get_template("request.jinja").render(items=items, pictures=pictures)
    return system, request

"""The procedural teacher: generates instructions from the ground truth of an image.

Every number and adjective of an answer is a fact of the image's record and is stored with the
answer as a claim. The claims tell whether the answer is also true of another image.
"""

import random
from collections.abc import Mapping
from typing import Any

from slava_jax.data.instructions import IMAGE_TOKEN, Instruction, claims_hold
from slava_jax.synthetic.answers import caption_detailed, caption_short, class_name
from slava_jax.synthetic.facts import facts, supplement
from slava_jax.synthetic.groups import (
    CAPTION_QUESTIONS,
    CLASS_QUESTIONS,
    FACT_QUESTIONS,
    GROUPS,
    Answer,
    Group,
)
from slava_jax.synthetic.phrases import Writer, readable
from slava_jax.synthetic.records import GroundTruth

__all__ = [
    "DETAIL_REQUEST",
    "class_answer",
    "fact_questions",
    "facts",
    "instructions",
    "is_true",
    "label_instructions",
    "supplement",
]

# Short and detailed answers share their question (section 4.6); this asks for the detailed one.
DETAIL_REQUEST = "Answer in detail."
# Probability that a short answer gets a narrower question of its group, if the open question asks
# for a fact, and if it does not.
_ASK_CHANCE = {True: 0.5, False: 0.7}
# Few images have these, and a model learns them only from answers that state them, so most short
# answers about such an image do.
_RARE_CHANCE = 0.8
_RARE = {
    ("artefact_charging", True),
    ("composition", "bright second phase"),
    ("has_defects", True),
    ("alignment", "partly aligned"),
}
_ASKED = {question: asked for _, question, asked, _ in FACT_QUESTIONS}


def instructions(key: str, truth: GroundTruth, seed: int) -> list[Instruction]:
    """All instructions about one image: class, captions and the ten groups of section 4.3.

    Args:
      key: the image's key; it and the seed choose the wording.
      truth: what the image shows.
      seed: 0 or more; the same arguments give the same instructions.

    Returns:
      23 instructions: one `class` (short), and a short and a detailed one for `caption` and for
      each group of `groups.GROUPS`. `metadata['asked']` names the facts that a narrow question
      asks for.

    Raises:
      ValueError: a number of the record is out of its range.
    """
    table = facts(truth)
    text = supplement(truth)

    def make(question_type, task, style, question, answer, asked=()):
        # Separate random streams: adding a wording to one group does not change the others.
        writer = Writer(table, random.Random(f"{seed}/{key}/{question_type}/{style}"))
        return Instruction(
            id=f"{key}/{question_type}/{style}",
            images=(key,),
            question=_question(question, style),
            answer=answer(writer),
            task=task,
            style=style,
            category=truth.category,
            metadata=writer.metadata(question_type, text) | ({"asked": [*asked]} if asked else {}),
        )

    def rng(question_type):
        return random.Random(f"{seed}/{key}/{question_type}")

    items = [
        make("class", "classification", "short", rng("class").choice(CLASS_QUESTIONS), class_name)
    ]
    question = rng("caption").choice(CAPTION_QUESTIONS)
    items.append(make("caption", "caption", "short", question, caption_short))
    items.append(make("caption", "caption", "detailed", question, caption_detailed))
    for name, group in GROUPS.items():
        choice = rng(name)
        question = choice.choice(group.questions)
        question_asked, answer = _narrower(group, table, choice) or (question, group.short)
        asked = [fact for fact in _ASKED.get(question_asked, ()) if fact in table]
        items.append(make(name, "vqa", "short", question_asked, answer, asked))
        items.append(make(name, "vqa", "detailed", question, group.detailed))
    return items


def _narrower(
    group: Group, table: Mapping[str, Any], choice: random.Random
) -> tuple[str, Answer] | None:
    """A narrower question of the group and its answer; None to keep the open one."""
    asks = [ask for ask in group.asks if _can_be_asked(ask[1], table)]
    rare = [ask for ask in asks if (ask[1], table[ask[1]]) in _RARE]
    chance = _ASK_CHANCE[any(question in _ASKED for question in group.questions)]
    if rare and choice.random() < _RARE_CHANCE:
        question, _, answer = choice.choice(rare)
    elif asks and choice.random() < chance:
        question, _, answer = choice.choice(asks)
    else:
        return None
    return question, answer


def fact_questions(key: str, truth: GroundTruth, seed: int) -> list[Instruction]:
    """One question for each fact of an image that answers are checked on (groups.FACT_QUESTIONS).

    Arguments as of `instructions`. `metadata['asked']` names the facts that a question asks for.
    """
    table, text = facts(truth), supplement(truth)
    items = []
    for group, question, asked, answer in FACT_QUESTIONS:
        if _can_be_asked(asked[0], table):
            writer = Writer(table, random.Random(f"{seed}/{key}/{asked[0]}"))
            written = answer(writer)
            items.append(
                Instruction(
                    id=f"{key}/fact/{asked[0]}",
                    images=(key,),
                    question=_question(question, "short"),
                    answer=written,
                    task="vqa",
                    style="short",
                    category=truth.category,
                    metadata={**writer.metadata(group, text), "asked": list(asked)},
                )
            )
    return items


def label_instructions(
    key: str,
    category: str,
    facts: Mapping[str, str],
    seed: int,
    question: str | None = None,
    supplement: str = "",
) -> list[Instruction]:
    """Instructions about an image with a known class and a few known values.

    Args:
      key: the image's key.
      category: the class name.
      facts: other known values as text, e.g. {'cell_type': 'monocrystalline'}; the image's own
        facts must include these and `category` under the same names.
      seed: chooses the wording.
      question: the classification question, without `<image>`; a general one by default.
      supplement: pixel size and magnification as text (facts.supplement_text), if known.

    Returns:
      The class question (short) and a caption (short) that states the class and the values.
    """
    rng = random.Random(f"{seed}/{key}/label")
    values = [f"{readable(name)} {value}" for name, value in facts.items()]
    listed = " and ".join([", ".join(values[:-1]), values[-1]] if len(values) > 1 else values)
    show = rng.choice(("shows", "displays"))
    caption = f"This image {show} the class {class_answer(category)}"
    caption += f", {listed}." if listed else "."
    known = {"category": category, **facts}

    def make(question_type, task, asked, answer, claims):
        return Instruction(
            id=f"{key}/{question_type}/short",
            images=(key,),
            question=_question(asked, "short"),
            answer=answer,
            task=task,
            style="short",
            category=category,
            metadata={
                "question_type": question_type,
                "claims": claims,
                "supplement": supplement,
            },
        )

    asked = rng.choice(CLASS_QUESTIONS) if question is None else question
    return [
        make("class", "classification", asked, class_answer(category), {"category": category}),
        make("caption", "caption", rng.choice(CAPTION_QUESTIONS), caption, known),
    ]


def class_answer(category: str) -> str:
    """The answer to the classification question, e.g. 'MEMS devices and electrodes'."""
    return readable(category)


def is_true(instruction: Instruction, facts: Mapping[str, Any]) -> bool:
    """Whether the instruction's answer is true of an image with these facts."""
    return claims_hold(instruction.claims, facts)


def _question(text: str, style: str) -> str:
    detail = f" {DETAIL_REQUEST}" if style == "detailed" else ""
    return f"{IMAGE_TOKEN} {text}{detail}"


def _can_be_asked(fact: str, table: Mapping[str, Any]) -> bool:
    # Questions about distances and arrangement need several features.
    return fact in table and (table.get("count") != 1 or fact not in ("packing", "alignment"))

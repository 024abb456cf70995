"""Conversations to instructions, and instructions to records of the other formats."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from slava_jax.data.formats.conversation import OWN, RESERVED, Conversation, wrong
from slava_jax.data.instructions import IMAGE_TOKEN, Instruction

FORMS = ("llava", "sharegpt", "openai")
HISTORIES = ("prompt", "metadata")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How conversations that say nothing of it become instructions.

    Attributes:
      task, style: of every instruction.
      history: 'prompt', the turns before a question stand in it; or 'metadata', the question is
        asked alone, with all images shown so far, and the turns are kept in `metadata.history`.
    """

    task: str = "vqa"
    style: str = "short"
    history: str = "prompt"


def instructions_of(
    conversation: Conversation, name: str, keys: Sequence[str], reading: Reading
) -> list[Instruction]:
    """One instruction a turn; each shows the images of its own turn and of those before.

    Args:
      name: the id where the record has none.
      keys: image keys of conversation.images.

    Raises:
      InstructionError: a turn before any image, or what this library wrote does not hold any more.
    """
    own, turns = conversation.own, conversation.turns
    record_id = conversation.id or name
    known = dict(own.get("metadata", {}))
    for field, value in (("system", conversation.system), ("record", conversation.rest)):
        if value:
            known[field] = value
    items: list[Instruction] = []
    told: list[str] = []
    shown = 0
    for number, (question, answer) in enumerate(turns, start=1):
        asked = _without_supplement(question, known) if number == 1 else question
        in_prompt = reading.history == "prompt"
        before = told if in_prompt else [IMAGE_TOKEN] * shown
        shown += question.count(IMAGE_TOKEN)
        if not shown:
            raise wrong("conversations", f"turn {number} comes before any image; show one first")
        metadata = dict(known)
        if len(turns) > 1:
            metadata["conversation"] = {"id": record_id, "turn": number, "of": len(turns)}
            if told and not in_prompt:
                metadata["history"] = list(told)
        item = Instruction(
            id=record_id if len(turns) == 1 else f"{record_id}/{number}",
            images=tuple(keys[:shown]),
            question="\n".join([*before, asked]),
            answer=answer,
            task=own.get("task", reading.task),
            style=own.get("style", reading.style),
            category=own.get("category", ""),
            metadata=metadata,
        )
        items.append(item)
        told += [asked, answer]
    return items


def record_of(
    item: Instruction, form: str, plain: bool, image: Callable[[str, str], str]
) -> dict[str, Any]:
    """The record of one instruction: one question, one answer.

    The supplement stands before the question. What the form has no place for goes under
    `slava_jax`, unless `plain`; fields of the record that it once came from are put back.

    Args:
      form: one of FORMS.
      image: (field, image key) -> what the record is to name.

    Raises:
      InstructionError: `<image>` stands outside of the question.
    """
    metadata = dict(item.metadata)
    system, rest = metadata.get("system"), metadata.get("record")
    told = isinstance(system, str) and system.strip()
    system = metadata.pop("system") if told else ""
    mine = isinstance(rest, dict) and not RESERVED & rest.keys()
    rest = metadata.pop("record") if mine else {}
    supplement = metadata["supplement"]
    for field, text in (("answer", item.answer), ("supplement", supplement), ("system", system)):
        if IMAGE_TOKEN in text:
            raise wrong(field, f"holds {IMAGE_TOKEN}, which only questions can; remove it")
    question = f"{supplement}\n{item.question}" if supplement else item.question
    images = [image(f"images[{i}]", key) for i, key in enumerate(item.images)]
    record: dict[str, Any] = {} if plain and form == "openai" else {"id": item.id}
    if form == "openai":
        record["messages"] = [
            *([{"role": "system", "content": system}] if system else []),
            {"role": "user", "content": _parts(question, images)},
            {"role": "assistant", "content": item.answer},
        ]
    else:
        if form == "llava":
            record["image"] = images[0] if len(images) == 1 else images
        record["conversations"] = [
            *([{"from": "system", "value": system}] if system else []),
            {"from": "human", "value": question},
            {"from": "gpt", "value": item.answer},
        ]
        if form == "sharegpt":
            record["images"] = images
    own = {"task": item.task, "style": item.style, "category": item.category}
    if images != list(item.images):
        own["images"] = list(item.images)
    return {**record, **({} if plain else {OWN: {**own, "metadata": metadata}}), **rest}


def own_key(conversation: Conversation, i: int) -> str:
    """The key that this library noted for the i-th image, '' where it did not."""
    keys = conversation.own.get("images")
    if keys is None:
        return ""
    named = isinstance(keys, list) and all(isinstance(key, str) and key for key in keys)
    if not named or len(keys) != len(conversation.images):
        raise wrong(f"{OWN}.images", f"must name {len(conversation.images)} image(s), is {keys!r}")
    return keys[i]


def _without_supplement(question: str, metadata: dict) -> str:
    supplement = metadata.get("supplement", "")
    if not supplement:
        return question
    start = f"{supplement}\n"
    if not isinstance(supplement, str) or not question.startswith(start):
        raise wrong(
            f"{OWN}.metadata.supplement",
            "the question does not begin with it; write the same in both places, or remove it here",
        )
    return question.removeprefix(start)


def _parts(question: str, images: Sequence[str]) -> list[dict]:
    first, *texts = question.split(IMAGE_TOKEN)
    parts = [{"type": "text", "text": first}] if first else []
    for url, text in zip(images, texts, strict=True):
        parts.append({"type": "image_url", "image_url": {"url": url}})
        if text:
            parts.append({"type": "text", "text": text})
    return parts

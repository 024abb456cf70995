"""Converts conversations to instructions, and instructions to records in other formats."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from slava_jax.data.formats.conversation import OWN, RESERVED, Conversation, field_error
from slava_jax.data.instructions import IMAGE_TOKEN, Instruction

FORMS = ("llava", "sharegpt", "openai")


@dataclasses.dataclass(frozen=True)
class Reading:
    """Default `task` and `style` for conversations that do not give their own."""

    task: str = "vqa"
    style: str = "short"


def instruction_of(
    conversation: Conversation, name: str, keys: Sequence[str], reading: Reading
) -> Instruction:
    """Returns the instruction for a conversation: the last turn, with earlier ones in `turns`.

    Args:
      name: the id to use if the record has none.
      keys: image keys of conversation.images.

    Raises:
      InstructionError: the fields that this library wrote no longer match the conversation.
    """
    own = conversation.own
    known = dict(own.get("metadata", {}))
    for field, value in (("system", conversation.system), ("record", conversation.rest)):
        if value:
            known[field] = value
    (question, answer), *others = conversation.turns
    turns = [(_without_supplement(question, known), answer), *others]
    question, answer = turns.pop()
    return Instruction(
        id=conversation.id or name,
        images=tuple(keys),
        question=question,
        answer=answer,
        task=own.get("task", reading.task),
        style=own.get("style", reading.style),
        category=own.get("category", ""),
        metadata=known,
        turns=tuple(turns),
    )


def record_of(
    item: Instruction, form: str, plain: bool, image: Callable[[str, str], str]
) -> dict[str, Any]:
    """Returns the record for one instruction, with all its turns.

    The supplement goes before the first question. Fields that the format has no place for go under
    `slava_jax`, unless `plain`. Unknown fields of an imported record are restored.

    Args:
      form: one of FORMS.
      image: maps (field, image key) to the reference that the record should hold.

    Raises:
      InstructionError: `<image>` appears outside the questions.
    """
    metadata = dict(item.metadata)
    system, rest = metadata.get("system"), metadata.get("record")
    told = isinstance(system, str) and system.strip()
    system = metadata.pop("system") if told else ""
    mine = isinstance(rest, dict) and not RESERVED & rest.keys()
    rest = metadata.pop("record") if mine else {}
    turns = _turns(item, system)
    images = [image(f"images[{i}]", key) for i, key in enumerate(item.images)]
    record: dict[str, Any] = {} if plain and form == "openai" else {"id": item.id}
    if form == "openai":
        messages = [{"role": "system", "content": system}] if system else []
        urls = iter(images)
        for question, answer in turns:
            messages.append({"role": "user", "content": _parts(question, urls)})
            messages.append({"role": "assistant", "content": answer})
        record["messages"] = messages
    else:
        if form == "llava":
            record["image"] = images[0] if len(images) == 1 else images
        messages = [{"from": "system", "value": system}] if system else []
        for question, answer in turns:
            messages.append({"from": "human", "value": question})
            messages.append({"from": "gpt", "value": answer})
        record["conversations"] = messages
        if form == "sharegpt":
            record["images"] = images
    own = {"task": item.task, "style": item.style, "category": item.category}
    if images != list(item.images):
        own["images"] = list(item.images)
    return {**record, **({} if plain else {OWN: {**own, "metadata": metadata}}), **rest}


def own_key(conversation: Conversation, i: int) -> str:
    """Returns the key that this library saved for the i-th image, '' if it saved none."""
    keys = conversation.own.get("images")
    if keys is None:
        return ""
    named = isinstance(keys, list) and all(isinstance(key, str) and key for key in keys)
    if not named or len(keys) != len(conversation.images):
        raise field_error(
            f"{OWN}.images", f"must list {len(conversation.images)} image(s), is {keys!r}"
        )
    return keys[i]


def _without_supplement(question: str, metadata: dict) -> str:
    supplement = metadata.get("supplement", "")
    if not supplement:
        return question
    start = f"{supplement}\n"
    if not isinstance(supplement, str) or not question.startswith(start):
        raise field_error(
            f"{OWN}.metadata.supplement",
            "the question does not start with it; make both the same, or remove it here",
        )
    return question.removeprefix(start)


def _turns(item: Instruction, system: str) -> list[tuple[str, str]]:
    """Returns all turns, with the supplement before the first question."""
    (question, answer), *others = (*item.turns, (item.question, item.answer))
    supplement = item.metadata["supplement"]
    texts = [("supplement", supplement), ("system", system), ("answer", item.answer)]
    texts += [(f"turns[{i}][1]", told) for i, (_, told) in enumerate(item.turns)]
    for field, text in texts:
        if IMAGE_TOKEN in text:
            raise field_error(field, f"{IMAGE_TOKEN} is only allowed in questions; remove it")
    return [(f"{supplement}\n{question}" if supplement else question, answer), *others]


def _parts(question: str, urls: Iterator[str]) -> str | list[dict]:
    """Returns the content of a user message; takes one of `urls` per image shown."""
    first, *texts = question.split(IMAGE_TOKEN)
    if not texts:
        return question
    parts = [{"type": "text", "text": first}] if first else []
    for text in texts:
        parts.append({"type": "image_url", "image_url": {"url": next(urls)}})
        if text:
            parts.append({"type": "text", "text": text})
    return parts

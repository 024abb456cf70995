"""Tokenises conversations: messages, images and a template to ids, image spans and a loss mask.

Shape letters: n tokens, I images, A answers, M positions per image.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from slava_jax.data.instructions import IMAGE_TOKEN, Instruction
from slava_jax.data.templates import TEMPLATES, TOKENIZERS_OWN, ChatError, Slot, layouts
from slava_jax.data.tokenizer import PAD_ID, encode_texts

ROLES = ("system", "user", "assistant")

# Units of a conversation before its texts are tokenised: (text, whether it continues a text), token
# ids, and these three markers.
_IMAGE, _ANSWER, _ANSWERED = object(), object(), object()


@dataclasses.dataclass(frozen=True)
class Message:
    """One message of a conversation; `<image>` in a user's text marks the place of an image.

    Raises:
      ChatError: the role is not one of ROLES, or the text cannot be encoded as UTF-8.
    """

    role: str
    text: str

    def __post_init__(self):
        if self.role not in ROLES:
            raise ChatError(f"a message's role must be one of {', '.join(ROLES)}, is {self.role!r}")
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            raise ChatError(
                f"a message holds half a character at {error.start}, as bytes that are not UTF-8 "
                "become; write it again"
            ) from error


@dataclasses.dataclass(frozen=True)
class TextForm:
    """The text format that a model expects.

    Attributes:
      template: 'plain', 'vicuna_v1', 'llama2', 'chatml', or 'tokenizer' for the tokenizer's own.
      image_tokens: M, the number of sequence positions per image (sLAVA: 1).
      image_id: the id at those positions. `None` for a model that inserts embeddings there and
        looks up no id: padding then fills them, and every id may be text.
      end_id: the id that ends an answer. With 'chatml' and 'tokenizer' it must be the id that the
        template itself writes after an answer.

    Raises:
      ChatError: the template is unknown, or image_tokens is below 1.
    """

    template: str
    image_tokens: int
    image_id: int | None
    end_id: int

    def __post_init__(self):
        known = (*TEMPLATES, TOKENIZERS_OWN)
        if self.template not in known:
            raise ChatError(f"template must be one of {', '.join(known)}, is {self.template!r}")
        if self.image_tokens < 1:
            raise ChatError(f"image_tokens must be at least 1, is {self.image_tokens}")


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """The token ids of one conversation, up to the end of its last answer.

    Attributes:
      ids: int32[n], prompt and answers, each answer followed by its end token.
      spans: int32[I, 2], start and stop of each image's positions in ids.
      answers: int32[A, 2], start and stop of each answer in ids, end token included; A >= 1. The
        spaces that a template writes around an answer are part of it, since the model writes them.
    """

    ids: np.ndarray
    spans: np.ndarray
    answers: np.ndarray

    @property
    def prompt_ids(self) -> np.ndarray:
        """int32[n]: everything before the last answer."""
        return self.ids[: self.answers[-1, 0]]

    @property
    def answer_ids(self) -> np.ndarray:
        """int32[n]: the last answer without its end token."""
        return self.ids[self.answers[-1, 0] : self.answers[-1, 1] - 1]

    @property
    def loss_mask(self) -> np.ndarray:
        """bool[n]: True on all answer tokens and their end tokens."""
        mask = np.zeros(len(self.ids), bool)
        for start, stop in self.answers:
            mask[start:stop] = True
        return mask

    @property
    def image_index(self) -> np.ndarray:
        """int32[n]: i * M + j at position j of image i, -1 elsewhere."""
        index = np.full(len(self.ids), -1, np.int32)
        for i, (start, stop) in enumerate(self.spans):
            index[start:stop] = np.arange(i * (stop - start), (i + 1) * (stop - start))
        return index


def encode_examples(
    instructions: Sequence[Instruction], tokenizer: PreTrainedTokenizerFast, form: TextForm
) -> list[Example]:
    """Tokenises instructions for training; each distinct piece of text is tokenised once.

    Answers are tokenised separately from the text before them, because a model starts an answer
    with a new token. The ids before an answer are therefore those of `encode_prompt` for the same
    messages.

    Raises:
      ChatError: an answer has no tokens, or `<image>` marks do not match the images or occur
        outside the questions (names the instruction); or the template cannot be used.
    """
    conversations = [conversation_of(item) for item in instructions]
    orders = [tuple(message.role for message in messages) for messages in conversations]
    places = layouts(form.template, orders, form.end_id, tokenizer)
    units = []
    for item, messages, order in zip(instructions, conversations, orders, strict=True):
        _check_images(messages, len(item.images), f"instruction {item.id!r}")
        units.append(_units(messages, places[order], form.end_id))
    ids_of = _token_ids((unit for of in units for unit in of), tokenizer, form)
    examples = []
    for item, of in zip(instructions, units, strict=True):
        ids, spans, answers = _joined(of, ids_of, form, f"instruction {item.id!r}")
        examples.append(Example(ids, spans, answers))
    return examples


def encode_prompt(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerFast, form: TextForm, images: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenises messages for inference, up to the start of the answer.

    If no message has an `<image>`, all images go before the first user message.

    Args:
      messages: an optional system message, then user and assistant in turn, ending with the user.
      images: number of images.

    Returns:
      ids int32[n], spans int32[I, 2]: start and stop of each image's positions.

    Raises:
      ChatError: the messages are in another order, their `<image>` marks do not match the images,
        or the template cannot be used.
    """
    order = _order(messages)
    name = f"question {messages[-1].text!r}"
    first = order.index("user")
    if not any(IMAGE_TOKEN in message.text for message in messages):
        text = user_text(messages[first].text, images=images)
        messages = [*messages[:first], Message("user", text), *messages[first + 1 :]]
    _check_images(messages, images, name)
    order = (*order, "assistant")
    slots = layouts(form.template, [order], form.end_id, tokenizer)[order]
    units = _units([*messages, Message("assistant", "")], slots, form.end_id)
    units = units[: len(units) - 1 - units[::-1].index(_ANSWER)]
    ids, spans, _ = _joined(units, _token_ids(units, tokenizer, form), form, name)
    return ids, spans


def encode_answers(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, form: TextForm
) -> list[np.ndarray]:
    """Tokenises each text as an answer, int32[U], with the end id last.

    The ids are those of `encode_examples` for the same answer.
    """
    order = ("user", "assistant")
    slots = layouts(form.template, [order], form.end_id, tokenizer)[order]
    question = Message("user", "?")
    units = [_units((question, Message("assistant", text)), slots, form.end_id) for text in texts]
    ids_of = _token_ids((unit for of in units for unit in of), tokenizer, form)
    found = []
    for text, of in zip(texts, units, strict=True):
        ids, _, answers = _joined(of, ids_of, form, f"answer {text!r}")
        found.append(ids[answers[0, 0] : answers[0, 1]])
    return found


def conversation_of(instruction: Instruction) -> tuple[Message, ...]:
    """Returns the messages of an instruction: system prompt, earlier turns, question and answer.

    The system prompt is `metadata['system']` if that is a non-empty string. The supplement goes
    before the first question.

    Raises:
      ChatError: the supplement contains `<image>`; names the instruction.
    """
    supplement, system = instruction.metadata["supplement"], instruction.metadata.get("system")
    if IMAGE_TOKEN in supplement:
        raise ChatError(
            f"instruction {instruction.id!r}: {IMAGE_TOKEN} in the supplement; it is only allowed "
            "in questions"
        )
    messages = []
    if isinstance(system, str) and system.strip():
        messages.append(Message("system", system))
    for question, answer in (*instruction.turns, (instruction.question, instruction.answer)):
        messages.append(Message("user", user_text(question, supplement)))
        messages.append(Message("assistant", answer))
        supplement = ""
    return tuple(messages)


def user_text(question: str, supplement: str = "", images: int = 0) -> str:
    """Returns the text of a user message: the supplement, if any, and the question.

    Args:
      images: number of images to put before a question that has no `<image>`.
    """
    if IMAGE_TOKEN not in question:
        question = f"{IMAGE_TOKEN} " * images + question  # as the teacher writes it
    blank = " " if supplement and question and not question.startswith(IMAGE_TOKEN) else ""
    return f"{supplement}{blank}{question}"


def _order(messages: Sequence[Message]) -> tuple[str, ...]:
    order = tuple(message.role for message in messages)
    turns = order[1:] if order[:1] == ("system",) else order
    if turns[-1:] != ("user",) or turns != (("user", "assistant") * len(turns))[: len(turns)]:
        raise ChatError(
            f"message roles {', '.join(order) or '(none)'}: must be an optional system message, "
            "then user and assistant in turn, ending with the user"
        )
    return order


def _check_images(messages: Sequence[Message], images: int, name: str) -> None:
    found = asked = 0
    for message in messages:
        marks = message.text.count(IMAGE_TOKEN)
        if message.role == "user":
            found, asked = found + marks, asked + 1
        elif marks:
            raise ChatError(
                f"{name}: {IMAGE_TOKEN} in a message of role {message.role!r}; it is only allowed "
                "in questions"
            )
    if found != images:
        raise ChatError(
            f"{name}: {found} {IMAGE_TOKEN} in the question{'s' * (asked > 1)} for {images} "
            f"image(s); write one {IMAGE_TOKEN} for each image"
        )


def _units(messages: Sequence[Message], slots: Sequence[Slot], end_id: int) -> list:
    """Returns texts, token ids, images and ends of answers, in order.

    A user's text and the adjacent template text are merged into one, as other libraries tokenise
    them.
    """
    units: list = []
    text = ""
    for message, slot in zip(messages, slots, strict=True):
        for part in slot.before:
            if isinstance(part, str):
                text += part
                continue
            if text:
                units.append((text, False))
            units.append(part)
            text = ""
        said = message.text.lstrip() if slot.strips[0] else message.text
        said = said.rstrip() if slot.strips[1] else said
        if message.role == "assistant":
            answer = (f"{slot.lead}{said}{slot.tail}", slot.continues)
            units += [*([(text, False)] if text else []), _ANSWER, answer, end_id, _ANSWERED]
            text = ""
            continue
        first, *rest = said.split(IMAGE_TOKEN)
        text += first
        for piece in rest:
            units += [(text, False), _IMAGE] if text else [_IMAGE]
            text = piece
    return units


def _token_ids(
    units: Iterable, tokenizer: PreTrainedTokenizerFast, form: TextForm
) -> dict[tuple[str, bool], list[int]]:
    """Tokenises the distinct texts among the units in one call."""
    distinct = list(dict.fromkeys(unit for unit in units if isinstance(unit, tuple)))
    ids_of = dict(zip(distinct, encode_texts(tokenizer, [t for t, _ in distinct]), strict=True))
    if any(continues for _, continues in distinct) and _adds_blank(tokenizer):
        later = [key for key in distinct if key[1]]
        # No space is added after a newline; encode with a newline in front and strip its ids.
        (line_end, *found) = encode_texts(tokenizer, ["\n", *(f"\n{text}" for text, _ in later)])
        for key, ids in zip(later, found, strict=True):
            if ids[: len(line_end)] == line_end:
                ids_of[key] = ids[len(line_end) :]
    guarded = {form.image_id, form.end_id} - {None}
    guarded |= set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for key, ids in ids_of.items():
        if not guarded.isdisjoint(ids):
            ids_of[key] = _without(guarded, key[0], tokenizer)
    return ids_of


def _adds_blank(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Returns whether the tokenizer adds a space at the start of a text (SentencePiece)."""
    first = tokenizer.convert_ids_to_tokens(encode_texts(tokenizer, ["a"])[0])[0]
    return first.startswith("▁")


def _without(guarded: set[int], text: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokenises a text that spells guarded tokens by cutting it within their names.

    Only needed for tokenizers that find such tokens in plain text.
    """
    known = sorted(i for i in guarded if 0 <= i < len(tokenizer))
    names = tokenizer.convert_ids_to_tokens(known)
    cut = re.compile("|".join(f"(?<={re.escape(n[0])})(?={re.escape(n[1:])})" for n in names if n))
    ids = [i for part in encode_texts(tokenizer, cut.split(text)) for i in part]
    if not guarded.isdisjoint(ids):
        raise ChatError(
            f"text {text[:80]!r}: the tokenizer turns it into a special token; remove it or fix "
            "the tokenizer"
        )
    return ids


def _joined(
    units: Sequence, ids_of: dict[tuple[str, bool], list[int]], form: TextForm, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns ids int32[n], spans int32[I, 2] and answers int32[A, 2]."""
    ids: list[int] = []
    spans, answers, start = [], [], 0
    for unit in units:
        if isinstance(unit, tuple):
            ids += ids_of[unit]
        elif unit is _IMAGE:
            spans.append((len(ids), len(ids) + form.image_tokens))
            ids += [PAD_ID if form.image_id is None else form.image_id] * form.image_tokens
        elif unit is _ANSWER:
            start = len(ids)
        elif unit is _ANSWERED:
            answers.append((start, len(ids)))
            if len(ids) - start < 2:
                raise ChatError(f"{name}: the answer has no tokens; write one")
        else:
            ids.append(unit)
    pairs = (np.asarray(found, np.int32).reshape(-1, 2) for found in (spans, answers))
    return np.asarray(ids, np.int32), *pairs

"""How often each instruction is sampled for training, and which of them share a text.

If one in five micrographs shows charging, a model that always says no is right on four. So the
answers of a closed question are sampled equally often, and no answer is likely without looking.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from slava_jax.data.instructions import IMAGE_TOKEN, Instruction
from slava_jax.data.pipeline import STREAM_TURNS, stream

_SHOWN = f"{IMAGE_TOKEN} "  # begins a question that can follow another one about the image
_LEAST = 0.1  # of the rarest answer's weight: a common one still shows more images
_YES_NO = re.compile(r"(yes|no)\b", re.IGNORECASE)


def sampling_weights(instructions: Sequence[Instruction], asked_weight: float) -> np.ndarray:
    """float[n]: relative frequencies among the instructions of one image; 1 for open questions, for
    conversations and for the rarest answer to a closed question.

    Args:
      asked_weight: of questions for single facts (`metadata['asked']`), whose answers are short and
        can be checked.
    """
    closed = [_closed(item) for item in instructions]
    counts = Counter(pair for pair in closed if pair is not None)
    rarest: dict[str, int] = {}
    for (question, _), count in counts.items():
        rarest[question] = min(count, rarest.get(question, count))
    weights = np.ones(len(instructions))
    for row, (item, pair) in enumerate(zip(instructions, closed, strict=True)):
        if pair is not None:
            # Common answers weigh less. If rare ones weighed more, they would soon be in every
            # sample, and the balance would be lost again.
            weights[row] = max(rarest[pair[0]] / counts[pair], _LEAST)
        if item.metadata.get("asked") and not item.turns:
            weights[row] *= asked_weight
    return weights


def conversations(
    instructions: Sequence[Instruction],
    lengths: Sequence[int],
    limits: tuple[int, int],
    asked_weight: float,
    seed: int,
) -> list[Instruction]:
    """Joins questions about the same image into conversations, in which the image is read once.

    First the questions are thinned out in proportion to their `sampling_weights`. They are joined
    if they begin with the image, show no other, and have the same supplement. A conversation is
    directional if one of its answers is.

    Args:
      lengths: tokens of each instruction, its image counted as one.
      limits: the maximum number of questions and of tokens in a conversation.
    """
    rng = stream(seed, STREAM_TURNS)
    weights = sampling_weights(instructions, asked_weight)
    kept = rng.random(len(weights)) * weights.max(initial=0) < weights
    groups: dict[tuple, list[int]] = {}
    for row in rng.permutation(np.flatnonzero(kept)).tolist():
        item = instructions[row]
        alone = len(item.images) > 1 or item.turns or not item.question.startswith(_SHOWN)
        key = (row,) if alone else (item.target, item.metadata["supplement"])
        groups.setdefault(key, []).append(row)
    joined = []
    for rows in groups.values():
        for part in _parts(rows, lengths, *limits):
            joined.append(_conversation([instructions[row] for row in part]))
    return joined


def _parts(rows: list[int], lengths: Sequence[int], turns: int, tokens: int) -> Iterator[list[int]]:
    part, room = [], tokens
    for row in rows:
        if part and (len(part) == turns or lengths[row] > room):
            yield part
            part, room = [], tokens
        part.append(row)
        room -= lengths[row]
    yield part


def _conversation(items: list[Instruction]) -> Instruction:
    first, last = items[0], items[-1]
    if first is last:
        return first
    asked = [item.question.removeprefix(_SHOWN) for item in items[1:]]
    questions = [first.question, *asked]
    turns = [(q, item.answer) for q, item in zip(questions, items[:-1], strict=False)]
    directional = any(item.metadata["directional"] for item in items)
    return dataclasses.replace(
        last,
        question=questions[-1],
        metadata={**last.metadata, "directional": directional},
        turns=tuple(turns),
    )


def _closed(item: Instruction) -> tuple[str, str] | None:
    """Question and answer of a closed question; None for an open one and for a conversation.

    The answer is the fact asked for, if that is a word; otherwise a leading yes or no.
    """
    if item.turns:
        return None
    for fact in item.metadata.get("asked", ())[:1]:
        value = item.claims.get(fact)
        if isinstance(value, str | bool):
            return item.question, str(value)
    match = _YES_NO.match(item.answer)
    return (item.question, match[1].lower()) if match else None

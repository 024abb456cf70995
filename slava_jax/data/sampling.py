"""How often each instruction is sampled for training.

If one in five micrographs shows charging, a model that always says no is right on four. So the
answers of a closed question are sampled equally often, and no answer is likely without looking.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from slava_jax.data.instructions import Instruction

_LEAST = 0.1  # of the rarest answer's weight: a common one still shows more images
_YES_NO = re.compile(r"(yes|no)\b", re.IGNORECASE)


def sampling_weights(instructions: Sequence[Instruction], asked_weight: float) -> np.ndarray:
    """float[n]: relative frequencies among the instructions of one image; 1 for open questions and
    for the rarest answer to a closed one.

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
        if item.metadata.get("asked"):
            weights[row] *= asked_weight
    return weights


def _closed(item: Instruction) -> tuple[str, str] | None:
    """Question and answer of a closed question; None for an open one.

    The answer is the fact asked for, if that is a word; otherwise a leading yes or no.
    """
    for fact in item.metadata.get("asked", ())[:1]:
        value = item.claims.get(fact)
        if isinstance(value, str | bool):
            return item.question, str(value)
    match = _YES_NO.match(item.answer)
    return (item.question, match[1].lower()) if match else None

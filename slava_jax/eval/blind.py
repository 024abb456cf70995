"""The answer one would give without an image: what the questions alone give away.

An exchanged image misleads, which is more than to show none. Here nothing is shown: of the training
answers to the same question the one is given that has most words in common with the others. It is
the prior per question type of Antol et al. (arXiv 1505.00468), for answers in sentences; a floor,
if not the best that can be said blindly.
"""

import re
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from slava_jax.data.instructions import Instruction

# Answers that are compared with each other, where a question has more: spread over all of them.
_COMPARED = 200

# Which training answers are those to the same question, from the closest on.
_ALIKE: tuple[Callable[[Instruction], Hashable], ...] = (
    lambda item: (item.questions, item.style, item.question_type),
    lambda item: (item.question, item.style, item.question_type),
    lambda item: (item.question_type, item.style),
    lambda item: item.task,
    lambda item: None,
)


def blind_answers(asked: Sequence[Instruction], known: Sequence[Instruction]) -> list[str]:
    """An answer to each of `asked`, from the instructions of training (`known`) and no image.

    A question is the same after the same earlier ones, else wherever it stands. One that is not
    among them is answered like others of its type and style, else of its
    task, else like any. Raises ValueError where `known` is empty.
    """
    if not known:
        raise ValueError("there is no training instruction to answer from")
    answers: dict[int, str] = {}
    for alike in _ALIKE:
        left = {i: alike(item) for i, item in enumerate(asked) if i not in answers}
        if not left:
            break
        pools: dict[Hashable, list[str]] = {key: [] for key in left.values()}
        for item in known:
            if (pool := pools.get(alike(item))) is not None:
                pool.append(item.answer)
        found = {key: commonest(pool) for key, pool in pools.items() if pool}
        answers |= {i: found[key] for i, key in left.items() if key in found}
    return [answers[i] for i in range(len(asked))]


def commonest(texts: Sequence[str]) -> str:
    """The text whose F1 of words with all the others is the highest in the mean.

    Of as good ones the first. From more than 200 texts, 200 are taken evenly.
    """
    if len(texts) > _COMPARED:
        texts = [texts[i * len(texts) // _COMPARED] for i in range(_COMPARED)]
    split = [re.findall("[a-z0-9]+", text.lower()) for text in texts]  # as ROUGE has them
    column = {word: i for i, word in enumerate(sorted({word for words in split for word in words}))}
    counts = np.zeros((len(texts), len(column)))
    for row, words in zip(counts, split, strict=True):
        np.add.at(row, [column[word] for word in words], 1)
    lengths = counts.sum(1)
    f1 = [
        2 * np.minimum(row, counts).sum(1) / np.maximum(length + lengths, 1)
        for row, length in zip(counts, lengths, strict=True)
    ]
    return texts[int(np.argmax(np.sum(f1, axis=1)))]

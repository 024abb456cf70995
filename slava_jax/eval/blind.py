"""The no-image control: answers given from the question alone.

A mismatched image actively misleads the model; this control shows no image. It answers with the
training answer to the same question that shares most words with the others: the prior per question
type of Antol et al. (arXiv 1505.00468), for answers in sentences. It is a floor, not the best
possible blind answer.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from slava_jax.data.instructions import Instruction
from slava_jax.eval.text_metrics import unicode_words

# At most this many answers per question are compared with each other, spread over all of them.
_COMPARED = 200

# What makes two questions the same, strictest first.
_ALIKE: tuple[Callable[[Instruction], Hashable], ...] = (
    lambda item: (item.questions, item.style, item.question_type),
    lambda item: (item.question, item.style, item.question_type),
    lambda item: (item.question_type, item.style),
    lambda item: item.task,
    lambda item: None,
)


def blind_answers(asked: Sequence[Instruction], known: Sequence[Instruction]) -> list[str]:
    """Answers each of `asked` from the training instructions `known`, without an image.

    Answers come from the same question after the same earlier ones, else from the same question
    anywhere, else from questions of its type and style, else of its task, else from all of them.
    Raises ValueError if `known` is empty.
    """
    if not known:
        raise ValueError("there are no training instructions to answer from")
    answers: dict[int, str] = {}
    for alike in _ALIKE:
        left = {i: alike(item) for i, item in enumerate(asked) if i not in answers}
        if not left:
            break
        pools: dict[Hashable, list[str]] = {key: [] for key in left.values()}
        for item in known:
            if (pool := pools.get(alike(item))) is not None:
                pool.append(item.answer)
        found = {key: medoid(pool) for key, pool in pools.items() if pool}
        answers |= {i: found[key] for i, key in left.items() if key in found}
    return [answers[i] for i in range(len(asked))]


def medoid(texts: Sequence[str]) -> str:
    """The text with the highest mean word F1 against all the others; the first of equals.

    More than 200 texts are subsampled evenly to 200.
    """
    if len(texts) > _COMPARED:
        texts = [texts[i * len(texts) // _COMPARED] for i in range(_COMPARED)]
    split = [unicode_words(text) for text in texts]  # of English text ROUGE's
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

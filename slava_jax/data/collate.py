"""Pads token ids to batch arrays. Shape letters: B rows, T tokens, U predicted tokens."""

from collections.abc import Sequence

import numpy as np

from slava_jax.data.chat import ChatError, Example
from slava_jax.data.tokenizer import PAD_ID


def text_fields(
    rows: Sequence[np.ndarray], spans: Sequence[np.ndarray], length: int
) -> dict[str, np.ndarray]:
    """Pads texts on the right, as models/interface.Prompt expects.

    Args:
      rows: token ids, int32[n] each.
      spans: image positions, int32[I, 2] each.

    Returns:
      tokens, image_index int32[B, T]; length int32[B].

    Raises:
      ChatError: a text is longer than `length`.
    """
    longest = max(len(ids) for ids in rows)
    if longest > length:
        raise ChatError(f"a prompt has {longest} tokens, more than the {length} that fit")
    tokens = np.full((len(rows), length), PAD_ID, np.int32)
    index = np.full((len(rows), length), -1, np.int32)
    for i, (ids, images) in enumerate(zip(rows, spans, strict=True)):
        tokens[i, : len(ids)] = ids
        count = 0
        for start, stop in images.tolist():
            index[i, start:stop] = np.arange(count, count + stop - start)
            count += stop - start
    lengths = np.fromiter((len(ids) for ids in rows), np.int32, len(rows))
    return {"tokens": tokens, "image_index": index, "length": lengths}


def answer_window(example: Example, every_answer: bool) -> tuple[int, int]:
    """Returns start and stop of the predicted tokens, over all answers or only the last one."""
    answers = example.answers
    return int(answers[0 if every_answer else -1][0]), int(answers[-1][1])


def assistant_fields(
    examples: Sequence[Example], shape: tuple[int, int], every_answer: bool
) -> dict[str, np.ndarray]:
    """Returns the text fields of an assistant batch.

    Args:
      shape: T and U, large enough for every example.
      every_answer: train on all answers of a conversation; otherwise only on the last one.

    Returns:
      The fields of `text_fields`; answer_start int32[B], the first predicted token; weights
      float32[B, U], 1 on tokens from there on that belong to an answer or end one.
    """
    length, predicted = shape
    fields = text_fields([e.ids for e in examples], [e.spans for e in examples], length)
    start = np.zeros(len(examples), np.int32)
    weights = np.zeros((len(examples), predicted), np.float32)
    for i, example in enumerate(examples):
        start[i], stop = answer_window(example, every_answer)
        weights[i, : stop - start[i]] = example.loss_mask[start[i] : stop]
    return {**fields, "answer_start": start, "weights": weights}


def prompt_part(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the prompts of an assistant batch, with the answers cut off.

    Identical texts (as when a folder of images is asked one question) are merged into one row.
    """
    length = fields.get("answer_start", fields["length"]).astype(np.int32)
    behind = np.arange(fields["tokens"].shape[1]) >= length[:, None]
    tokens = np.where(behind, PAD_ID, fields["tokens"])
    index = np.where(behind, -1, fields["image_index"])
    same = all((a == a[:1]).all() for a in (tokens, index, length))
    rows = slice(1 if same else None)
    return {"tokens": tokens[rows], "image_index": index[rows], "length": length[rows]}

"""Token ids to the padded arrays of a batch. Letters: B rows, T tokens, U predicted tokens."""

from collections.abc import Sequence

import numpy as np

from slava_jax.data.chat import ChatError, Example
from slava_jax.data.tokenizer import PAD_ID


def text_fields(
    rows: Sequence[np.ndarray], spans: Sequence[np.ndarray], length: int
) -> dict[str, np.ndarray]:
    """Texts padded on the right, as models/interface.Prompt has them.

    Args:
      rows: int32[n] each, token ids. spans: int32[I, 2] each, where its images stand.

    Returns:
      tokens, image_index int32[B, T]; length int32[B].

    Raises:
      ChatError: a text is longer than `length`.
    """
    longest = max(len(ids) for ids in rows)
    if longest > length:
        raise ChatError(f"a prompt has {longest} tokens, more than the {length} there is room for")
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
    """Start and stop of the tokens that are predicted: of all answers, or of the last one."""
    answers = example.answers
    return int(answers[0 if every_answer else -1][0]), int(answers[-1][1])


def assistant_fields(
    examples: Sequence[Example], shape: tuple[int, int], every_answer: bool
) -> dict[str, np.ndarray]:
    """The text side of an assistant batch.

    Args:
      shape: T and U, at least what each example needs.
      every_answer: all answers of a conversation count; else the last one alone.

    Returns:
      What `text_fields` does; answer_start int32[B], the first token that counts; weights
      float32[B, U], 1 on the tokens from there on that are an answer's or end one.
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
    """Of the fields of an assistant batch, the prompts alone: the answers are cut off.

    Texts that are all the same, as when one question is put to a folder of images, become one row.
    """
    length = fields.get("answer_start", fields["length"]).astype(np.int32)
    behind = np.arange(fields["tokens"].shape[1]) >= length[:, None]
    tokens = np.where(behind, PAD_ID, fields["tokens"])
    index = np.where(behind, -1, fields["image_index"])
    same = all((a == a[:1]).all() for a in (tokens, index, length))
    rows = slice(1 if same else None)
    return {"tokens": tokens[rows], "image_index": index[rows], "length": length[rows]}

"""Rows of token ids to the padded arrays of a batch. Letters: B rows, T tokens, U answer tokens."""

from collections.abc import Sequence

import numpy as np

from slava_jax.data.prompts import Example, PromptError
from slava_jax.data.tokenizer import PAD_ID, SpecialTokens

# The order of padding: above every real position, so that no real token sees it as past.
PAD_ORDER = 2**30


def token_fields(rows: Sequence[np.ndarray], image_id: int, length: int) -> dict[str, np.ndarray]:
    """Token rows padded on the right.

    Returns:
      tokens int32[B, T]; order int32[B, T], the position of a token, PAD_ORDER for padding;
      images_before int32[B, T], the number of `<image>` at or before the token.
    """
    tokens = np.full((len(rows), length), PAD_ID, np.int32)
    lengths = np.fromiter((len(ids) for ids in rows), np.int32, len(rows))
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    position = np.arange(length, dtype=np.int32)
    return {
        "tokens": tokens,
        "order": np.where(position < lengths[:, None], position, np.int32(PAD_ORDER)),
        "images_before": np.cumsum(tokens == image_id, axis=1, dtype=np.int32),
    }


def pad_prompts(
    prompts: Sequence[np.ndarray], specials: SpecialTokens, length: int | None = None
) -> dict[str, np.ndarray]:
    """Prompts made by `encode_prompt` as one batch for inference.

    Returns:
      tokens, order, images_before int32[B, T] and encode_at int32[B, 2] (twice the position of
      the only `<Encode>`), as training batches have them. T is `length`, or that of the longest.

    Raises:
      PromptError: a prompt is longer than `length`.
    """
    longest = max(len(ids) for ids in prompts)
    if length is not None and longest > length:
        raise PromptError(
            f"a prompt has {longest} tokens, more than the {length} there is room for"
        )
    last = np.asarray([len(ids) - 1 for ids in prompts], np.int32)
    fields = token_fields(prompts, specials.image, length or longest)
    return {**fields, "encode_at": np.stack([last, last], 1)}


def assistant_fields(
    examples: Sequence[Example], shape: tuple[int, int], specials: SpecialTokens
) -> dict[str, np.ndarray]:
    """The token side of an assistant batch.

    Args:
      shape: T and U, at least what each example needs.

    Returns:
      tokens, order, images_before int32[B, T]: prompt `<Encode>` answer `<Encode>`;
      encode_at int32[B, 2], the positions of the two; decoder_in int32[B, U]: `<Decode>` answer;
      targets int32[B, U]: answer `<EOS>`; target_weights float32[B, U], 1 on those, 0 on padding.
    """
    length, answer_length = shape
    count = len(examples)
    rows = [
        np.concatenate([e.prompt_ids, [specials.encode], e.answer_ids, [specials.encode]])
        for e in examples
    ]
    decoder_in = np.full((count, answer_length), PAD_ID, np.int32)
    targets = np.full((count, answer_length), PAD_ID, np.int32)
    weights = np.zeros((count, answer_length), np.float32)
    for i, example in enumerate(examples):
        end = len(example.answer_ids)
        decoder_in[i, 0] = specials.decode
        decoder_in[i, 1 : end + 1] = example.answer_ids
        targets[i, :end] = example.answer_ids
        targets[i, end] = specials.eos
        weights[i, : end + 1] = 1
    encode_at = [(len(e.prompt_ids), e.length - 1) for e in examples]
    return {
        **token_fields(rows, specials.image, length),
        "encode_at": np.asarray(encode_at, np.int32),
        "decoder_in": decoder_in,
        "targets": targets,
        "target_weights": weights,
    }

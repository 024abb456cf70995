"""Losses as sums; the caller divides by the global count (section 4.5).

Sums make the result independent of the split into devices and microbatches. The token loss is in
nn/vocabulary.py, because the logits of a large vocabulary are never materialized.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from slava_jax.data.fact_targets import FactTargets


def class_cross_entropy(logits, labels, weights, smoothing: float = 0.0):
    """Summed, label-smoothed cross-entropy: float32[B, classes], int32[B], float32[B]."""
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    return -jnp.sum(((1 - smoothing) * chosen + smoothing * log_p.mean(axis=-1)) * weights)


def fact_loss(outputs, targets: FactTargets, batch: Mapping, counts: Mapping, weights):
    """The mean over facts of their losses, each over the rows that know it.

    A number's loss is Huber's, of the standardized logarithm; a word's is the cross-entropy, in
    which all values weigh the same.

    Args:
      outputs: float32[B, targets.outputs]. batch: has the arrays of `FactTargets.arrays`.
      counts: denominators of the whole batch, see `fact_counts`. weights: float32[B] of the rows.
    """
    total, start = 0.0, len(targets.numbers)
    known = ~jnp.isnan(batch["fact_numbers"])
    off = jnp.abs(outputs[:, :start] - jnp.where(known, batch["fact_numbers"], 0))
    huber = jnp.where(off < 1, off**2 / 2, off - 0.5) * known * weights[:, None]
    total += jnp.sum(huber.sum(axis=0) / _above_zero(counts["numbers"]))
    for column, (_, values) in enumerate(targets.words):
        log_p = jax.nn.log_softmax(outputs[:, start : start + len(values)])
        word, by = batch["fact_words"][:, column], _word_weights(targets, batch, column)
        chosen = jnp.take_along_axis(log_p, jnp.maximum(word, 0)[:, None], axis=-1)[:, 0]
        total -= jnp.sum(chosen * by * weights) / _above_zero(counts["words"][column])
        start += len(values)
    return total / (len(targets.numbers) + len(targets.words))


def _above_zero(count):
    """The count, or 1 where nothing was counted."""
    return jnp.where(count > 0, count, 1)


def fact_counts(targets: FactTargets, batch: Mapping, weights) -> dict:
    """The denominators of `fact_loss`: `numbers` float32[F] and `words` float32[W].

    `batch` may have microbatches: arrays [..., B] and `weights` float32[..., B].
    """
    known = ~jnp.isnan(batch["fact_numbers"]) * weights[..., None]
    words = [jnp.sum(_word_weights(targets, batch, i) * weights) for i in range(len(targets.words))]
    return {
        "numbers": known.sum(axis=tuple(range(known.ndim - 1))),
        "words": jnp.stack(words) if words else jnp.zeros(0),
    }


def _word_weights(targets: FactTargets, batch: Mapping, column: int):
    """float32[..., B], the weight of each row's value of a word, 0 where it is unknown."""
    word = batch["fact_words"][..., column]
    by = jnp.asarray(targets.word_weights[column], jnp.float32)
    return jnp.where(word >= 0, by[jnp.maximum(word, 0)], 0)


def match_cross_entropy(match, match_mismatched, weights):
    """Summed binary cross-entropy of pairs (4.5.1): matching is 1, mismatched 0; all `[B]`.

    A row of weight 0 (no mismatched image available) counts in neither class, which keeps the
    classes balanced.
    """
    return jnp.sum((jax.nn.softplus(-match) + jax.nn.softplus(match_mismatched)) * weights)

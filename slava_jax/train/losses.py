"""Losses as sums; the caller divides by the global count (section 4.5).

Sums make the result independent of the split into devices and microbatches. The token loss is in
nn/vocabulary.py, because the logits of a large vocabulary are never materialized.
"""

import jax
import jax.numpy as jnp


def class_cross_entropy(logits, labels, weights, smoothing: float = 0.0):
    """Summed, label-smoothed cross-entropy: float32[B, classes], int32[B], float32[B]."""
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    return -jnp.sum(((1 - smoothing) * chosen + smoothing * log_p.mean(axis=-1)) * weights)


def match_cross_entropy(match, match_mismatched, weights):
    """Summed binary cross-entropy of pairs (4.5.1): matching is 1, mismatched 0; all `[B]`.

    A row of weight 0 (no mismatched image available) counts in neither class, which keeps the
    classes balanced.
    """
    return jnp.sum((jax.nn.softplus(-match) + jax.nn.softplus(match_mismatched)) * weights)

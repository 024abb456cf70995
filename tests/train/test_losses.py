"""The losses compared with optax, and as sums over any split."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slava_jax.train.losses import class_cross_entropy, match_cross_entropy

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(4, 5, 9)) * 3, jnp.float32)
TARGETS = jnp.asarray(RNG.integers(0, 9, (4, 5)), jnp.int32)
WEIGHTS = jnp.asarray(RNG.integers(0, 2, (4, 5)), jnp.float32)
MATCH = jnp.asarray(RNG.normal(size=(2, 6)) * 5, jnp.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_cross_entropy_smooths_labels(smoothing):
    """Padding rows have weight 0."""
    logits, labels = LOGITS[:, 0], TARGETS[:, 0]
    soft = optax.smooth_labels(jax.nn.one_hot(labels, 9), smoothing)
    weights = jnp.asarray([1.0, 1, 0, 1])
    wanted = (optax.softmax_cross_entropy(logits, soft) * weights).sum()
    got = class_cross_entropy(logits, labels, weights, smoothing)
    assert float(got) == pytest.approx(float(wanted), rel=1e-5)


def test_match_cross_entropy_is_binary_and_balanced():
    """Matching is 1, mismatched 0; rows without a mismatched image count in neither class."""
    weights = jnp.asarray([1.0, 1, 0, 1, 1, 0])
    one = optax.sigmoid_binary_cross_entropy
    wanted = ((one(MATCH[0], jnp.ones(6)) + one(MATCH[1], jnp.zeros(6))) * weights).sum()
    assert float(match_cross_entropy(*MATCH, weights)) == pytest.approx(float(wanted), rel=1e-5)
    gradient = jax.grad(match_cross_entropy)(MATCH[0], MATCH[1], weights)
    assert np.all((np.asarray(gradient) == 0) == (np.asarray(weights) == 0))


def test_extreme_logits_stay_finite():
    """Hundreds of nats: large, but finite."""
    big = jnp.asarray([-500.0, 500.0])
    assert float(match_cross_entropy(big, -big, jnp.ones(2))) == pytest.approx(1000, rel=1e-5)
    logits = jnp.asarray([[500.0, -500.0]])
    assert float(class_cross_entropy(logits, jnp.asarray([1]), jnp.ones(1))) == 1000


def test_parts_add_up_to_the_whole():
    """Sums, not means, make microbatches and devices agree."""
    arrays = (LOGITS[:, 0], TARGETS[:, 0], jnp.asarray([1.0, 1, 0, 1]))
    parts = [class_cross_entropy(*(a[i : i + 2] for a in arrays)) for i in (0, 2)]
    assert arrays[2][:2].sum() != arrays[2][2:].sum()
    assert float(class_cross_entropy(*arrays)) == pytest.approx(float(sum(parts)), rel=1e-6)

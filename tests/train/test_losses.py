"""The losses compared with optax, and as sums over any split."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slava_jax.data.fact_targets import FactTargets
from slava_jax.train.losses import (
    class_cross_entropy,
    fact_counts,
    fact_loss,
    match_cross_entropy,
)

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


FACTS = FactTargets(
    (("size", 0.0, 1.0), ("count", 0.0, 1.0)), (("drift", ("no", "yes")),), ((0.5, 2.0),)
)
OUTPUTS = jnp.asarray(RNG.normal(size=(6, FACTS.outputs)) * 2, jnp.float32)
KNOWN = {
    "fact_numbers": jnp.asarray(
        [[0.3, 9], [np.nan, 1], [2, np.nan], [-1, 0], [0, np.nan], [1, 1]], jnp.float32
    ),
    "fact_words": jnp.asarray([[0], [1], [-1], [0], [1], [1]], jnp.int32),
}
ROWS = jnp.asarray([1.0, 1, 1, 1, 1, 0])  # the last one is padding


def test_each_fact_counts_the_rows_that_know_it():
    """Beside a slow twin: a loop over rows and facts."""
    sums, counts = np.zeros(3), np.zeros(3)
    for row in np.flatnonzero(ROWS):
        for column in range(2):
            true = KNOWN["fact_numbers"][row, column]
            if not np.isnan(true):
                sums[column] += optax.huber_loss(OUTPUTS[row, column], true)
                counts[column] += 1
        word = int(KNOWN["fact_words"][row, 0])
        if word >= 0:
            weight = FACTS.word_weights[0][word]
            sums[2] -= weight * jax.nn.log_softmax(OUTPUTS[row, 2:])[word]
            counts[2] += weight
    found = fact_counts(FACTS, KNOWN, ROWS)
    assert np.concatenate([*found.values()]).tolist() == counts.tolist()
    loss = fact_loss(OUTPUTS, FACTS, KNOWN, found, ROWS)
    assert float(loss) == pytest.approx(float(np.mean(sums / counts)), rel=1e-5)


def test_what_is_not_known_has_no_gradient():
    counts = fact_counts(FACTS, KNOWN, ROWS)
    gradient = np.asarray(jax.grad(fact_loss)(OUTPUTS, FACTS, KNOWN, counts, ROWS))
    unknown = np.isnan(KNOWN["fact_numbers"]) | (np.asarray(ROWS) == 0)[:, None]
    assert np.array_equal(gradient[:, :2] == 0, unknown)
    assert np.array_equal((gradient[:, 2:] == 0).all(1), [False, False, True, False, False, True])
    unseen = {"fact_numbers": KNOWN["fact_numbers"] * np.nan, "fact_words": -jnp.ones((6, 1), int)}
    counts = fact_counts(FACTS, unseen, ROWS)
    assert float(fact_loss(OUTPUTS, FACTS, unseen, counts, ROWS)) == 0


def test_one_row_that_knows_a_word_counts_as_much_as_four():
    targets = FactTargets((), (("drift", ("no", "yes")),), ((0.5, 10.0),))
    for rows in (1, 4):
        known = {"fact_numbers": jnp.zeros((rows, 0)), "fact_words": jnp.zeros((rows, 1), int)}
        counts = fact_counts(targets, known, jnp.ones(rows))
        loss = fact_loss(jnp.zeros((rows, 2)), targets, known, counts, jnp.ones(rows))
        assert float(loss) == pytest.approx(np.log(2), rel=1e-6)


def test_fact_losses_of_microbatches_add_up():
    counts = fact_counts(FACTS, KNOWN, ROWS)
    stacked = {name: rows.reshape(2, 3, -1) for name, rows in KNOWN.items()}
    jax.tree.map(
        np.testing.assert_allclose, fact_counts(FACTS, stacked, ROWS.reshape(2, 3)), counts
    )
    parts = [
        fact_loss(OUTPUTS[rows], FACTS, {n: v[rows] for n, v in KNOWN.items()}, counts, ROWS[rows])
        for rows in (slice(0, 3), slice(3, 6))
    ]
    whole = fact_loss(OUTPUTS, FACTS, KNOWN, counts, ROWS)
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)

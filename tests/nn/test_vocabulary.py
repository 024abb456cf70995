"""Chunked cross-entropy against optax on whole logits: values, gradients, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slava_jax.nn.quantized import dequantize, quantize
from slava_jax.nn.vocabulary import Vocabulary, summed_nats, token_nats

B, U, D, V = 3, 7, 6, 40


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def vocabularies():
    """Every form of vocabulary."""
    int8, scale = quantize(normal(D, V))
    return {
        "tied": Vocabulary(normal(V, D), tied=True),
        "tied, added": Vocabulary(normal(V, D), None, normal(4, D, seed=1), tied=True),
        "head": Vocabulary(normal(D, V)),
        "int8, added": Vocabulary(int8, scale, normal(4, D, seed=1)),
    }


FORMS = list(vocabularies())


def batch(size=V):
    rng = np.random.default_rng(2)
    targets = jnp.asarray(rng.integers(0, size, (B, U)), jnp.int32)
    weights = jnp.asarray(rng.integers(0, 3, (B, U)), jnp.float32)
    return 3 * normal(B, U, D, seed=3), targets, weights


def slow_twin(vocabulary, states, targets, weights):
    """All logits at once, by optax."""
    nats = optax.softmax_cross_entropy_with_integer_labels(vocabulary.logits(states), targets)
    return jnp.sum(nats * weights)


@pytest.mark.parametrize("most", [1, 5 * B * V, 10**6])
@pytest.mark.parametrize("form", FORMS)
def test_parts_equal_the_whole(form, most):
    """The sum and its gradient for states and trained leaves, also for uneven parts."""
    vocabulary = vocabularies()[form]
    states, targets, weights = batch(vocabulary.size)
    moving = "kernel" if form != "int8, added" else "added"

    def of(function, *rest):
        def loss(leaf, states):
            held = vocabulary.replace(**{moving: leaf})
            return 2 * function(held, states, targets, weights, *rest)

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(getattr(vocabulary, moving), states)

    (value, gradients), (wanted, wanted_gradients) = of(summed_nats, most), of(slow_twin)
    assert float(value) == pytest.approx(float(wanted), rel=1e-6)
    for got, want in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)
    plain = summed_nats(vocabulary, states, targets, weights, most)
    assert 2 * float(plain) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_by_token_they_are_the_same(form):
    """In the order of the tokens."""
    vocabulary = vocabularies()[form]
    states, targets, _ = batch(vocabulary.size)
    logits = vocabulary.logits(states)
    wanted = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    for most in (1, 2 * B * V, 10**6):
        got = token_nats(vocabulary, states, targets, most)
        np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_logits_are_those_of_the_parts_side_by_side():
    """Added tokens follow the table's; each scale belongs to its column."""
    forms, (states, _, _) = vocabularies(), batch()
    tied = forms["tied, added"].logits(states)
    assert tied.shape == (B, U, V + 4) and tied.dtype == jnp.float32
    np.testing.assert_allclose(tied[..., :V], states @ forms["tied"].kernel.T, atol=1e-5)
    np.testing.assert_allclose(tied[..., V:], states @ normal(4, D, seed=1).T, atol=1e-5)
    int8 = forms["int8, added"]
    wanted = states @ dequantize(int8.kernel, int8.scale)
    np.testing.assert_allclose(int8.logits(states)[..., :V], wanted, atol=1e-4)


def test_hundreds_of_nats_stay_finite():
    """Large, not infinite."""
    vocabulary = Vocabulary(jnp.asarray([[500.0, -500.0]]))
    one = jnp.ones((1, 1))
    assert float(summed_nats(vocabulary, one[..., None], jnp.asarray([[1]]), one)) == 1000


def memory(function, *arguments):
    gradient = jax.jit(jax.grad(function)).lower(*arguments)
    return gradient.compile().memory_analysis().temp_size_in_bytes


def test_whole_logits_are_never_held():
    """Nor is a gradient of a frozen table."""
    length, size, width = 256, 8192, 16
    table = jax.ShapeDtypeStruct((size, width), jnp.float32)
    states = jax.ShapeDtypeStruct((1, length, width), jnp.float32)
    targets = jax.ShapeDtypeStruct((1, length), jnp.int32)
    weights = jax.ShapeDtypeStruct((1, length), jnp.float32)

    def in_parts(states, table, targets, weights):
        vocabulary = Vocabulary(table, tied=True)
        return summed_nats(vocabulary, states, targets, weights, 8 * size)

    def whole(states, table, targets, weights):
        return slow_twin(Vocabulary(table, tied=True), states, targets, weights)

    logits = length * size * 4
    assert memory(whole, states, table, targets, weights) >= logits
    held = memory(in_parts, states, table, targets, weights)
    assert held < 4 * 8 * size * 4 + size * width * 4 < logits / 4

"""Attention against an explicit softmax: masks, groups, streaming, null key, rotation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slava_jax.nn.attention import (
    HIDDEN,
    Attention,
    KeysValues,
    RMSNorm,
    attend,
    fused_attend,
    rotate,
)

B, T, S, H, G, C = 2, 7, 9, 4, 2, 6


def inputs(seed=0):
    """(q, k, v, order, limit): keys in random order, the last one padding."""
    rng = np.random.default_rng(seed)
    q, k, v = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((B, T, H, C), (B, S, G, C), (B, S, G, C))
    )
    order = rng.integers(0, 6, (B, S)).astype(np.int32)
    order[:, 0], order[:, -1] = 0, HIDDEN
    return q, k, v, order, rng.integers(0, 7, (B, T)).astype(np.int32)


def slow_twin(q, k, v, order, limit):
    """One softmax at a time, over only the visible keys."""
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(*q.shape[:3]):
        group = h // (q.shape[2] // k.shape[2])
        seen = [s for s in range(k.shape[1]) if order[b, s] <= limit[b, t]]
        logits = np.array([q[b, t, h] @ k[b, s, group] for s in seen]) / np.sqrt(q.shape[3])
        weights = np.exp(logits - logits.max())
        out[b, t, h] = (weights / weights.sum()) @ v[b, seen, group]
    return out


def test_equals_an_explicit_masked_softmax():
    """With grouped heads and unsorted orders."""
    np.testing.assert_allclose(attend(*inputs()), slow_twin(*inputs()), atol=1e-5)


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_streaming_changes_nothing(block):
    """Values and gradients, for block sizes that do and do not divide the queries."""
    q, k, v, order, limit = inputs()

    def total(q, k, v, block):
        out = attend(q, k, v, order, limit, query_block=block)
        return jnp.sum(jnp.sin(out)), out

    gradient = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True), static_argnums=3)
    wanted, whole = gradient(q, k, v, T)
    got, blocked = gradient(q, k, v, block)
    np.testing.assert_allclose(blocked, whole, atol=1e-6)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_streaming_never_holds_the_whole_matrix():
    """No array of the compiled gradient is as large as T x S."""
    length, block = 512, 32
    shape = jax.ShapeDtypeStruct((1, length, 1, 4), jnp.float32)
    order = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def memory(block):
        def total(q, k, v, o):
            return jnp.sum(attend(q, k, v, o, o, query_block=block))

        gradient = jax.jit(jax.grad(total, (0, 1, 2))).lower(shape, shape, shape, order)
        return gradient.compile().memory_analysis().temp_size_in_bytes

    assert memory(length) > length * length * 4 > 2 * memory(block)


def long_inputs(causal: bool, length=64, width=32):
    """(q, k, v, order, limit, real queries), as text padded at the end, or mixed."""
    rng = np.random.default_rng(1)
    q, k, v = (rng.normal(size=(B, length, heads, width)).astype(np.float32) for heads in (H, G, G))
    place = np.arange(length, dtype=np.int32)
    real = place < np.array([length, length - 20])[:, None]
    if causal:
        order = np.where(real, place, np.int32(HIDDEN))
        return q, k, v, order, order, real
    order = rng.integers(0, 6, (B, length)).astype(np.int32)
    order[:, 0] = 0
    return q, k, v, order, rng.integers(0, 7, (B, length)).astype(np.int32), np.ones_like(real)


@pytest.mark.parametrize("causal", [True, False])
def test_one_kernel_is_asked_for_the_same(causal):
    """The call made to cuDNN, run by XLA: equal for every real query."""
    q, k, v, order, limit, counts = long_inputs(causal)
    got = fused_attend(q, k, v, order, limit, causal, implementation="xla")
    np.testing.assert_allclose(got[counts], attend(q, k, v, order, limit)[counts], atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's kernel needs a GPU")
@pytest.mark.parametrize("causal", [True, False])
def test_cudnn_equals_the_slow_twin(causal):
    """bfloat16 on the GPU against float32 without the kernel: values and gradients."""
    q, k, v, order, limit, counts = long_inputs(causal)

    def run(dtype):
        def total(q, k, v):
            out = attend(q, k, v, order, limit, causal).astype(jnp.float32)
            return jnp.sum(jnp.sin(out) * counts[..., None, None]), out

        taken = [jnp.asarray(a, dtype) for a in (q, k, v)]
        return jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(*taken)

    (got, out), (wanted, plain) = run(jnp.bfloat16), run(jnp.float32)
    pairs = [(out[counts], plain[counts]), *zip(got, wanted, strict=True)]
    for fast, slow in pairs:
        error = np.linalg.norm(np.float32(fast) - np.float32(slow)) / np.linalg.norm(slow)
        assert 0 < error < 2e-2


def test_grouped_heads_equal_repeated_ones():
    """Each key/value head serves H / G adjacent query heads."""
    q, k, v, order, limit = inputs()
    repeated = [np.repeat(a, H // G, axis=2) for a in (k, v)]
    np.testing.assert_allclose(
        attend(q, k, v, order, limit), attend(q, *repeated, order, limit), atol=1e-6
    )


def test_a_query_that_sees_nothing_is_finite():
    """In value and gradient: one NaN in a padded row would spoil every parameter."""
    q, k, v, order, limit = inputs()
    hidden = np.full_like(order, HIDDEN)
    value, gradient = jax.value_and_grad(lambda q: jnp.sum(attend(q, k, v, hidden, limit) ** 2))(q)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_softmax_is_float32_in_half_precision():
    """Logits in the hundreds and a thousand near-equal keys: bfloat16 sums would be far off."""
    rng = np.random.default_rng(0)
    v = jnp.asarray(rng.normal(size=(1, 1000, 1, 8)), jnp.bfloat16)
    q, k = jnp.full((1, 1, 1, 8), 16, jnp.bfloat16), jnp.full((1, 1000, 1, 8), 16, jnp.bfloat16)
    out = attend(q, k, v, jnp.zeros((1, 1000), jnp.int32), jnp.zeros((1, 1), jnp.int32))
    assert out.dtype == jnp.bfloat16
    wanted = np.mean(np.float32(v), axis=1, keepdims=True)
    np.testing.assert_allclose(np.float32(out), wanted, atol=3e-3)


def test_rotation_depends_on_relative_position_only():
    """Also at large positions; a different relative position changes the result."""
    rng = np.random.default_rng(0)
    q, k = jnp.asarray(rng.normal(size=(2, 1, 1, 1, 8)), jnp.float32)

    def product(i, j):
        at = lambda x, p: rotate(x, jnp.full((1, 1), p, jnp.int32), 10_000.0)  # noqa: E731
        return float(jnp.sum(at(q, i) * at(k, j)))

    assert product(5, 2) == pytest.approx(product(103, 100), abs=1e-4)
    assert product(0, 0) == pytest.approx(float(jnp.sum(q * k)), abs=1e-6)
    assert abs(product(5, 2) - product(2, 5)) > 1e-2
    assert abs(product(5, 2) - product(6, 2)) > 1e-2


def test_the_null_key_is_what_a_token_without_images_sees():
    """A query without other visible keys gives the null value; one with keys does not."""
    layer = Attention(8, 2, 4, null_key=True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 8)), jnp.float32)
    order, limit = jnp.asarray([[1, 1, 2]]), jnp.asarray([[0, 1, 2]])

    def run(layer, x, limit):
        memory = layer.keys_values(x, order)
        return layer(x, memory, limit), layer.o(layer.null_v.reshape(1, 1, -1))

    variables = layer.init(jax.random.key(0), x, limit, method=run)
    out, null = layer.apply(variables, x, limit, method=run)
    np.testing.assert_allclose(out[0, 0], null[0, 0], atol=1e-6)
    assert np.all(np.abs(out[0, 1:] - null[0]).max(axis=-1) > 1e-3)
    other, _ = layer.apply(variables, x.at[:, 2].add(1.0), limit, method=run)
    np.testing.assert_array_equal(out[0, :2], other[0, :2])  # the key of order 2 is hidden


def test_free_slots_of_a_cache_are_unseen():
    """A half-full cache gives the same result as its filled part alone."""
    q, k, v, order, _ = inputs()
    order = np.broadcast_to(np.arange(S, dtype=np.int32), order.shape)
    limit = np.full((B, T), 100, np.int32)
    cache = KeysValues.empty(B, S + 5, G, C, jnp.float32)
    for start, stop in ((0, 4), (4, S)):
        part = KeysValues(k[:, start:stop], v[:, start:stop], order[:, start:stop])
        cache = cache.write(part, jnp.int32(start))
    got = attend(q, cache.k, cache.v, cache.order, limit)
    np.testing.assert_allclose(got, attend(q, k, v, order, limit), atol=1e-6)


def test_rms_norm_of_half_precision_is_computed_in_float32():
    """Sums of 1000 squared overflow float16."""
    x = jnp.full((1, 64), 1000, jnp.float16)
    norm = RMSNorm()
    out = norm.apply(norm.init(jax.random.key(0), x), x)
    assert out.dtype == jnp.float16
    np.testing.assert_allclose(np.float32(out), 1.0, atol=1e-3)

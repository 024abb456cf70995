"""int8 kernels: their error, and that the backward pass saves nothing wider."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slava_jax.nn.quantized import dequantize, int8_matmul, quantize, quantize_linear_layers


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_round_trip_is_off_by_half_a_step_at_most():
    """Symmetric rounding to 255 levels; the largest entry of each channel becomes +-127."""
    kernel = normal(40, 7) * 10.0 ** jnp.arange(-3, 4)
    stored, scale = quantize(kernel)
    assert stored.dtype == jnp.int8 and scale.shape == (7,)
    error = np.abs(np.asarray(dequantize(stored, scale) - kernel))
    assert np.all(error <= np.asarray(scale) / 2 * (1 + 1e-5))
    assert np.all(np.abs(np.asarray(stored, np.int32)).max(axis=0) == 127)


def test_a_channel_of_zeros_stays_zero():
    """No 0 / 0 in the scale or the kernel."""
    stored, scale = quantize(normal(5, 3).at[:, 1].set(0))
    assert scale[1] == 1
    assert np.all(np.asarray(dequantize(stored, scale))[:, 1] == 0)


def test_stacked_layers_are_quantised_one_by_one():
    """Layers that differ a thousandfold in magnitude have their own scales."""
    kernel = normal(3, 8, 5) * jnp.asarray([1e-3, 1.0, 1e3])[:, None, None]
    stored, scale = quantize(kernel)
    for layer in range(3):
        one, one_scale = quantize(kernel[layer])
        np.testing.assert_array_equal(stored[layer], one)
        np.testing.assert_array_equal(scale[layer], one_scale)


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.05)])
def test_the_product_equals_its_slow_twin(dtype, tolerance):
    """Values and gradient of x, against a product with the dequantised kernel."""
    stored, scale = quantize(normal(16, 6))
    x, dy = normal(2, 3, 16, seed=1).astype(dtype), normal(2, 3, 6, seed=2).astype(dtype)
    y, pull = jax.vjp(lambda x: int8_matmul(x, stored, scale), x)
    kernel = dequantize(stored, scale)
    wanted, wanted_pull = jax.vjp(lambda x: x @ kernel, x.astype(jnp.float32))
    assert y.dtype == dtype and pull(dy)[0].dtype == dtype
    np.testing.assert_allclose(np.float32(y), wanted, atol=tolerance, rtol=tolerance)
    dx = wanted_pull(dy.astype(jnp.float32))[0]
    np.testing.assert_allclose(np.float32(pull(dy)[0]), dx, atol=tolerance, rtol=tolerance)


def rounded(x):
    """x float32[..., D] as int8 activations: integers, and the step of each row."""
    step = np.abs(x).max(axis=-1, keepdims=True) / 127
    return np.round(x / step).astype(np.int64), step


def test_int8_activations_equal_whole_numbers():
    """Forward and gradient of x, against numpy integers; every token has its own step."""
    stored, scale = quantize(normal(16, 6))
    x, dy = normal(2, 3, 16, seed=1), normal(2, 3, 6, seed=2)
    x, dy = x.at[0, 0].mul(1000), dy.at[0, 1].mul(1e-3)
    y, pull = jax.vjp(lambda x: int8_matmul(x, stored, scale, True), x)
    whole, step = rounded(np.asarray(x))
    np.testing.assert_allclose(y, whole @ np.int64(stored) * step * np.asarray(scale), rtol=1e-5)
    whole, step = rounded(np.asarray(dy * scale))
    np.testing.assert_allclose(pull(dy)[0], whole @ np.int64(stored).T * step, rtol=1e-5)


def test_a_token_of_zeros_stays_zero():
    """No 0 / 0 in its step."""
    stored, scale = quantize(normal(16, 6))
    y, pull = jax.vjp(lambda x: int8_matmul(x, stored, scale, True), jnp.zeros((2, 16)))
    assert np.all(np.asarray(y) == 0) and np.all(np.asarray(pull(0 * y)[0]) == 0)


@pytest.mark.parametrize("int8_activations", [False, True])
def test_a_nan_stays_one(int8_activations):
    """In its token only, forward and backward: rounded to an integer it would go unnoticed."""
    stored, scale = quantize(normal(16, 6))
    x, dy = normal(2, 16, seed=1).at[0, 3].set(jnp.nan), normal(2, 6, seed=2).at[0, 2].set(jnp.nan)
    y, pull = jax.vjp(lambda x: int8_matmul(x, stored, scale, int8_activations), x)
    for out in (y, pull(dy)[0]):
        assert np.isnan(out[0]).all() and np.isfinite(out[1]).all()


@pytest.mark.parametrize("int8_activations, wanted", [(False, 0.00794), (True, 0.01137)])
def test_the_error_of_a_wide_product(int8_activations, wanted):
    """Relative to the float32 product, 1024 normal inputs; golden, measured when it was written.

    Weight-only is the rounding of the kernel; with int8 activations that of x, as large, adds in
    quadrature.
    """
    kernel, x = normal(1024, 256), normal(64, 1024, seed=1)
    exact = x @ kernel
    error = int8_matmul(x, *quantize(kernel), int8_activations) - exact
    assert float(jnp.std(error) / jnp.std(exact)) == pytest.approx(wanted, rel=0.01)


def kept_bytes(function, x):
    """Bytes saved for the backward pass of `function` at x, by dtype."""
    _, pull = jax.vjp(function, x)
    kept: dict = {}
    for leaf in jax.tree.leaves(pull):
        kept[str(leaf.dtype)] = kept.get(str(leaf.dtype), 0) + leaf.nbytes
    return kept


def test_the_backward_pass_keeps_no_float_kernel():
    """It saves the int8 kernel and the scales; the plain expression saves a float copy."""
    stored, scale = quantize(normal(64, 32))
    x = normal(2, 64)
    kept = kept_bytes(lambda x: int8_matmul(x, stored, scale), x)
    assert kept == {"int8": 64 * 32, "float32": 32 * 4}
    plain = kept_bytes(lambda x: x @ dequantize(stored, scale), x)
    assert plain["float32"] >= 64 * 32 * 4


def test_quantising_a_tree_moves_no_path():
    """Kernels become int8 in place, with a scale added; everything else is unchanged."""
    tree = {"blocks": {"q": {"kernel": normal(2, 4, 3)}, "norm": {"scale": normal(2, 4)}}}
    tree["embedding"] = normal(9, 4)
    out = quantize_linear_layers(tree)
    assert jax.tree.map(jnp.shape, out) == {
        "blocks": {"q": {"kernel": (2, 4, 3), "scale": (2, 3)}, "norm": {"scale": (2, 4)}},
        "embedding": (9, 4),
    }
    assert out["blocks"]["q"]["kernel"].dtype == jnp.int8
    assert out["embedding"] is tree["embedding"]
    assert out["blocks"]["norm"]["scale"] is tree["blocks"]["norm"]["scale"]


def test_what_is_int8_stays_as_it_is():
    """Converted weights may already be quantised."""
    once = quantize_linear_layers({"up": {"kernel": normal(4, 3)}, "norm": {"scale": normal(4)}})
    twice = quantize_linear_layers(once)
    assert twice["up"]["kernel"] is once["up"]["kernel"]
    assert twice["up"]["scale"] is once["up"]["scale"]

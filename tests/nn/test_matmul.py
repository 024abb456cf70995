"""Matrix product with a trained kernel: values, gradients, and the copy it avoids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slava_jax.nn.matmul import matmul


def _arrays(dtype=jnp.float32):
    random = np.random.default_rng(0)
    shapes = (4, 128, 64), (64, 576), (4, 128, 576)
    return [jnp.asarray(random.standard_normal(shape), dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_is_the_product_and_so_are_its_gradients(dtype):
    x, kernel, dy = _arrays(dtype)
    y, gradients = jax.vjp(matmul, x, kernel.astype(jnp.float32))
    dx, dkernel = gradients(dy)
    wanted = (
        (y, "BTD,DE->BTE", x, kernel),
        (dx, "BTE,DE->BTD", dy, kernel),
        (dkernel, "BTD,BTE->DE", x, dy),
    )
    for got, letters, *of in wanted:
        truth = np.einsum(letters, *(np.asarray(a, np.float64) for a in of))
        scale = np.abs(truth).max()
        bound = 1e-5 if dtype == jnp.float32 else 1e-2
        np.testing.assert_allclose(np.asarray(got, np.float64), truth, atol=bound * scale)
    assert y.dtype == dx.dtype == dtype and dkernel.dtype == jnp.float32


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA does on a CPU")
def test_the_gradient_of_a_kernel_takes_no_copy_of_dy():
    """The plain product does. If this part fails, `matmul` is no longer needed."""
    x, kernel, dy = _arrays()

    def extra(product):
        gradient = jax.jit(lambda x, kernel, dy: jax.vjp(product, x, kernel)[1](dy)[1])
        return gradient.lower(x, kernel, dy).compile().memory_analysis().temp_size_in_bytes

    assert extra(matmul) < dy.nbytes / 4
    assert extra(jnp.dot) >= dy.nbytes

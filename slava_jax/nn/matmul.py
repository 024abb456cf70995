"""The product with a trained kernel."""

import jax.numpy as jnp


def matmul(x, kernel):
    """`x @ kernel` in the dtype of x, for a kernel whose gradient is asked for.

    It has two axes whatever x has. With more, XLA on a CPU makes a transposed copy of dy for the
    gradient of the kernel, and multiplies slower: up to three times the time in all.

    Args:
      x: float[..., D_in]; kernel: float[D_in, D_out].

    Returns:
      float[..., D_out].
    """
    y = jnp.dot(x.reshape(-1, x.shape[-1]), kernel.astype(x.dtype))
    return y.reshape(*x.shape[:-1], kernel.shape[-1])

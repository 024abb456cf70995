"""Frozen int8 kernels: symmetric, one float32 scale per output channel (section 4.1)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def quantize(kernel):
    """Quantizes a float kernel to int8 and scales, `kernel ~= int8 * scale`.

    Args:
      kernel: float[..., D_in, D_out]; leading axes are stacked layers.

    Returns:
      (int8[..., D_in, D_out], float32[..., D_out]). The largest entry of each output channel
      becomes +-127; a channel of zeros gets scale 1.
    """
    largest = jnp.max(jnp.abs(kernel.astype(jnp.float32)), axis=-2)
    scale = jnp.where(largest == 0, 1.0, largest / 127)
    return jnp.round(kernel / scale[..., None, :]).astype(jnp.int8), scale


def dequantize(kernel, scale):
    """The dequantized kernel, float32[..., D_in, D_out]."""
    return kernel.astype(jnp.float32) * scale[..., None, :]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def int8_matmul(x, kernel, scale, int8_activations: bool = False):
    """`x @ dequantize(kernel, scale)` for a frozen kernel.

    The plain expression would save the dequantised kernel for the backward pass, one copy per
    layer inside a scan; this one saves the int8 kernel and converts it again.

    Args:
      x: float[..., D_in]; kernel: int8[D_in, D_out]; scale: float32[D_out].
      int8_activations: also round x to int8, with one scale per token, and multiply integers; the
        same for the gradient in the backward pass. Otherwise weight-only: the kernel is converted
        to floats and the arithmetic is in the dtype of x.

    Returns:
      float[..., D_out] in the dtype of x. No gradient flows to kernel or scale.
    """
    if int8_activations:
        y = _whole_numbers(x.astype(jnp.float32), kernel, 0)
    else:
        y = jnp.dot(x, kernel.astype(x.dtype)).astype(jnp.float32)
    return (y * scale).astype(x.dtype)


def _whole_numbers(x, kernel, axis: int):
    """x float32[..., D], rounded to int8 per token, times an int8 kernel: float32[..., D'].

    `axis`: the axis of the kernel that is contracted.
    """
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    # Only zeros are replaced: a row with a NaN keeps it in its step.
    step = jnp.where(largest == 0, 1.0, largest / 127)
    rounded = jnp.round(x / step).astype(jnp.int8)
    sums = jax.lax.dot_general(
        rounded, kernel, (((x.ndim - 1,), (axis,)), ((), ())), preferred_element_type=jnp.int32
    )
    if jax.default_backend() == "gpu":
        # Otherwise XLA tries to fuse the conversion into the product, finds cuBLAS faster without
        # it, and is left with a separate conversion that needlessly writes float32 to memory.
        sums = jax.lax.optimization_barrier(sums)
    return sums.astype(jnp.float32) * step


def _forward(x, kernel, scale, int8_activations):
    return int8_matmul(x, kernel, scale, int8_activations), (kernel, scale)


def _backward(int8_activations, kept, dy):
    kernel, scale = kept
    scaled = dy.astype(jnp.float32) * scale
    if int8_activations:
        dx = _whole_numbers(scaled, kernel, 1).astype(dy.dtype)
    else:
        dx = jnp.dot(scaled.astype(dy.dtype), kernel.astype(dy.dtype).T)
    return dx, np.zeros(kernel.shape, jax.dtypes.float0), jnp.zeros_like(scale)


int8_matmul.defvjp(_forward, _backward)


def quantize_linear_layers(tree: dict) -> dict:
    """Quantizes every `kernel` of a nested dict, adding its `scale`; paths do not change.

    Kernels that are already int8 are left unchanged.
    """
    out = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            out[name] = quantize_linear_layers(value)
        elif name == "kernel" and value.dtype != jnp.int8:
            out["kernel"], out["scale"] = quantize(value)
        else:
            out[name] = value
    return out

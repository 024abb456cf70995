"""Products for decoding: few tokens at a time, so that reading the kernel is all that costs.

A kernel is stored as rows, one for each output channel. On a CPU, XLA multiplies a few rows of int8
by int8 kernels at the speed of the memory, but first writes a converted kernel to memory for any
other product with int8, and a repacked one for a few rows of float32. So there everything becomes
int8: a float is written as three digits, `x ~= step * (256^2 * a + 256 * b + c)`, each a row of
int8, which is as exact as float32. Other backends convert while they multiply.
"""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

_BASE = 256  # the worth of a digit in units of the next
_DIGITS = 3  # of a float


@flax.struct.dataclass
class Kernel:
    """A kernel `float[D_in, D_out]`.

    Attributes:
      rows: int8[digits, D_out, D_in], or float[1, D_out, D_in] as it was given.
      scale: float32[D_out], the worth of the last digit; `None` for float rows.
    """

    rows: jax.Array
    scale: jax.Array | None = None


def kernel_rows(kernels: Sequence[tuple[jax.Array, jax.Array | None]]) -> Kernel:
    """One kernel of several that read the same `x`; their outputs are concatenated.

    Args:
      kernels: int8[D_in, D_out] and its scale float32[D_out], or float[D_in, D_out] and `None`;
        all of one kind.
    """
    rows = jnp.concatenate([kernel.T for kernel, _ in kernels])
    if rows.dtype == jnp.int8:
        return Kernel(rows[None], jnp.concatenate([scale for _, scale in kernels]))
    if jax.default_backend() != "cpu":
        return Kernel(rows[None])
    rows, step = digits(rows, _DIGITS)
    return Kernel(rows, step[:, 0])


def digits(x, count: int):
    """Writes float[..., D] as `count` digits of int8: `x ~= step * sum_i 256^(count-1-i) digit_i`.

    Returns:
      (int8[count, ..., D], step float32[..., 1]). One digit is the rounding of
      quantized.int8_matmul.
    """
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    # Only zeros are replaced: a row with a NaN keeps it in its step.
    most = 127 * sum(_BASE**place for place in range(count))
    step = jnp.where(largest == 0, 1.0, largest / most)
    rest, found = jnp.round(x / step), []
    for place in range(count - 1, 0, -1):
        below = 128 * sum(_BASE**lower for lower in range(place))  # -128 to 127 of each
        digit = jnp.floor((rest + below) / _BASE**place)
        found.append(digit)
        rest = rest - digit * _BASE**place
    return jnp.stack([*found, rest]).astype(jnp.int8), step


def rows_matmul(x, kernel: Kernel, int8_activations: bool = False):
    """`x @ kernel`, float[..., D_in] -> float[..., D_out] in the dtype of x.

    `int8_activations`: x is rounded to one digit, as in quantized.int8_matmul.
    """
    if jax.default_backend() != "cpu" and not int8_activations:
        y = jnp.einsum("...i,oi->...o", x, kernel.rows[0].astype(x.dtype))
        return y if kernel.scale is None else (y * kernel.scale).astype(x.dtype)
    flat = x.reshape(-1, x.shape[-1])
    own, step = digits(flat, 1 if int8_activations else _DIGITS)
    count, tokens, width = own.shape
    own = own.reshape(count * tokens, width)
    if len(own) == 1:  # XLA has no fast product of integers for a single row
        own = jnp.pad(own, ((0, 1), (0, 0)))
    sums = jax.lax.dot_general(
        own, kernel.rows.reshape(-1, width), (((1,), (1,)), ((), ())),
        preferred_element_type=jnp.int32,
    )[: count * tokens].astype(jnp.float32)  # fmt: skip
    y = _joined(sums.reshape(count, tokens, *kernel.rows.shape[:2]))
    return (y * step * kernel.scale).astype(x.dtype).reshape(*x.shape[:-1], -1)


def _joined(sums):
    """The products of digits float32[d, B, e, D_out] as numbers float32[B, D_out]."""
    count, _, other, _ = sums.shape
    total = 0.0
    for i in range(count):
        for j in range(other):
            total = total + sums[i, :, j] * float(_BASE ** (count - 1 - i + other - 1 - j))
    return total

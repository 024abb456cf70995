"""Attention and its building blocks, shared by all models.

Axis letters, here and in every model file: `B` examples, `T` text tokens (queries), `S` key/value
positions, `I` images of an example, `N` image tokens, `D` model width, `F` MLP width, `H` query
heads, `G` key/value heads, `C` head width, `V` vocabulary, `K` experts, `R` maximum rank.

All masks have one form: each key has an `order`, each query a `limit`, and a query attends to the
keys with `order <= limit`. This covers causal masks (order and limit count tokens), padding (order
is `HIDDEN`), "the images before this token" (order is the image number, limit the number of images
read so far) and a partly filled KV cache, and no `T x S` mask is ever stored. Rotary positions are
a separate array.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from slava_jax.nn.adapters import AdapterCall, AdapterConfig, Linear
from slava_jax.nn.stack import KEPT_OF_ATTENTION

HIDDEN = 2**30  # the order of a key that no query attends to
_QUERY_BLOCK = 512  # longer queries are split into blocks, so T x S is never whole in memory


# Recomputes in the backward pass what is cheap relative to the products, so that only inputs are
# saved. XLA may merge the recomputation with the forward pass (prevent_cse).
_again = functools.partial(jax.checkpoint, prevent_cse=False)


@_again
def _attend_block(q, k, v, order, limit):
    """q `[B, T, G, H/G, C]`, k and v `[B, S, G, C]`; softmax in float32."""
    B, T, G, H, C = q.shape
    # Heads first, with all queries that share a key in one axis: plain batched products that need
    # no transposition on any backend.
    q = (q * C**-0.5).transpose(0, 2, 3, 1, 4).reshape(B, G, H * T, C)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    logits = jnp.einsum("BGTC,BGSC->BGTS", q, k, preferred_element_type=jnp.float32)
    visible = order[:, None, :] <= limit[:, :, None]
    # A finite floor: a padded query without visible keys gets a uniform row, never NaN.
    logits = jnp.where(visible[:, None, None], logits.reshape(B, G, H, T, -1), -1e30)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype).reshape(B, G, H * T, -1)
    out = jnp.einsum("BGTS,BGSC->BGTC", weights, v)
    return out.reshape(B, G, H, T, C).transpose(0, 3, 1, 2, 4)


def _cudnn_takes(q, k, causal: bool) -> bool:
    """Whether cuDNN pays off and supports the gradient, which needs even lengths with a mask."""
    T, S, C = q.shape[1], k.shape[1], q.shape[-1]
    fits = causal or (T % 2 == 0 and S % 2 == 0)
    # Only some cards support heads wider than 128.
    return q.dtype == jnp.bfloat16 and T >= 16 and C % 8 == 0 and C <= 128 and fits


def fused_attend(q, k, v, order, limit, causal: bool, implementation: str = "cudnn"):
    """`attend` as one kernel that never writes the weights to memory; `attend` is the reference.

    Results differ only for queries without visible keys and for padding under `causal`.
    """
    mask = None if causal else order[:, None, None, :] <= limit[:, None, :, None]
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, is_causal=causal, implementation=implementation
    )


def attend(q, k, v, order, limit, causal: bool = False, query_block: int = _QUERY_BLOCK):
    """Scaled dot-product attention with grouped key/value heads.

    Args:
      q: float[B, T, H, C]; k, v: float[B, S, G, C], where G divides H.
      order: int32[B, S] of the keys; limit: int32[B, T] of the queries: a query attends to the keys
        with `order <= limit`.
      causal: asserts that keys and queries are the same tokens, sorted by position with padding
        last. cuDNN then skips the masked half.
      query_block: number of queries at a time if T is larger. The backward pass saves the inputs
        and recomputes the weights of one block at a time.

    Returns:
      float[B, T, H, C] in the dtype of v.
    """
    B, T, H, C = q.shape
    if jax.default_backend() == "gpu" and _cudnn_takes(q, k, causal):
        return fused_attend(q, k, v, order, limit, causal)
    q = q.reshape(B, T, k.shape[2], H // k.shape[2], C)
    if query_block >= T:
        return _attend_block(q, k, v, order, limit).reshape(B, T, H, C)
    padding = -T % query_block
    q = jnp.pad(q, ((0, 0), (0, padding), (0, 0), (0, 0), (0, 0)))
    limit = jnp.pad(limit, ((0, 0), (0, padding)))
    blocks = (T + padding) // query_block
    q = q.reshape(B, blocks, query_block, *q.shape[2:]).swapaxes(0, 1)
    limit = limit.reshape(B, blocks, query_block).swapaxes(0, 1)
    out = jax.lax.map(lambda block: _attend_block(block[0], k, v, order, block[1]), (q, limit))
    out = out.swapaxes(0, 1)
    return out.reshape(B, T + padding, H, C)[:, :T]


def rope_frequencies(half: int, theta: float, scaling: Sequence[float] = ()):
    """Rotation angles per position, float32[half].

    Args:
      scaling: Llama-3's `(factor, low_freq_factor, high_freq_factor, original_length)`: wavelengths
        above original_length / low_freq_factor are stretched by `factor`, those below
        original_length / high_freq_factor are unchanged, those between are interpolated.
    """
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if not scaling:
        return frequencies
    factor, low, high, original = scaling
    turns = original * frequencies / (2 * jnp.pi)  # periods of each wave in the original length
    kept = jnp.clip((turns - low) / (high - low), 0, 1)
    return frequencies * ((1 - kept) / factor + kept)


def rotate(x, positions, theta: float, scaling: Sequence[float] = ()):
    """Rotary position embedding on Llama's halves: x `[B, T, H, C]`, positions `[B, T]`."""
    half = x.shape[-1] // 2

    @_again
    def turned(x, positions):
        angles = positions[..., None, None].astype(jnp.float32)
        angles = angles * rope_frequencies(half, theta, scaling)
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        x1, x2 = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
        return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)

    return turned(x, positions)


@flax.struct.dataclass
class KeysValues:
    """Keys and values, with the order of each key."""

    k: jax.Array  # [B, S, G, C]
    v: jax.Array  # [B, S, G, C]
    order: jax.Array  # int32[B, S]

    @classmethod
    def empty(cls, batch: int, length: int, kv_heads: int, head_width: int, dtype):
        """A cache of `length` free slots, all hidden."""
        zeros = jnp.zeros((batch, length, kv_heads, head_width), dtype)
        return cls(zeros, zeros, jnp.full((batch, length), HIDDEN, jnp.int32))

    def write(self, new: "KeysValues", slot) -> "KeysValues":
        """This cache with `new` written at position `slot` (int32 scalar)."""
        put = jax.lax.dynamic_update_slice_in_dim
        return KeysValues(
            put(self.k, new.k.astype(self.k.dtype), slot, 1),
            put(self.v, new.v.astype(self.v.dtype), slot, 1),
            put(self.order, new.order, slot, 1),
        )


class Attention(nn.Module):
    """Multi-head attention with q, k, v, o projections.

    Attributes:
      biases: which of the projections q, k, v, o have a bias, such as 'qvo'. Without rotary
        positions a key bias adds the same to all logits of a query: softmax ignores it, and Adam
        would turn the rounding noise of its gradient into full steps.
      qk_norm: epsilon of an RMSNorm over each head of q and k (Qwen3); `None` for none.
      null_key: a learned key and value that every query attends to, so that no row is empty.
    """

    width: int  # D of the output
    heads: int
    head_width: int
    kv_heads: int | None = None
    rope_theta: float | None = None
    rope_scaling: tuple[float, ...] = ()  # see `rope_frequencies`
    null_key: bool = False
    biases: str = ""
    qk_norm: float | None = None
    frozen: bool = False
    quantized: bool = False
    adapter: AdapterConfig | None = None
    dtype: jnp.dtype = jnp.float32
    int8_activations: bool = False
    out_kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    def setup(self):
        groups = self.kv_heads or self.heads

        def linear(name, features, **options):
            return Linear(
                features, name in self.biases, self.frozen, self.quantized, self.adapter,
                self.dtype, self.int8_activations, **options,
            )  # fmt: skip

        self.q = linear("q", self.heads * self.head_width)
        self.k = linear("k", groups * self.head_width)
        self.v = linear("v", groups * self.head_width)
        self.o = linear("o", self.width, kernel_init=self.out_kernel_init)
        if self.qk_norm is not None:
            self.q_norm = RMSNorm(self.qk_norm, self.frozen)
            self.k_norm = RMSNorm(self.qk_norm, self.frozen)
        if self.null_key:
            init, shape = nn.initializers.normal(0.02), (groups, self.head_width)
            self.null_k = self.param("null_k", init, shape)
            self.null_v = self.param("null_v", init, shape)

    def keys_values(self, x, order, call: AdapterCall | None = None, position=None) -> KeysValues:
        """Keys and values of x `[B, S, D]`.

        `order` int32[B, S]: visibility. `position` int32[B, S]: rotary positions, if used.
        """
        B, S, _ = x.shape
        k = self.k(x, call).reshape(B, S, -1, self.head_width)
        v = self.v(x, call).reshape(B, S, -1, self.head_width)
        if self.qk_norm is not None:
            k = self.k_norm(k)
        if self.rope_theta is not None:
            k = rotate(k, position, self.rope_theta, self.rope_scaling)
        k, v = (checkpoint_name(a, KEPT_OF_ATTENTION) for a in (k, v))
        if self.null_key:
            row = (B, 1, *self.null_k.shape)
            k = jnp.concatenate([jnp.broadcast_to(self.null_k, row).astype(k.dtype), k], axis=1)
            v = jnp.concatenate([jnp.broadcast_to(self.null_v, row).astype(v.dtype), v], axis=1)
            order = jnp.pad(order, ((0, 0), (1, 0)), constant_values=-1)
        return KeysValues(k, v, order)

    def __call__(
        self,
        x,
        memory: KeysValues,
        limit,
        call: AdapterCall | None = None,
        position=None,
        causal: bool = False,
    ):
        """Attention of x float[B, T, D] to `memory`.

        `limit` int32[B, T]: visibility. `position` int32[B, T]: rotary positions, if used.
        `causal`: see `attend`.
        """
        B, T, _ = x.shape
        q = self.q(x, call).reshape(B, T, self.heads, self.head_width)
        if self.qk_norm is not None:
            q = self.q_norm(q)
        if self.rope_theta is not None:
            q = rotate(q, position, self.rope_theta, self.rope_scaling)
        q = checkpoint_name(q, KEPT_OF_ATTENTION)
        out = attend(q, memory.k, memory.v, memory.order, limit, causal)
        return checkpoint_name(self.o(out.reshape(B, T, -1), call), KEPT_OF_ATTENTION)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation in float32 (section 4.2); `frozen` fixes its scale."""

    eps: float = 1e-5
    frozen: bool = False

    @nn.compact
    def __call__(self, x):
        shape = (x.shape[-1],)
        if self.frozen:
            scale = self.variable("frozen", "scale", jnp.ones, shape).value
        else:
            scale = self.param("scale", nn.initializers.ones, shape)
        return _rms_norm(x, scale, self.eps)


@functools.partial(_again, static_argnums=2)
def _rms_norm(x, scale, eps: float):
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + eps)
    return (wide * scale).astype(x.dtype)


@_again
def swiglu(gate, up):
    """`silu(gate) * up` (section 4.2)."""
    return nn.silu(gate) * up


ACTIVATIONS = {
    "gelu_tanh": nn.gelu,  # the tanh approximation
    "gelu": functools.partial(nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # CLIP's
}


class MLP(nn.Module):
    """Two biased layers with an activation between, as in ViT. x `[..., D]` -> `[..., D]`."""

    mlp_width: int
    dtype: jnp.dtype = jnp.float32
    activation: str = "gelu_tanh"  # one of ACTIVATIONS

    @nn.compact
    def __call__(self, x):
        h = ACTIVATIONS[self.activation](
            Linear(self.mlp_width, True, dtype=self.dtype, name="up")(x)
        )
        return Linear(x.shape[-1], True, dtype=self.dtype, name="down")(h)

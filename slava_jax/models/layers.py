"""The blocks of the decoders once more, as functions of one layer's weights: for decoding.

Training scans one flax block over stacked weights. Decoding reads all weights for every token, so
here each layer has arrays of its own, q, k, v and gate, up are one product each, and kernels are
stored as nn/rows.py says. DecoderBlock and GroundedBlock have one form, `apply_layer`: attention to
the tokens so far, cross-attention if there is a memory, MLP. They are its reference.

A token's column in the cache is its position, so position p sees the columns up to p. What lies
behind a text, padding or what was there before, is overwritten before any token sees it.
Axis letters: see nn/attention.py.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from slava_jax.nn.adapters import AdapterConfig, mixed
from slava_jax.nn.attention import RMSNorm, rms_norm, rotate, swiglu
from slava_jax.nn.rows import Kernel, kernel_rows, rows_matmul

_FLOOR = -1e30  # the logit of a key that a query may not see


@dataclasses.dataclass(frozen=True)
class Heads:
    """The static part of an attention."""

    heads: int
    kv_heads: int
    head_width: int
    rope_theta: float = 0.0
    rope_scaling: tuple[float, ...] = ()
    qk_norm: float | None = None


@flax.struct.dataclass
class Projection:
    """Linear layers that read the same x, as one product.

    Attributes:
      bias: float32[sum of widths] or `None`.
      lora_a: float[D_in, layers * R]; lora_b: float[K, R, D_out] of each layer; router: of each;
        `None` and () without adapters.
      widths: D_out of each layer.
    """

    kernel: Kernel
    bias: jax.Array | None
    lora_a: jax.Array | None
    lora_b: tuple[jax.Array, ...]
    router: tuple[jax.Array, ...]
    widths: tuple[int, ...] = flax.struct.field(pytree_node=False)
    adapter: AdapterConfig | None = flax.struct.field(pytree_node=False)
    int8_activations: bool = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Cross:
    """Cross-attention; the output is multiplied by `scale` before it is added."""

    norm: jax.Array
    q: Projection
    kv: Projection
    o: Projection
    null_k: jax.Array  # [H, C], a key and a value that every token sees
    null_v: jax.Array
    heads: Heads = flax.struct.field(pytree_node=False)
    scale: float = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Layer:
    """The weights of one block; `up` is gate and up if the MLP is gated."""

    attention_norm: jax.Array
    qkv: Projection
    o: Projection
    q_norm: jax.Array | None
    k_norm: jax.Array | None
    cross: Cross | None
    mlp_norm: jax.Array
    up: Projection
    down: Projection
    heads: Heads = flax.struct.field(pytree_node=False)
    eps: float = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class LayerCache:
    """What a layer remembers of each text, S columns: k, v float[B, G, S, C].

    Attributes:
      memory_k, memory_v: float[B, H, M, C] of cross-attention, or `None`.
    """

    k: jax.Array
    v: jax.Array
    memory_k: jax.Array | None = None
    memory_v: jax.Array | None = None


def unstacked(variables: Mapping, layers: int) -> list[dict]:
    """The collections `params` and `frozen` of a stack, as one nested dict for each layer."""
    merged = _merged(variables.get("frozen", {}), variables.get("params", {}))
    return [jax.tree.map(lambda a, i=i: a[i], merged) for i in range(layers)]


def _merged(left: Mapping, right: Mapping) -> dict:
    out = dict(left)
    for name, value in right.items():
        out[name] = _merged(left.get(name, {}), value) if isinstance(value, Mapping) else value
    return out


def projection(
    parts: Sequence[Mapping], adapter: AdapterConfig | None = None, int8_activations: bool = False
) -> Projection:
    """The variables of adapters.Linear layers that read the same x, fused."""
    widths = tuple(part["kernel"].shape[1] for part in parts)
    bias = None
    if any("bias" in part for part in parts):
        zero = [jnp.zeros(width) for width in widths]
        bias = jnp.concatenate([p.get("bias", z) for p, z in zip(parts, zero, strict=True)])
    a = [part["lora_a"] for part in parts] if adapter else []
    return Projection(
        kernel_rows([(part["kernel"], part.get("scale")) for part in parts]),
        bias,
        jnp.concatenate(a, axis=1) if a else None,
        tuple(part["lora_b"] for part in parts) if adapter else (),
        tuple(part["router"] for part in parts if "router" in part) if adapter else (),
        widths,
        adapter,
        int8_activations and "scale" in parts[0],
    )


def project(p: Projection, x, call) -> list[jax.Array]:
    """The outputs float[B, T, D_out] of each layer of a projection of x float[B, T, D_in]."""
    y = rows_matmul(x, p.kernel, p.int8_activations)
    if p.bias is not None:
        y = y + p.bias.astype(y.dtype)
    out = _split(y, p.widths)
    if p.adapter is None:
        return out
    rank = p.adapter.r_max
    h = _split(jnp.dot(x, p.lora_a.astype(x.dtype)), [rank] * len(out))
    for i, lora_b in enumerate(p.lora_b):
        router = p.router[i] if p.router else None
        seen = h[i] if p.adapter.router == "projected" else x
        update, _ = mixed(p.adapter, h[i], seen, router, lora_b, None, call)
        out[i] = out[i] + update.astype(out[i].dtype)
    return out


def _split(x, widths) -> list[jax.Array]:
    stops = [sum(widths[:i]) for i in range(1, len(widths))]
    return jnp.split(x, stops, axis=-1)


def empty_cache(layer: Layer, batch: int, columns: int, dtype) -> LayerCache:
    """A cache with room for texts of `columns` tokens."""
    zeros = jnp.zeros((batch, layer.heads.kv_heads, columns, layer.heads.head_width), dtype)
    return LayerCache(zeros, zeros)


def remember(layer: Layer, memory, cache: LayerCache) -> LayerCache:
    """The cache with keys and values of a memory float[B, M, E], after those of the null key."""
    c = layer.cross
    k, v = (_heads_first(a, c.heads.kv_heads) for a in project(c.kv, memory, None))
    rows = (k.shape[0], *c.null_k.shape)

    def with_null(null, held):
        null = jnp.broadcast_to(null, rows)[:, :, None].astype(held.dtype)
        return jnp.concatenate([null, held], axis=2)

    return cache.replace(memory_k=with_null(c.null_k, k), memory_v=with_null(c.null_v, v))


def apply_layer(layer: Layer, x, cache: LayerCache, position, shown, call):
    """One block: x float[B, T, D] -> (float[B, T, D], the cache with its T tokens).

    Args:
      position: int32[B], of the first token of each row; the others follow.
      shown: bool[B, 1 + M], which of the null key and the memory is seen; `None` without memory.
      call: the adapter inputs; the rank is int32[] or int32[B, 1, 1].
    """
    h = rms_norm(x, layer.attention_norm, layer.eps)
    h, k, v = _self_attention(layer, h, cache, position, call)
    x = x + h
    if layer.cross is not None:
        c = layer.cross
        (q,) = project(c.q, rms_norm(x, c.norm, RMSNorm.eps), None)
        h = _attend(_heads_first(q, c.heads.heads), cache.memory_k, cache.memory_v, shown[:, None])
        x = x + c.scale * project(c.o, h, None)[0]
    h = rms_norm(x, layer.mlp_norm, layer.eps)
    up = project(layer.up, h, None)
    h = swiglu(*up) if len(up) == 2 else nn.gelu(up[0])
    return x + project(layer.down, h, None)[0], cache.replace(k=k, v=v)


def _self_attention(layer: Layer, x, cache: LayerCache, position, call):
    a = layer.heads
    each = position[:, None] + jnp.arange(x.shape[1], dtype=jnp.int32)
    q, k, v = (
        y.reshape(*y.shape[:2], -1, a.head_width) for y in project(layer.qkv, x, call)
    )  # [B, T, heads, C]
    if a.qk_norm is not None:
        q, k = rms_norm(q, layer.q_norm, a.qk_norm), rms_norm(k, layer.k_norm, a.qk_norm)
    q, k = (rotate(y, each, a.rope_theta, a.rope_scaling) for y in (q, k))
    k, v = _written(cache.k, k, position), _written(cache.v, v, position)
    seen = jnp.arange(k.shape[2]) <= each[:, :, None]
    out = _attend(q.swapaxes(1, 2), k, v, seen)
    return project(layer.o, out, call)[0], k, v


def _written(held, new, position):
    """held [B, G, S, C] with new [B, T, G, C] from column `position[b]` on."""
    new = new.swapaxes(1, 2).astype(held.dtype)
    for row in range(held.shape[0]):  # XLA on a CPU makes a loop of a scatter
        start = (row, 0, position[row], 0)
        held = jax.lax.dynamic_update_slice(held, new[row : row + 1], start)
    return held


def _heads_first(x, heads: int):
    """[B, T, heads * C] -> [B, heads, T, C]."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def _attend(q, k, v, seen):
    """q [B, H, T, C] to k, v [B, G, S, C], those in `seen` bool[B, T or 1, S]: [B, T, H * C]."""
    B, H, T, C = q.shape
    G = k.shape[1]
    q = (q * C**-0.5).reshape(B, G, H // G * T, C)
    logits = jnp.einsum("BGTC,BGSC->BGTS", q, k, preferred_element_type=jnp.float32)
    logits = logits.reshape(B, G, H // G, T, -1)
    logits = jnp.where(seen[:, None, None], logits, _FLOOR)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype).reshape(B, G, H // G * T, -1)
    out = jnp.einsum("BGTS,BGSC->BGTC", weights, v).reshape(B, H, T, C)
    return out.swapaxes(1, 2).reshape(B, T, -1)

"""Llama-2 blocks (section 4.2): RMSNorm, SwiGLU, rotary positions, grouped-query attention.

One module serves four times: trainable while the tiny model is pretrained, then frozen and int8
with DyA-MoQPE as the text encoder, the same again as the `llama` decoder with cross-attention,
and with a cache in generation. Axis letters: see nn/attention.py.
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from slava_jax.nn.adapters import AdapterCall, AdapterConfig, Linear
from slava_jax.nn.attention import Attention, KeysValues, RMSNorm, swiglu
from slava_jax.nn.stack import REMAT, stack
from slava_jax.nn.vocabulary import Vocabulary, summed_nats


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """The defaults are Llama-2-7b."""

    vocab_size: int = 32_000
    width: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    head_width: int = 128
    mlp_width: int = 11_008
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    rope_scaling: tuple[float, ...] = ()  # Llama-3's four numbers, see nn/attention.py

    def __post_init__(self):
        sizes = (self.width, self.layers, self.heads, self.kv_heads, self.head_width)
        if min(*sizes, self.mlp_width) < 1:
            raise ValueError(f"llama: sizes must be 1 or more, got {self}")
        if self.heads % self.kv_heads:
            raise ValueError(f"llama.kv_heads must divide llama.heads, got {self}")
        if len(self.rope_scaling) not in (0, 4):
            raise ValueError(f"llama.rope_scaling must be () or four numbers, got {self}")


@dataclasses.dataclass(frozen=True)
class LlamaMode:
    """How the weights of a Llama are held, trained or frozen (int8) under adapters; and run.

    int8_activations: see quantized.int8_matmul. remat: one of stack.REMAT.
    """

    frozen: bool = False
    quantized: bool = False
    adapter: AdapterConfig | None = None
    cross_attention: bool = False  # of the `llama` decoder
    dtype: jnp.dtype = jnp.float32
    int8_activations: bool = False
    remat: str = "none"

    def __post_init__(self):
        if self.remat not in REMAT:
            raise ValueError(f"remat must be one of {', '.join(REMAT)}, got {self.remat!r}")
        if self.int8_activations and not self.quantized:
            raise ValueError("int8_activations needs int8 kernels: set quantized to True")


@flax.struct.dataclass
class TextInputs:
    """What every block of one pass shares.

    Attributes:
      order: int32[B, T], position of each token, rising, `HIDDEN` for the padding behind them.
      call: what the adapters are told.
      memory, memory_order: float[B, S, D_memory] and int32[B, S], what cross-attention looks at: a
        decoder at keys of order 0, the grounded encoder at images by their number; `None` for the
        text encoder, and in later steps of a cached decoding.
      slot: int32[], where in the cache the T tokens go.
    """

    order: jax.Array
    call: AdapterCall | None = None
    memory: jax.Array | None = None
    memory_order: jax.Array | None = None
    slot: jax.Array | None = None


@flax.struct.dataclass
class BlockCache:
    """One block's cache: the tokens so far and, for a decoder, the memory."""

    tokens: KeysValues
    memory: KeysValues | None = None


def self_attend(attention: Attention, x, text: TextInputs, cache: BlockCache | None):
    """Causal self-attention over the cache (if any) and x; returns (output, keys and values)."""
    seen = attention.keys_values(x, text.order, text.call)
    if cache is not None:
        seen = cache.tokens.write(seen, text.slot)
    return attention(x, seen, text.order, text.call, causal=cache is None), seen


def cross_attend(attention: Attention, x, text: TextInputs, cache: BlockCache | None, limit):
    """Attention to the memory, whose keys and values come from the cache once they are there.

    `limit` int32[B, T]: a token sees the memory's keys with `order <= limit`.
    """
    if text.memory is None:
        seen = cache.memory
    else:
        seen = attention.keys_values(text.memory, text.memory_order)
    return attention(x, seen, limit), seen


class LlamaBlock(nn.Module):
    """Pre-norm block; cross-attention stands before the MLP when there is memory.

    It starts as nothing, its output kernel at zero, so that the block starts as the frozen one. A
    gate at zero says the same, but is opened by a learning rate a step: on the solar cells thirty
    of them were below 0.07 after 456 steps of 1e-3, and next to nothing was seen of the image.
    """

    config: LlamaConfig
    mode: LlamaMode

    @nn.compact
    def __call__(self, x, cache: BlockCache | None, text: TextInputs):
        c, m = self.config, self.mode

        def norm(name):
            return RMSNorm(c.norm_eps, m.frozen, name=name)

        attention = Attention(
            c.width, c.heads, c.head_width, c.kv_heads, c.rope_theta, c.rope_scaling,
            frozen=m.frozen, quantized=m.quantized, adapter=m.adapter, dtype=m.dtype,
            int8_activations=m.int8_activations, name='attention',
        )  # fmt: skip
        h, tokens = self_attend(attention, norm("attention_norm")(x), text, cache)
        x = x + h
        memory = None
        if m.cross_attention and (text.memory is not None or cache is not None):
            # Four heads of 32 suffice: the memory is the grounded stack's, not Llama's width.
            cross = Attention(
                c.width, 4, 32, null_key=True, dtype=m.dtype, name="cross",
                out_kernel_init=nn.initializers.zeros,
            )  # fmt: skip
            limit = jnp.zeros(x.shape[:2], jnp.int32)
            h = RMSNorm(c.norm_eps, name="cross_norm")(x)
            h, memory = cross_attend(cross, h, text, cache, limit)
            # A tenth: Adam moves every entry alike, and a step of thirty layers would be too far.
            x = x + 0.1 * h
        h = norm("mlp_norm")(x)

        def linear(features, name):
            return Linear(
                features, False, m.frozen, m.quantized, dtype=m.dtype,
                int8_activations=m.int8_activations, name=name,
            )  # fmt: skip

        h = swiglu(linear(c.mlp_width, "gate")(h), linear(c.mlp_width, "up")(h))
        return x + linear(c.width, "down")(h), BlockCache(tokens, memory) if cache else None


class Llama(nn.Module):
    """Token states of a Llama: `embed`, `__call__`, and `vocabulary` are the three steps of it."""

    config: LlamaConfig
    mode: LlamaMode = LlamaMode()

    def setup(self):
        c, m = self.config, self.mode
        table = (c.vocab_size, c.width)
        self.embedding = self._table("embedding", table)
        self.blocks = stack(LlamaBlock, c.layers, (0, nn.broadcast), m.remat)(c, m)
        self.norm = RMSNorm(c.norm_eps, m.frozen)
        if not c.tie_embeddings:
            self.head = Linear(c.vocab_size, False, m.frozen, m.quantized, dtype=m.dtype)

    def _table(self, name, shape):
        init = nn.initializers.normal(0.02)
        if not self.mode.frozen:
            return self.param(name, init, shape)
        return self.variable("frozen", name, lambda: init(self.make_rng("params"), shape)).value

    def embed(self, tokens):
        """int32[B, T] -> float[B, T, D]; ids must lie in the base vocabulary."""
        return self.embedding[tokens].astype(self.mode.dtype)

    def __call__(self, x, text: TextInputs, cache: BlockCache | None = None):
        """Embedded tokens float[B, T, D] -> (states float[B, T, D], cache with a layer axis)."""
        x, cache = self.blocks(x, cache, text)
        return self.norm(x), cache

    def vocabulary(self, added=None) -> Vocabulary:
        """What turns states into logits; `added` float[v, D] are rows of tokens behind the base."""
        if self.config.tie_embeddings:
            return Vocabulary(self.embedding, None, added, tied=True)
        if self.is_initializing():
            self.head(jnp.zeros((1, self.config.width), self.mode.dtype))
        held = self.head.variables["frozen" if self.mode.frozen else "params"]
        return Vocabulary(held["kernel"], held.get("scale"), added)


class LanguageModel(nn.Module):
    """A Llama as a plain language model: what the `language` stage trains."""

    config: LlamaConfig
    mode: LlamaMode = LlamaMode()

    def setup(self):
        self.llama = Llama(self.config, self.mode)

    def __call__(self, tokens, order):
        """int32[B, T] tokens and orders -> next-token logits float32[B, T, V]."""
        states = self._states(tokens, order)
        return self.llama.vocabulary().logits(states)

    def nats(self, tokens, order, targets, weights, call: AdapterCall | None = None):
        """Cross-entropy summed over `targets` int32[B, T] with `weights` float32[B, T]: float32[].

        `call` is needed by adapted layers.
        """
        states = self._states(tokens, order, call)
        return summed_nats(self.llama.vocabulary(), states, targets, weights)

    def _states(self, tokens, order, call=None):
        return self.llama(self.llama.embed(tokens), TextInputs(order, call))[0]

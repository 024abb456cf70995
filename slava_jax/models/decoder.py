"""Decoder-only language models (section 4.2): Llama, Qwen2 and Qwen3, which differ in settings.

RMSNorm, SwiGLU, rotary positions, grouped-query attention. The same module is used for: training
the tiny language model; sLAVA's text encoder, frozen in int8 under DyA-MoQPE; sLAVA's `llama`
decoder, with cross-attention; the decoder of models/inline.py, with image tokens in the sequence;
and generation, with a cache. Axis letters: see nn/attention.py.
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from slava_jax.nn.adapters import AdapterCall, AdapterConfig, Linear
from slava_jax.nn.attention import HIDDEN, Attention, KeysValues, RMSNorm, swiglu
from slava_jax.nn.stack import REMAT, stack
from slava_jax.nn.vocabulary import Vocabulary, summed_nats


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The architecture of a decoder; the defaults are Llama-2-7b.

    Apart from sizes, families differ in:
      qkv_bias: q, k and v have biases (Qwen2).
      qk_norm: RMSNorm over each head of q and k (Qwen3).
    """

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
    qkv_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self):
        sizes = (self.width, self.layers, self.heads, self.kv_heads, self.head_width)
        if min(*sizes, self.mlp_width) < 1:
            raise ValueError(f"language_model: sizes must be 1 or more, got {self}")
        if self.heads % self.kv_heads:
            raise ValueError(f"language_model.kv_heads must divide heads, got {self}")
        if self.head_width % 2:
            raise ValueError(f"language_model.head_width must be even (rotary), got {self}")
        if len(self.rope_scaling) not in (0, 4):
            raise ValueError(f"language_model.rope_scaling must be () or four numbers, got {self}")


@dataclasses.dataclass(frozen=True)
class DecoderMode:
    """How the weights of a decoder are stored and run.

    Attributes:
      frozen: the decoder's weights are in the collection `frozen`; only adapters are trained.
      int8_activations: see quantized.int8_matmul.
      remat: what a block keeps for the backward pass, one of stack.REMAT.
    """

    frozen: bool = False
    quantized: bool = False
    adapter: AdapterConfig | None = None
    cross_attention: bool = False  # for sLAVA's `llama` decoder
    dtype: jnp.dtype = jnp.float32
    int8_activations: bool = False
    remat: str = "none"

    def __post_init__(self):
        if self.remat not in REMAT:
            raise ValueError(f"remat must be one of {', '.join(REMAT)}, got {self.remat!r}")
        if self.int8_activations and not self.quantized:
            raise ValueError("int8_activations needs int8 kernels; set quantized to True")


@flax.struct.dataclass
class BlockInputs:
    """Inputs shared by all blocks of one pass.

    Without a cache, tokens must be sorted by position with padding last, so that cuDNN can skip the
    masked half of the products.

    Attributes:
      position: int32[B, T], rotary position of each token.
      order: int32[B, T], visibility: a token attends to tokens whose order is at most its own;
        `HIDDEN` for padding.
      call: the adapter inputs.
      memory, memory_order: float[B, S, D_memory] and int32[B, S], what cross-attention reads: keys
        of order 0 in a decoder, images by number in the grounded encoder. `None` for a plain
        decoder and after the first step of cached decoding.
      slot: int32[], index in the cache at which the T tokens are written.
    """

    position: jax.Array
    order: jax.Array
    call: AdapterCall | None = None
    memory: jax.Array | None = None
    memory_order: jax.Array | None = None
    slot: jax.Array | None = None


def text_inputs(length: int, lengths, call: AdapterCall | None = None) -> BlockInputs:
    """Inputs for texts int32[B, length] that start at position 0 and are padded on the right.

    `lengths`: int32[B], number of tokens of each.
    """
    position = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (len(lengths), length))
    order = jnp.where(position < lengths[:, None], position, HIDDEN)
    return BlockInputs(position, order, call)


@flax.struct.dataclass
class BlockCache:
    """One block's cache: the tokens so far and, with cross-attention, the memory."""

    tokens: KeysValues
    memory: KeysValues | None = None

    @classmethod
    def empty(cls, layers: int, batch: int, length: int, kv_heads: int, head_width: int, dtype):
        """Empty caches with room for `length` tokens, stacked over layers."""
        one = KeysValues.empty(batch, length, kv_heads, head_width, dtype)
        return cls(jax.tree.map(lambda a: jnp.broadcast_to(a, (layers, *a.shape)), one))


def self_attend(attention: Attention, x, inputs: BlockInputs, cache: BlockCache | None):
    """Self-attention to the cache (if any) and x; returns (output, keys and values)."""
    i = inputs
    held = attention.keys_values(x, i.order, i.call, i.position)
    if cache is not None:
        held = cache.tokens.write(held, i.slot)
    return attention(x, held, i.order, i.call, i.position, causal=cache is None), held


def cross_attend(attention: Attention, x, inputs: BlockInputs, cache: BlockCache | None, limit):
    """Attention to the memory; its keys and values come from the cache after the first step.

    `limit` int32[B, T]: a token attends to the memory keys with `order <= limit`.
    """
    if inputs.memory is None:
        held = cache.memory
    else:
        held = attention.keys_values(inputs.memory, inputs.memory_order)
    return attention(x, held, limit), held


class DecoderBlock(nn.Module):
    """Pre-norm block, with cross-attention before the MLP if there is memory.

    The output kernel of cross-attention starts at zero, so that the block initially equals the
    frozen one. A gate initialised at zero would do the same but opens too slowly: on the solar
    cells, thirty gates were still below 0.07 after 456 steps at a learning rate of 1e-3, and little
    image information got through.
    """

    config: DecoderConfig
    mode: DecoderMode

    @nn.compact
    def __call__(self, x, cache: BlockCache | None, inputs: BlockInputs):
        c, m = self.config, self.mode

        def norm(name):
            return RMSNorm(c.norm_eps, m.frozen, name=name)

        attention = Attention(
            c.width, c.heads, c.head_width, c.kv_heads, c.rope_theta, c.rope_scaling,
            biases="qkv" if c.qkv_bias else "", qk_norm=c.norm_eps if c.qk_norm else None,
            frozen=m.frozen, quantized=m.quantized, adapter=m.adapter, dtype=m.dtype,
            int8_activations=m.int8_activations, name='attention',
        )  # fmt: skip
        h, tokens = self_attend(attention, norm("attention_norm")(x), inputs, cache)
        x = x + h
        memory = None
        if m.cross_attention and (inputs.memory is not None or cache is not None):
            # Four heads of 32 suffice: the memory has the width of the grounded stack.
            cross = Attention(
                c.width, 4, 32, null_key=True, dtype=m.dtype, name="cross",
                out_kernel_init=nn.initializers.zeros,
            )  # fmt: skip
            limit = jnp.zeros(x.shape[:2], jnp.int32)
            h = RMSNorm(c.norm_eps, name="cross_norm")(x)
            h, memory = cross_attend(cross, h, inputs, cache, limit)
            # Adam moves every entry by a similar amount; over thirty layers the unscaled step
            # would be too large.
            x = x + 0.1 * h
        h = norm("mlp_norm")(x)

        def linear(features, name):
            return Linear(
                features, False, m.frozen, m.quantized, dtype=m.dtype,
                int8_activations=m.int8_activations, name=name,
            )  # fmt: skip

        h = swiglu(linear(c.mlp_width, "gate")(h), linear(c.mlp_width, "up")(h))
        return x + linear(c.width, "down")(h), BlockCache(tokens, memory) if cache else None


class Decoder(nn.Module):
    """Token states of a language model, in three steps: `embed`, `__call__`, `vocabulary`."""

    config: DecoderConfig
    mode: DecoderMode = DecoderMode()

    def setup(self):
        c, m = self.config, self.mode
        table = (c.vocab_size, c.width)
        self.embedding = self._table("embedding", table)
        self.blocks = stack(DecoderBlock, c.layers, (0, nn.broadcast), m.remat)(c, m)
        self.norm = RMSNorm(c.norm_eps, m.frozen)
        if not c.tie_embeddings:
            self.head = Linear(c.vocab_size, False, m.frozen, m.quantized, dtype=m.dtype)

    def _table(self, name, shape):
        init = nn.initializers.normal(0.02)
        if not self.mode.frozen:
            return self.param(name, init, shape)
        return self.variable("frozen", name, lambda: init(self.make_rng("params"), shape)).value

    def embed(self, tokens):
        """int32[B, T] -> float[B, T, D]; ids must be in the base vocabulary."""
        return self.embedding[tokens].astype(self.mode.dtype)

    def __call__(self, x, inputs: BlockInputs, cache: BlockCache | None = None):
        """Embedded tokens float[B, T, D] -> (states float[B, T, D], cache with a layer axis)."""
        x, cache = self.blocks(x, cache, inputs)
        return self.norm(x), cache

    def vocabulary(self, added=None) -> Vocabulary:
        """Maps states to logits; `added` float[v, D] are rows of tokens appended to the base."""
        if self.config.tie_embeddings:
            return Vocabulary(self.embedding, None, added, tied=True)
        if self.is_initializing():
            self.head(jnp.zeros((1, self.config.width), self.mode.dtype))
        held = self.head.variables["frozen" if self.mode.frozen else "params"]
        return Vocabulary(held["kernel"], held.get("scale"), added)

    def empty_cache(self, batch: int, length: int) -> BlockCache:
        """An empty cache with room for `length` tokens, stacked over layers."""
        c = self.config
        return BlockCache.empty(c.layers, batch, length, c.kv_heads, c.head_width, self.mode.dtype)


class LanguageModel(nn.Module):
    """A decoder as a plain language model, as trained in the `language` stage."""

    config: DecoderConfig
    mode: DecoderMode = DecoderMode()

    def setup(self):
        self.language_model = Decoder(self.config, self.mode)

    def __call__(self, tokens, order):
        """int32[B, T] tokens and orders -> next-token logits float32[B, T, V]."""
        states = self._states(tokens, order)
        return self.language_model.vocabulary().logits(states)

    def nats(self, tokens, order, targets, weights, call: AdapterCall | None = None):
        """Cross-entropy summed over `targets` int32[B, T] with `weights` float32[B, T]: float32[].

        Adapted layers need `call`.
        """
        states = self._states(tokens, order, call)
        return summed_nats(self.language_model.vocabulary(), states, targets, weights)

    def _states(self, tokens, order, call=None):
        inputs = BlockInputs(order, order, call)
        return self.language_model(self.language_model.embed(tokens), inputs)[0]

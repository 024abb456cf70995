"""sLAVA: the four parts of Figure 2.

    images -> Vit ------------------------.--------------------.
                                          |                    v
    question <Encode> answer <Encode> -> Decoder (int8, DyA-MoQPE) -> GroundedEncoder -> match logit
                                          |                    |
                                          |      memory: states up to the first <Encode>
                                          v                    v
    <Decode> answer ------------------------------> answer decoder -> answer <EOS>

The text encoder and the grounded encoder are causal, so the states up to the first `<Encode>` do
not depend on the answer after it: one pass of the language model serves both losses.
Axis letters: see nn/attention.py; `E` is the width of the grounded stacks, `U` answer tokens.
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from slava_jax.data.chat import TextForm
from slava_jax.models.decoder import (
    BlockInputs,
    Decoder,
    DecoderConfig,
    DecoderMode,
    text_inputs,
)
from slava_jax.models.grounded import GroundedConfig, GroundedDecoder, GroundedEncoder
from slava_jax.models.interface import Batch, Outputs, Prompt, State
from slava_jax.models.vit import Vit, VitConfig
from slava_jax.nn.adapters import AdapterCall, AdapterConfig
from slava_jax.nn.attention import HIDDEN
from slava_jax.nn.vocabulary import Vocabulary, summed_nats, token_nats

# They follow the tokenizer's vocabulary, and their embeddings are trained.
SPECIAL_TOKENS = ("<image>", "<Encode>", "<Decode>", "<EOS>")
_IMAGE, _ENCODE, _DECODE, _EOS = range(4)


@dataclasses.dataclass(frozen=True)
class SlavaConfig:
    """The defaults are the paper's model: ViT 224/32 of width 64 and Llama-2-7b.

    Attributes:
      decoder: 'transformer' is the paper's small stack, trained from scratch; 'llama' reuses the
        frozen int8 blocks and their adapters, with cross-attention.
      quantized: int8 kernels in the frozen language model.
      text_encoder: 'llama', or 'embeddings' for a control in which the grounded encoder reads the
        frozen embedding table directly, without the language model.
      int8_activations: the frozen language model multiplies int8 by int8 (quantized.int8_matmul).
      remat: what a decoder block keeps for the backward pass, one of stack.REMAT.
    """

    vit: VitConfig = VitConfig()
    language_model: DecoderConfig = DecoderConfig()
    grounded: GroundedConfig = GroundedConfig()
    adapter: AdapterConfig | None = AdapterConfig()
    decoder: str = "transformer"
    quantized: bool = True
    text_encoder: str = "llama"
    int8_activations: bool = False
    remat: str = "none"

    def __post_init__(self):
        self.decoder_mode(jnp.float32)  # validates its settings
        if self.text_encoder not in ("llama", "embeddings"):
            raise ValueError(
                f"text_encoder must be 'llama' or 'embeddings', got {self.text_encoder!r}"
            )
        if self.decoder not in ("transformer", "llama"):
            raise ValueError(f"decoder must be 'transformer' or 'llama', got {self.decoder!r}")

    def decoder_mode(self, dtype) -> DecoderMode:
        """How the frozen language model is stored and run."""
        return DecoderMode(
            True, self.quantized, self.adapter, self.decoder == "llama", dtype,
            self.int8_activations, self.remat,
        )  # fmt: skip

    @property
    def vocab_size(self) -> int:
        """Number of tokens, including the special ones after the base vocabulary."""
        return self.language_model.vocab_size + len(SPECIAL_TOKENS)


@flax.struct.dataclass
class Text:
    """A prompt with its `<Encode>` tokens.

    Attributes:
      tokens: int32[B, T + 1]; images_before: int32[B, T + 1], number of images at or before each
        token.
      length: int32[B]; encode_at: int32[B], position of the first `<Encode>`.
    """

    tokens: jax.Array
    images_before: jax.Array
    length: jax.Array
    encode_at: jax.Array

    def inputs(self, call: AdapterCall | None = None) -> BlockInputs:
        """The inputs of the blocks for this text."""
        return text_inputs(self.tokens.shape[1], self.length, call)


def _marked(prompt: Prompt, base: int, answer_start=None) -> Text:
    """Puts `<Encode>` after the question and, with an answer, in place of its end token.

    `base`: size of the base vocabulary. `answer_start`: see Batch; `None` for questions alone.
    """
    at = prompt.length if answer_start is None else answer_start
    position = jnp.arange(prompt.tokens.shape[1] + 1)
    source = jnp.where(position <= at[:, None], position, position - 1)
    source = jnp.minimum(source, prompt.tokens.shape[1] - 1)
    tokens, index = (
        jnp.take_along_axis(a, source, axis=1) for a in (prompt.tokens, prompt.image_index)
    )
    encode = (position == at[:, None]) | (position == prompt.length[:, None])
    tokens = jnp.where(encode, base + _ENCODE, tokens)
    images = (index >= 0) & ~encode & (position < prompt.length[:, None])
    return Text(tokens, jnp.cumsum(images, axis=1, dtype=jnp.int32), prompt.length + 1, at)


@flax.struct.dataclass
class Memory:
    """The memory that the answer decoder reads.

    Attributes:
      values: float[B, S, E]; order: int32[B, S], 0 or `HIDDEN`.
      first: int32[B], the first token of the text, bos if the tokenizer has one. The `llama`
        decoder reads it before its own tokens: a language model puts much of its attention on the
        first token and predicts badly without it.
    """

    values: jax.Array
    order: jax.Array
    first: jax.Array


class Slava(nn.Module):
    """The model; implements interface.VisionLanguageModel."""

    config: SlavaConfig
    dtype: jnp.dtype = jnp.float32

    matches = True
    every_answer = False  # its decoder writes only one

    def setup(self):
        c = self.config
        self.vit = Vit(c.vit, self.dtype)
        self.language_model = Decoder(c.language_model, c.decoder_mode(self.dtype))
        self.encoder = GroundedEncoder(c.grounded, self.dtype)
        init = nn.initializers.normal(0.02)
        rows = (len(SPECIAL_TOKENS), c.language_model.width)
        self.special_embedding = self.param("special_embedding", init, rows)
        if c.decoder == "transformer":
            self.decoder = GroundedDecoder(c.grounded, self.dtype)
            table = (c.vocab_size, c.grounded.width)
            self.answer_embedding = self.param("answer_embedding", init, table)

    @property
    def adapter(self) -> AdapterConfig | None:
        """The text encoder's adapters."""
        return self.config.adapter

    @property
    def adapted(self) -> bool:
        """See interface.py."""
        return self.adapter is not None and self.config.text_encoder == "llama"

    def text_form(self, eos_id: int) -> TextForm:
        """Plain text with one special token per image; <EOS> ends an answer."""
        del eos_id
        base = self.config.language_model.vocab_size
        return TextForm("plain", 1, base + _IMAGE, base + _EOS)

    def encode_images(self, images):
        """Images of a Prompt -> image tokens float[B, I, N, E]."""
        B, I = images.shape[:2]  # noqa: E741
        tokens = self.vit(images.reshape(B * I, *images.shape[2:]))
        return self.encoder.project_images(tokens).reshape(B, I, tokens.shape[1], -1)

    def embed(self, tokens):
        """Text encoder embeddings: the frozen table plus trained rows for the special tokens."""
        base = self.config.language_model.vocab_size
        special = self.special_embedding[jnp.clip(tokens - base, 0)].astype(self.dtype)
        table = self.language_model.embed(jnp.minimum(tokens, base - 1))
        return jnp.where((tokens >= base)[..., None], special, table)

    def encode_text(self, embedded, inputs: BlockInputs):
        """Text encoder: embedded float[B, T, D] -> states float[B, T, D]."""
        if self.config.text_encoder == "embeddings" and not self.is_initializing():
            return embedded  # initialisation still creates the whole base
        return self.language_model(embedded, inputs)[0]

    def fuse(self, states, image_tokens, inputs: BlockInputs, images_before):
        """Grounded encoder: states float[B, T, D], images float[B, I, N, E] -> float[B, T, E]."""
        B, I, N, E = image_tokens.shape  # noqa: E741
        number = jnp.repeat(jnp.arange(1, I + 1, dtype=jnp.int32), N)
        image_order = jnp.broadcast_to(number, (B, I * N))
        flat = image_tokens.reshape(B, I * N, E)
        return self.encoder(states, flat, inputs, image_order, images_before)

    def memory(self, fused, image_tokens, text: Text) -> Memory:
        """The decoder's memory: the fused question (answer hidden) and its image tokens.

        An example may have fewer images than its batch has room for; the rest is hidden.
        """
        B, I, N, E = image_tokens.shape  # noqa: E741
        T = fused.shape[1]
        order = jnp.where(jnp.arange(T) <= text.encode_at[:, None], 0, HIDDEN)
        values = jnp.concatenate([fused, image_tokens.reshape(B, I * N, E)], axis=1)
        count = jnp.take_along_axis(text.images_before, text.encode_at[:, None], axis=1)
        shown = jnp.where(jnp.repeat(jnp.arange(I), N) < count, 0, HIDDEN)
        order, shown = (jnp.broadcast_to(a, (B, a.shape[1])) for a in (order, shown))
        first = jnp.broadcast_to(text.tokens[:, 0], (B,))
        return Memory(values, jnp.concatenate([order, shown], axis=1), first)

    def prefill(self, prompt: Prompt, room: int, call: AdapterCall) -> State:
        """See interface.py. The text's first token takes one slot of the cache.

        The `llama` decoder reads it. It is hidden from the `transformer` decoder, for which this
        pass only writes the keys and values of the memory to the cache.
        """
        image_tokens = self.encode_images(prompt.images)
        text = _marked(prompt, self.config.language_model.vocab_size)
        states = self.encode_text(self.embed(text.tokens), text.inputs(call))
        rows = image_tokens.shape[0]
        states = jnp.broadcast_to(states, (rows, *states.shape[1:]))
        inputs = jax.tree.map(lambda a: jnp.broadcast_to(a, (rows, *a.shape[1:])), text.inputs())
        before = jnp.broadcast_to(text.images_before, (rows, states.shape[1]))
        memory = self.memory(self.fuse(states, image_tokens, inputs, before), image_tokens, text)
        read = self.config.decoder == "llama"
        stack = self.language_model if read else self.decoder
        none = jnp.zeros((rows, 1), jnp.int32)
        inputs = BlockInputs(
            none, none if read else none + HIDDEN, call, memory.values, memory.order, jnp.int32(0)
        )
        cache = stack.empty_cache(rows, 1 + room)
        _, cache = stack(self._embed_answer(memory.first[:, None]), inputs, cache)
        first = jnp.full(rows, int(read), jnp.int32)
        start = jnp.full(rows, self.config.language_model.vocab_size + _DECODE, jnp.int32)
        return State(start, first, first, jnp.int32(1), cache)

    def decode(self, tokens, state: State, call: AdapterCall):
        """See interface.py; logits are over base vocabulary and special tokens."""
        U = tokens.shape[1]
        step = jnp.arange(U, dtype=jnp.int32)
        inputs = BlockInputs(
            state.position[:, None] + step, state.order[:, None] + step, call, slot=state.slot
        )
        stack = self.language_model if self.config.decoder == "llama" else self.decoder
        states, cache = stack(self._embed_answer(tokens), inputs, state.cache)
        state = State(state.start, state.position + U, state.order + U, state.slot + U, cache)
        return self.vocabulary().logits(states), state

    def _embed_answer(self, tokens):
        if self.config.decoder == "llama":
            return self.embed(tokens)
        return self.answer_embedding[tokens].astype(self.dtype)

    def _answer(self, tokens, memory: Memory, call):
        """Decoder states float[B, U, D] for tokens int32[B, U], `<Decode>` first."""
        llama, U = self.config.decoder == "llama", tokens.shape[1]
        if llama:
            tokens = jnp.concatenate([memory.first[:, None], tokens], axis=1)
        order = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        inputs = BlockInputs(order, order, call, memory.values, memory.order)
        stack = self.language_model if llama else self.decoder
        return stack(self._embed_answer(tokens), inputs)[0][:, -U:]

    def vocabulary(self) -> Vocabulary:
        """Maps the decoder's states to logits over base vocabulary and special tokens."""
        if self.config.decoder == "llama":
            return self.language_model.vocabulary(self.special_embedding)
        return Vocabulary(self.answer_embedding, tied=True)

    def next_token_logits(self, tokens, order, call: AdapterCall):
        """The text encoder as a language model, as exported by convert/export.py.

        tokens, order int32[B, T] -> float32[B, T, V], over base vocabulary and special tokens.
        """
        states = self.encode_text(self.embed(tokens), BlockInputs(order, order, call))
        return self.language_model.vocabulary(self.special_embedding).logits(states)

    def outputs(self, batch: Batch, call: AdapterCall, each: bool = False) -> Outputs:
        """See interface.py. Only the last answer is scored; earlier ones belong to its question."""
        prompt, base = batch.prompt, self.config.language_model.vocab_size
        image_tokens = self.encode_images(prompt.images)
        text = _marked(prompt, base, batch.answer_start)
        inputs = text.inputs(call)
        states = self.encode_text(self.embed(text.tokens), inputs)
        fused, *matches = self._matched(states, image_tokens, text, batch.mismatched)
        memory = self.memory(fused, image_tokens, text)
        targets = batch.window(prompt.tokens)
        begin = jnp.full_like(targets[:, :1], base + _DECODE)
        answers = self._answer(jnp.concatenate([begin, targets[:, :-1]], axis=1), memory, call)
        if self.is_initializing():
            self.language_model.vocabulary()  # creates the whole base for either decoder
            return Outputs(jnp.float32(0), *matches)
        if each:
            nats = token_nats(self.vocabulary(), answers, targets)
        else:
            nats = summed_nats(self.vocabulary(), answers, targets, batch.weights)
        return Outputs(nats, *matches)

    def _matched(self, states, image_tokens, text: Text, mismatched):
        """(fused text float[B, T, E], match logits, match logits with the mismatched images).

        Correct and mismatched images go through the small stack together; the language model runs
        once. The two rows of an example are adjacent, so that on a mesh they stay on its device;
        concatenating two halves would move them.
        """
        inputs, before, last = text.inputs(), text.images_before, text.length - 1
        if mismatched is None:
            fused = self.fuse(states, image_tokens, inputs, before)
            return fused, self.encoder.match_logits(fused, last), None
        other = image_tokens.reshape(-1, *image_tokens.shape[2:])[mismatched]
        both = _side_by_side(image_tokens, other)
        twice = jax.tree.map(lambda a: _side_by_side(a, a), (states, inputs, before, last))
        fused = self.fuse(twice[0], both, twice[1], twice[2])
        match, match_mismatched = self.encoder.match_logits(fused, twice[3]).reshape(-1, 2).T
        return fused[::2], match, match_mismatched


def _side_by_side(first, second):
    """Interleaves the rows of two arrays: [B, ...] and [B, ...] -> [2 B, ...]."""
    return jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])

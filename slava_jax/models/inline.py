"""LLaVA, LLaVA-1.5, LiMBeR: image tokens are inserted into the token sequence of a decoder.

    images -> Vit -> Connector -.
                                v
    text   -> embedding ------> sequence -> Decoder (int8, DyA-MoQPE) -> next token

An image takes `M` positions of the sequence: its patches in reading order, after `<cls>` if the
connector reads it. The recipe decides what is trained on which data (config.py, train/recipes.py).
Axis letters: see nn/attention.py.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from slava_jax.data.chat import TextForm
from slava_jax.models.connectors import Connector, ConnectorConfig
from slava_jax.models.decoder import (
    BlockInputs,
    Decoder,
    DecoderConfig,
    DecoderMode,
    text_inputs,
)
from slava_jax.models.interface import Batch, Outputs, Prompt, State
from slava_jax.models.vit import Vit, VitConfig
from slava_jax.nn.adapters import AdapterCall, AdapterConfig
from slava_jax.nn.vocabulary import summed_nats, token_nats


@dataclasses.dataclass(frozen=True)
class InlineConfig:
    """A decoder with images in its sequence.

    Attributes:
      adapter: DyA-MoQPE in the decoder's attention; `None` for none (LiMBeR).
      quantized: int8 kernels in the decoder. With an adapter or int8 kernels the decoder is frozen;
        with neither its weights can be trained (LLaVA's second stage).
      template: the conversation template, see data/chat.py.
      int8_activations, remat: see DecoderMode.
    """

    vit: VitConfig = VitConfig()
    connector: ConnectorConfig = ConnectorConfig()
    language_model: DecoderConfig = DecoderConfig()
    adapter: AdapterConfig | None = AdapterConfig()
    quantized: bool = True
    template: str = "vicuna_v1"
    int8_activations: bool = False
    remat: str = "none"

    def __post_init__(self):
        # Both validate their settings.
        self.decoder_mode(jnp.float32)
        TextForm(self.template, 1, None, 0)

    @property
    def image_tokens(self) -> int:
        """M: the patches of an image, plus `<cls>` if the connector reads it."""
        return self.vit.tokens - (not self.connector.cls)

    def decoder_mode(self, dtype) -> DecoderMode:
        """How the decoder is stored and run."""
        frozen = self.quantized or self.adapter is not None
        return DecoderMode(
            frozen, self.quantized, self.adapter, False, dtype, self.int8_activations, self.remat
        )


class Inline(nn.Module):
    """The model; implements interface.VisionLanguageModel."""

    config: InlineConfig
    dtype: jnp.dtype = jnp.float32

    matches = False
    every_answer = True

    def setup(self):
        c = self.config
        self.vit = Vit(c.vit, self.dtype)
        self.connector = Connector(c.connector, c.language_model.width, self.dtype)
        self.language_model = Decoder(c.language_model, c.decoder_mode(self.dtype))

    @property
    def adapter(self) -> AdapterConfig | None:
        """The decoder's adapters."""
        return self.config.adapter

    @property
    def adapted(self) -> bool:
        """See interface.py."""
        return self.adapter is not None

    def text_form(self, eos_id: int) -> TextForm:
        """An image takes as many positions as the connector reads; no id stands for it."""
        return TextForm(self.config.template, self.config.image_tokens, None, eos_id)

    def encode_images(self, images, call: AdapterCall):
        """Images of a Prompt -> tokens of the decoder, float[B, I * M, D]."""
        B, I = images.shape[:2]  # noqa: E741
        tokens = self.vit(images.reshape(B * I, *images.shape[2:]))
        tokens = tokens[:, -self.config.image_tokens :]
        tokens = self.connector(tokens.reshape(B, -1, tokens.shape[-1]), call)
        return tokens.astype(self.dtype)

    def embed(self, prompt: Prompt, call: AdapterCall):
        """The sequence, float[B, T, D]: embedded text with image tokens inserted."""
        images = self.encode_images(prompt.images, call)
        rows = images.shape[0]
        tokens, index = (
            jnp.broadcast_to(a, (rows, a.shape[1])) for a in (prompt.tokens, prompt.image_index)
        )
        shown = jnp.take_along_axis(images, jnp.maximum(index, 0)[..., None], axis=1)
        return jnp.where((index >= 0)[..., None], shown, self.language_model.embed(tokens))

    def prefill(self, prompt: Prompt, room: int, call: AdapterCall) -> State:
        """See interface.py. Decoding starts with the last token of each prompt."""
        x = self.embed(prompt, call)
        B, T = x.shape[:2]
        last = jnp.broadcast_to(prompt.length, (B,)) - 1
        # As it stands in the sequence: where the prompt ends with an image it is no token's.
        embedded = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        tokens = jnp.broadcast_to(prompt.tokens, (B, T))
        cache = self.language_model.empty_cache(B, T + room)
        inputs = text_inputs(T, last, call).replace(slot=jnp.int32(0))
        _, cache = self.language_model(x, inputs, cache)
        start = jnp.take_along_axis(tokens, last[:, None], axis=1)[:, 0]
        return State(
            start, last, last, jnp.int32(T), (cache, embedded[None], jnp.ones((1, B), bool))
        )

    def decode(self, tokens, state: State, call: AdapterCall):
        """See interface.py."""
        step = jnp.arange(tokens.shape[1], dtype=jnp.int32)
        inputs = BlockInputs(
            state.position[:, None] + step, state.order[:, None] + step, call, slot=state.slot
        )
        cache, start, at_start = state.cache
        x = self.language_model.embed(tokens)
        first = jnp.where(at_start[0, :, None], start[0], x[:, 0])
        x = jnp.concatenate([first[:, None], x[:, 1:]], axis=1)
        states, cache = self.language_model(x, inputs, cache)
        done = tokens.shape[1]
        state = State(
            state.start, state.position + done, state.order + done, state.slot + done,
            (cache, start, jnp.zeros_like(at_start)),
        )  # fmt: skip
        return self.language_model.vocabulary().logits(states), state

    def outputs(self, batch: Batch, call: AdapterCall, each: bool = False) -> Outputs:
        """See interface.py."""
        prompt = batch.prompt
        inputs = text_inputs(prompt.tokens.shape[1], prompt.length, call)
        states, _ = self.language_model(self.embed(prompt, call), inputs)
        # The token before the first answer predicts the answer's first token.
        before = batch.replace(answer_start=batch.answer_start - 1)
        states, targets = before.window(states), batch.window(prompt.tokens)
        vocabulary = self.language_model.vocabulary()
        if self.is_initializing():
            return Outputs(jnp.float32(0))
        if each:
            return Outputs(token_nats(vocabulary, states, targets))
        return Outputs(summed_nats(vocabulary, states, targets, batch.weights))

    def next_token_logits(self, prompt: Prompt, call: AdapterCall):
        """Next-token logits at each token of a prompt, float32[B, T, V]."""
        rows = prompt.images.shape[0]
        length = jnp.broadcast_to(prompt.length, (rows,))
        inputs = text_inputs(prompt.tokens.shape[1], length, call)
        states, _ = self.language_model(self.embed(prompt, call), inputs)
        return self.language_model.vocabulary().logits(states)

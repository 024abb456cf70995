"""The interface of a vision-language model: the structs it reads and the methods it has.

Training, evaluation, inference, conversion and export depend on this file, not on a model class;
a model knows images and token ids, but no data set. Axis letters: see nn/attention.py; `M`
positions that an image takes among the tokens, `U` tokens of an answer.
"""

from typing import Any, Protocol

import flax.struct
import jax

from slava_jax.data.chat import TextForm
from slava_jax.nn.adapters import AdapterCall, AdapterConfig


@flax.struct.dataclass
class Prompt:
    """A batch of texts with images in them.

    Attributes:
      images: uint8[B, I, P, P, channels], P pixels per side, or the output of VitStem for them,
        float[B, I, N, D]. An example may have fewer than I images; the rest is never referenced.
      tokens: int32[B, T]; or `[1, T]`, one text for all images, which a model may read only once.
      image_index: int32, shaped like tokens: `i * M + m` at the position of token m of image i, -1
        elsewhere.
      length: int32[B] or `[1]`: number of tokens of each text; the rest is padding.
    """

    images: jax.Array
    tokens: jax.Array
    image_index: jax.Array
    length: jax.Array


@flax.struct.dataclass
class Batch:
    """Texts whose answers are scored.

    Attributes:
      prompt: the texts, including the answers and their end tokens.
      answer_start: int32[B], start of the first scored answer. From there on U tokens are
        predicted; tokens between two answers of a conversation have weight 0.
      weights: float32[B, U], weights of those predictions.
      mismatched: int32[B, I], the mismatched images of each text, as row-major indices into the
        batch's B * I images; `None` for models and stages without matching.
    """

    prompt: Prompt
    answer_start: jax.Array
    weights: jax.Array
    mismatched: jax.Array | None = None

    @property
    def predicted(self) -> int:
        """U."""
        return self.weights.shape[1]

    def window(self, array):
        """The U entries from `answer_start` on of an array `[B, T, ...]` over the text."""
        steps = jax.numpy.arange(self.predicted)
        at = jax.numpy.minimum(self.answer_start[:, None] + steps, array.shape[1] - 1)
        at = at.reshape(*at.shape, *(1,) * (array.ndim - 2))
        return jax.numpy.take_along_axis(array, at, axis=1)


@flax.struct.dataclass
class Outputs:
    """The outputs of a model for a batch.

    Attributes:
      nats: float32[B, U], the unweighted cross-entropy of each predicted token; or float32[], its
        sum weighted by `Batch.weights`.
      match: float32[B], logit that text and images belong together (ITM); `None` without matching.
        match_mismatched: the same for the mismatched images of `Batch.mismatched`.
    """

    nats: jax.Array
    match: jax.Array | None = None
    match_mismatched: jax.Array | None = None


@flax.struct.dataclass
class State:
    """A batch of answers being generated.

    Attributes:
      start: int32[B], the token that decoding starts with.
      position: int32[B], rotary position of the next token; order: int32[B], its visibility.
      slot: int32[], tokens already in the cache.
      cache: model-specific; arrays of [layers or 1, B, ...].
    """

    start: jax.Array
    position: jax.Array
    order: jax.Array
    slot: jax.Array
    cache: Any


class VisionLanguageModel(Protocol):
    """A flax module with these methods and properties. `variables`: collections params, frozen.

    Parameter paths shared by all models: `vit` is the vision encoder, `language_model` the decoder
    of models/decoder.py; below it every adapted layer has `lora_b` and `router`.
    """

    config: Any  # the model's config; has `vit`, `language_model`, `adapter`

    @property
    def adapter(self) -> AdapterConfig | None:
        """The config of the adapted layers."""

    @property
    def matches(self) -> bool:
        """Whether `outputs` has match logits."""

    @property
    def every_answer(self) -> bool:
        """Whether one pass trains on all answers of a conversation, or only on the last one."""

    @property
    def adapted(self) -> bool:
        """Whether adapted layers read the prompt."""

    def text_form(self, eos_id: int) -> TextForm:
        """The text format of the model; `eos_id` is the tokenizer's."""

    def prefill(self, prompt: Prompt, room: int, call: AdapterCall) -> State:
        """Reads prompts; the state has room for `room` tokens of an answer."""

    def decode(self, tokens, state: State, call: AdapterCall) -> tuple[jax.Array, State]:
        """Reads int32[B, U]: next-token logits float32[B, U, V], and the new state."""

    def outputs(self, batch: Batch, call: AdapterCall, each: bool = False) -> Outputs:
        """The training pass; `each` returns the nats of every token instead of their sum."""

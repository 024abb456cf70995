"""What a vision-language model is: the structs it reads, and the three methods it has.

Training, evaluation, inference, conversion and export know this file and no model class; a model
knows images and token ids, and no data set. Axis letters: see nn/attention.py; `M` positions that
an image takes among the tokens, `U` tokens of an answer.
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
      images: uint8[B, I, P, P, channels] of P pixels a side, or what VitStem made of them,
        float[B, I, N, D]. An example may have fewer than I; what fills up is never referred to.
      tokens: int32[B, T]; or `[1, T]`, one text for all images, which a model may then read once.
      image_index: int32 like tokens: a position that stands for token m of image i holds
        `i * M + m`, any other -1.
      length: int32[B] or `[1]`: tokens of each text; what stands behind them is padding.
    """

    images: jax.Array
    tokens: jax.Array
    image_index: jax.Array
    length: jax.Array


@flax.struct.dataclass
class Batch:
    """Texts whose answers a model is scored on.

    Attributes:
      prompt: the texts, running on through the answers and the token that ends each of them.
      answer_start: int32[B], where the first answer that counts begins. From there on U tokens
        are predicted; what stands between two answers of a conversation has weight 0.
      weights: float32[B, U], of those predictions.
      exchange: int32[B, I], which of the batch's B * I images, counted row by row, each text is
        matched with a second time; `None` for models and stages that match nothing.
    """

    prompt: Prompt
    answer_start: jax.Array
    weights: jax.Array
    exchange: jax.Array | None = None

    @property
    def predicted(self) -> int:
        """U."""
        return self.weights.shape[1]

    def window(self, array):
        """Of an array `[B, T, ...]` over the text, the U entries from `answer_start` on."""
        steps = jax.numpy.arange(self.predicted)
        at = jax.numpy.minimum(self.answer_start[:, None] + steps, array.shape[1] - 1)
        at = at.reshape(*at.shape, *(1,) * (array.ndim - 2))
        return jax.numpy.take_along_axis(array, at, axis=1)


@flax.struct.dataclass
class Outputs:
    """What a model says of a batch.

    Attributes:
      nats: float32[B, U], the cross-entropy of each predicted token, unweighted; or float32[], its
        sum by `Batch.weights`.
      match: float32[B], logit that text and images belong together (ITM); `None` where the model
        matches nothing. match_exchanged: the same for the images of `Batch.exchange`.
    """

    nats: jax.Array
    match: jax.Array | None = None
    match_exchanged: jax.Array | None = None


@flax.struct.dataclass
class State:
    """A batch of answers being written.

    Attributes:
      start: int32[B], the token that decoding begins with.
      position: int32[B], rotary position of the next token; order: int32[B], its visibility.
      slot: int32[], tokens already in the cache.
      cache: the model's own.
    """

    start: jax.Array
    position: jax.Array
    order: jax.Array
    slot: jax.Array
    cache: Any


class VisionLanguageModel(Protocol):
    """A flax module with these methods and properties. `variables`: collections params, frozen.

    Paths that all models share: `vit` is the vision encoder, `language_model` the decoder of
    models/decoder.py, and below it every adapted layer holds `lora_b` and `router`.
    """

    config: Any  # of its model; has `vit`, `language_model`, `adapter`

    @property
    def adapter(self) -> AdapterConfig | None:
        """Of its adapted layers."""

    @property
    def matches(self) -> bool:
        """Whether `outputs` has match logits."""

    @property
    def every_answer(self) -> bool:
        """Whether one pass learns all answers of a conversation, or the last one alone."""

    @property
    def adapted(self) -> bool:
        """Whether adapted layers read the prompt."""

    def text_form(self, eos_id: int) -> TextForm:
        """How it wants its text; `eos_id` is the tokenizer's."""

    def prefill(self, prompt: Prompt, room: int, call: AdapterCall) -> State:
        """Reads prompts; the state has room for `room` tokens of an answer."""

    def decode(self, tokens, state: State, call: AdapterCall) -> tuple[jax.Array, State]:
        """Goes on by int32[B, U]: logits of what follows each, float32[B, U, V], and the state."""

    def outputs(self, batch: Batch, call: AdapterCall, each: bool = False) -> Outputs:
        """The training pass; `each` asks for the nats of every token instead of their sum."""

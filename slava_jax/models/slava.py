"""sLAVA: the four parts of Figure 2 put together.

    images -> Vit -------------------------.-----------------.
                                           v                 v
    question <Encode> answer <Encode> -> Llama (int8, DyA-MoQPE) -> GroundedEncoder -> match logit
                                                             |
                                               memory: states up to the first <Encode>, image tokens
                                                             v
    <Decode> answer ------------------------------------> decoder -> answer <EOS>

Everything in the text encoder and the grounded encoder is causal, so the states up to the first
`<Encode>` know nothing of the answer behind it: one pass of the big model serves both losses.
Axis letters: see nn/attention.py; `E` is the width of the grounded stacks, `U` answer tokens.
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from slava_jax.models.decoder import BlockCache, Llama, LlamaConfig, LlamaMode, TextInputs
from slava_jax.models.grounded import GroundedConfig, GroundedDecoder, GroundedEncoder
from slava_jax.models.vit import Vit, VitConfig
from slava_jax.nn.adapters import AdapterCall, AdapterConfig, split_base
from slava_jax.nn.attention import HIDDEN, KeysValues
from slava_jax.nn.vocabulary import Vocabulary, summed_nats, token_nats

SPECIAL_TOKENS = ("<image>", "<Encode>", "<Decode>", "<EOS>")


@dataclasses.dataclass(frozen=True)
class SlavaConfig:
    """The defaults are the paper's model: ViT 224/32 of width 64 and Llama-2-7b.

    Attributes:
      decoder: 'transformer' is the paper's small stack, trained from scratch; 'llama' runs the
        frozen int8 blocks with their adapters a second time, with cross-attention.
      quantized: int8 kernels in the frozen Llama.
      image_memory: the decoder looks at the image tokens beside the grounded question.
      text_encoder: 'llama', or 'embeddings' for a control: the grounded encoder then reads the
        frozen embedding table, and the language model between the two is left out.
      int8_activations: the frozen Llama multiplies int8 by int8 (quantized.int8_matmul).
      remat: what a Llama block keeps for the backward pass, one of stack.REMAT.
    """

    vit: VitConfig = VitConfig()
    llama: LlamaConfig = LlamaConfig()
    grounded: GroundedConfig = GroundedConfig()
    adapter: AdapterConfig | None = AdapterConfig()
    decoder: str = "transformer"
    quantized: bool = True
    image_memory: bool = True
    text_encoder: str = "llama"
    int8_activations: bool = False
    remat: str = "none"

    def __post_init__(self):
        self.llama_mode(jnp.float32)  # says what is wrong with it
        if self.text_encoder not in ("llama", "embeddings"):
            raise ValueError(
                f"text_encoder must be 'llama' or 'embeddings', got {self.text_encoder!r}"
            )
        if self.decoder not in ("transformer", "llama"):
            raise ValueError(f"decoder must be 'transformer' or 'llama', got {self.decoder!r}")

    def llama_mode(self, dtype) -> LlamaMode:
        """How the frozen Llama is held and run."""
        return LlamaMode(
            True, self.quantized, self.adapter, self.decoder == "llama", dtype,
            self.int8_activations, self.remat,
        )  # fmt: skip

    @property
    def vocab_size(self) -> int:
        """Tokens with the special ones, which stand behind the base vocabulary."""
        return self.llama.vocab_size + len(SPECIAL_TOKENS)


@flax.struct.dataclass
class Prompt:
    """A batch of multimodal prompts.

    Attributes:
      images: uint8[B, I, S, S, channels], or what VitStem made of them, float[B, I, N, D].
      tokens: int32[B, T]; order: int32[B, T], `HIDDEN` for padding; or `[1, T]`, one text for all
        images, which the text encoder then reads once.
      images_before: int32[B, T], images that stand at or before each token.
      encode_at: int32[B], position of the first `<Encode>`.
    """

    images: jax.Array
    tokens: jax.Array
    order: jax.Array
    images_before: jax.Array
    encode_at: jax.Array


@flax.struct.dataclass
class Memory:
    """What the decoder starts from.

    Attributes:
      values: float[B, S, E], what it looks at; order: int32[B, S], 0 or `HIDDEN`.
      first: int32[B], the token that the text began with, bos where the tokenizer has one. The
        `llama` decoder reads it before its own: a language model leaves much of its attention on
        whatever comes first, and would predict badly from there.
    """

    values: jax.Array
    order: jax.Array
    first: jax.Array


class Slava(nn.Module):
    """The assistant. `encode`, `match` and `decode` are its three verbs; see the module's text."""

    config: SlavaConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c = self.config
        self.vit = Vit(c.vit, self.dtype)
        self.llama = Llama(c.llama, c.llama_mode(self.dtype))
        self.encoder = GroundedEncoder(c.grounded, self.dtype)
        init = nn.initializers.normal(0.02)
        rows = (len(SPECIAL_TOKENS), c.llama.width)
        self.special_embedding = self.param("special_embedding", init, rows)
        if c.decoder == "transformer":
            self.decoder = GroundedDecoder(c.grounded, self.dtype)
            table = (c.vocab_size, c.grounded.width)
            self.answer_embedding = self.param("answer_embedding", init, table)

    def see(self, images):
        """Images as those of a Prompt -> image tokens float[B, I, N, E]."""
        B, I = images.shape[:2]  # noqa: E741
        tokens = self.vit(images.reshape(B * I, *images.shape[2:]))
        return self.encoder.project_images(tokens).reshape(B, I, tokens.shape[1], -1)

    def embed(self, tokens):
        """Text encoder embeddings: the frozen table, trainable rows for the special tokens."""
        base = self.config.llama.vocab_size
        special = self.special_embedding[jnp.clip(tokens - base, 0)].astype(self.dtype)
        table = self.llama.embed(jnp.minimum(tokens, base - 1))
        return jnp.where((tokens >= base)[..., None], special, table)

    def read(self, embedded, order, call: AdapterCall):
        """Text encoder: embedded float[B, T, D] -> states float[B, T, D]."""
        if self.config.text_encoder == "embeddings" and not self.is_initializing():
            return embedded  # the base is whole all the same
        return self.llama(embedded, TextInputs(order, call))[0]

    def ground(self, states, image_tokens, order, images_before):
        """Grounded encoder: states float[B, T, D], images float[B, I, N, E] -> float[B, T, E]."""
        B, I, N, E = image_tokens.shape  # noqa: E741
        number = jnp.repeat(jnp.arange(1, I + 1, dtype=jnp.int32), N)
        image_order = jnp.broadcast_to(number, (B, I * N))
        flat = image_tokens.reshape(B, I * N, E)
        return self.encoder(states, flat, order, image_order, images_before)

    def match(self, grounded, position):
        """Image-text match logits float32[B] read at `position` int32[B] (the last `<Encode>`)."""
        return self.encoder.match_logits(grounded, position)

    def memory(self, grounded, image_tokens, tokens, order, encode_at, images_before) -> Memory:
        """The decoder's memory: the grounded question (answer hidden) and its images' tokens.

        An example may have fewer images than its batch has room for; what fills that is hidden.
        """
        seen = jnp.where(order <= encode_at[:, None], 0, HIDDEN)
        first = jnp.broadcast_to(tokens[:, 0], grounded.shape[:1])
        if not self.config.image_memory:
            return Memory(grounded, seen, first)
        B, I, N, E = image_tokens.shape  # noqa: E741
        values = jnp.concatenate([grounded, image_tokens.reshape(B, I * N, E)], axis=1)
        count = jnp.take_along_axis(images_before, encode_at[:, None], axis=1)
        shown = jnp.where(jnp.repeat(jnp.arange(I), N) < count, 0, HIDDEN)
        return Memory(values, jnp.concatenate([seen, shown], axis=1), first)

    def encode(self, prompt: Prompt, call: AdapterCall) -> Memory:
        """From prompt to the decoder's memory, as generation needs it."""
        image_tokens = self.see(prompt.images)
        states = self.read(self.embed(prompt.tokens), prompt.order, call)
        states, order = (
            jnp.broadcast_to(a, (image_tokens.shape[0], *a.shape[1:]))
            for a in (states, prompt.order)
        )
        grounded = self.ground(states, image_tokens, order, prompt.images_before)
        return self.memory(
            grounded, image_tokens, prompt.tokens, order, prompt.encode_at, prompt.images_before
        )

    def decode(self, tokens, memory: Memory | None, call, cache=None, slot=None):
        """Next-token logits of an answer.

        Args:
          tokens: int32[B, U], `<Decode>` and the answer so far; with a cache, the new ones only.
          memory: from `encode`; `None` once the cache holds it.
          cache: from `empty_cache` or an earlier call; slot: int32[], tokens already in it.

        Returns:
          (float32[B, U, V] over base vocabulary and special tokens, cache).
        """
        states, cache = self._answer(tokens, memory, call, cache, slot)
        return self.vocabulary().logits(states), cache

    def _answer(self, tokens, memory, call, cache=None, slot=None):
        """As `decode`, but the decoder's states."""
        count = tokens.shape[1]
        if self.config.decoder == "llama":
            if memory is None:
                slot = slot + 1  # behind the first token, which the cache holds
            else:
                tokens = jnp.concatenate([memory.first[:, None], tokens], axis=1)
        start = 0 if slot is None else slot
        order = jnp.broadcast_to(start + jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        values, seen = (None, None) if memory is None else (memory.values, memory.order)
        text = TextInputs(order, call, values, seen, slot)
        if self.config.decoder == "llama":
            states, cache = self.llama(self.embed(tokens), text, cache)
            return states[:, -count:], cache
        return self.decoder(self.answer_embedding[tokens].astype(self.dtype), text, cache)

    def vocabulary(self) -> Vocabulary:
        """What turns the decoder's states into logits, over base vocabulary and special tokens."""
        if self.config.decoder == "llama":
            return self.llama.vocabulary(self.special_embedding)
        return Vocabulary(self.answer_embedding, tied=True)

    def next_token_logits(self, tokens, order, call: AdapterCall):
        """The text encoder as a language model, as which it leaves (convert/export.py).

        tokens, order int32[B, T] -> float32[B, T, V], over base vocabulary and special tokens.
        """
        states = self.read(self.embed(tokens), order, call)
        return self.llama.vocabulary(self.special_embedding).logits(states)

    def empty_cache(self, batch: int, length: int) -> BlockCache:
        """A decoder cache with room for `length` tokens of an answer, stacked over layers."""
        c = self.config
        if c.decoder == "llama":
            length += 1
            layers, heads, width = c.llama.layers, c.llama.kv_heads, c.llama.head_width
        else:
            layers, heads, width = (
                c.grounded.decoder_layers,
                c.grounded.heads,
                c.grounded.head_width,
            )
        one = KeysValues.empty(batch, length, heads, width, self.dtype)
        return BlockCache(jax.tree.map(lambda a: jnp.broadcast_to(a, (layers, *a.shape)), one))

    def __call__(self, batch: dict, call: AdapterCall, each: bool = False) -> dict:
        """The training pass.

        Args:
          batch: arrays of an assistant batch, see data/assistant_batches.py.

        Returns:
          `nats` float32[], the cross-entropy of all answers by their target_weights, or with `each`
          float32[B, U], that of each token, not weighted; `match` and `match_wrong` float32[B],
          the match logits of each pair and of the same text with a wrong image.
        """
        order, before = batch["order"], batch["images_before"]
        image_tokens = self.see(batch["images"])
        states = self.read(self.embed(batch["tokens"]), order, call)
        # Right and wrong pairs go through the small stack together; Llama runs once. An example's
        # two stand side by side: on a mesh they stay on its device, which one half behind the
        # other would not.
        both = _side_by_side(image_tokens, exchange_target(image_tokens, batch))
        twice = [_side_by_side(a, a) for a in (states, order, before, batch["encode_at"][:, 1])]
        grounded = self.ground(twice[0], both, twice[1], twice[2])
        match, match_wrong = self.match(grounded, twice[3]).reshape(-1, 2).T
        right = grounded[::2]
        at = batch["encode_at"][:, 0]
        memory = self.memory(right, image_tokens, batch["tokens"], order, at, before)
        answers, _ = self._answer(batch["decoder_in"], memory, call)
        if self.is_initializing():
            self.llama.vocabulary()  # so that the base is whole, whichever decoder reads it
            return {"match": match, "match_wrong": match_wrong}
        if each:
            nats = token_nats(self.vocabulary(), answers, batch["targets"])
        else:
            weights = batch["target_weights"]
            nats = summed_nats(self.vocabulary(), answers, batch["targets"], weights)
        return {"nats": nats, "match": match, "match_wrong": match_wrong}


def _side_by_side(first, second):
    """Rows of two arrays in turn: [B, ...] and [B, ...] -> [2 B, ...]."""
    return jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


def split_frozen(frozen: dict) -> tuple[dict, dict]:
    """The collection `frozen` as (the Llama without its adapters, all else): the same arrays.

    The first is what several assistants can share; the second belongs to this one: every A, and
    the frozen layers of the vision encoder.
    """
    base, own = split_base({"llama": frozen["llama"]})
    beside = {name: part for name, part in frozen.items() if name != "llama"}
    return base, {**beside, **own}


def exchange_target(image_tokens, batch):
    """Image tokens `[B, I, N, E]` with each target image replaced by that of its wrong pair."""
    rows = jnp.arange(image_tokens.shape[0])
    partner = rows + batch["wrong_offset"]
    wrong = image_tokens[partner, batch["target_image"][partner]]
    return image_tokens.at[rows, batch["target_image"]].set(wrong)

"""Image-grounded text encoder and decoder (Figure 2): small stacks with cross-attention.

Axis letters: see nn/attention.py; `D` is the width of these stacks here.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from slava_jax.models.decoder import BlockCache, BlockInputs, cross_attend, self_attend
from slava_jax.nn.adapters import Linear
from slava_jax.nn.attention import MLP, Attention, RMSNorm
from slava_jax.nn.stack import stack

_ROPE_THETA = 10_000.0


@dataclasses.dataclass(frozen=True)
class GroundedConfig:
    """Both stacks: 4 heads of 32 (section 4.7); depth and width are ours."""

    width: int = 128
    encoder_layers: int = 2
    decoder_layers: int = 2
    heads: int = 4
    head_width: int = 32
    mlp_width: int = 512


class GroundedBlock(nn.Module):
    """Causal self-attention, cross-attention to a memory, MLP.

    `limit` int32[B, T]: each token attends to the memory keys with `order <= limit` and to a
    learned null key.
    """

    config: GroundedConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, cache: BlockCache | None, inputs: BlockInputs, limit):
        c = self.config
        attention = Attention(
            c.width, c.heads, c.head_width, rope_theta=_ROPE_THETA, dtype=self.dtype,
            name='attention',
        )  # fmt: skip
        h, tokens = self_attend(attention, RMSNorm(name="attention_norm")(x), inputs, cache)
        x = x + h
        cross = Attention(
            c.width, c.heads, c.head_width, null_key=True, dtype=self.dtype, name="cross"
        )
        h, memory = cross_attend(cross, RMSNorm(name="cross_norm")(x), inputs, cache, limit)
        x = x + h
        x = x + MLP(c.mlp_width, self.dtype, name="mlp")(RMSNorm(name="mlp_norm")(x))
        return x, BlockCache(tokens, memory) if cache else None


def _blocks(config, layers, dtype):
    return stack(GroundedBlock, layers, (0, nn.broadcast, nn.broadcast))(config, dtype)


class GroundedEncoder(nn.Module):
    """Fuses text states with images and computes the match logit (ITM, section 4.5.1)."""

    config: GroundedConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.text_projection = Linear(self.config.width, bias=True, dtype=self.dtype)
        self.image_projection = Linear(self.config.width, bias=True, dtype=self.dtype)
        self.blocks = _blocks(self.config, self.config.encoder_layers, self.dtype)
        self.norm = RMSNorm()
        self.match = nn.Dense(1)

    def project_images(self, tokens):
        """Image tokens of the vision encoder, float[..., D_vit] -> float[..., D]."""
        return self.image_projection(tokens)

    def __call__(self, states, images, text: BlockInputs, image_order, images_before):
        """Fuses text with images.

        Args:
          states: float[B, T, D_text], from the text encoder.
          images: float[B, I*N, D], projected; image_order: int32[B, I*N], 1 for the tokens of the
            first image, 2 for the second, and so on.
          text: positions and visibility of the text; images_before: int32[B, T], number of images
            before each token in the prompt, which the token attends to.

        Returns:
          float[B, T, D].
        """
        inputs = BlockInputs(text.position, text.order, memory=images, memory_order=image_order)
        x, _ = self.blocks(self.text_projection(states), None, inputs, images_before)
        return self.norm(x)

    def match_logits(self, grounded, position):
        """Match logits float32[B] from the states float[B, T, D] at `position` int32[B]."""
        last = jnp.take_along_axis(grounded, position[:, None, None], axis=1)[:, 0]
        return self.match(last.astype(jnp.float32))[:, 0]


class GroundedDecoder(nn.Module):
    """The `transformer` decoder, trained from scratch; it reads the multimodal memory."""

    config: GroundedConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.blocks = _blocks(self.config, self.config.decoder_layers, self.dtype)
        self.norm = RMSNorm()

    def __call__(self, x, inputs: BlockInputs, cache: BlockCache | None = None):
        """Embedded answer float[B, U, D] -> (states float[B, U, D], cache)."""
        limit = jnp.zeros(x.shape[:2], jnp.int32)
        x, cache = self.blocks(x, cache, inputs, limit)
        return self.norm(x), cache

    def empty_cache(self, batch: int, length: int) -> BlockCache:
        """An empty cache with room for `length` tokens, stacked over layers."""
        c = self.config
        return BlockCache.empty(c.decoder_layers, batch, length, c.heads, c.head_width, self.dtype)

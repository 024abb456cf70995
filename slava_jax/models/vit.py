"""Vision encoder: ViT with a `<cls>` token (sections 4.4 and 4.7).

Axis letters: see nn/attention.py; here `N` counts the `<cls>` token and the patches.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from slava_jax.models.gradients import CELL, gradient_cells
from slava_jax.nn.adapters import Linear
from slava_jax.nn.attention import ACTIVATIONS, MLP, Attention
from slava_jax.nn.stack import stack

FACT_HEAD = "fact_head"  # parameters of a VitClassifier that serve only its training


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """The defaults are the paper's encoder, except the depth of 6, which the paper does not give.

    `frontend`: the input of the patch embedding, 'pixels' as in the paper, or the 'gradients' of
    gradients.py, which a small encoder learns from several times faster.

    The settings from `activation` on distinguish encoders of other libraries:
      activation: of the MLP: 'gelu_tanh', 'gelu' (exact) or 'quick_gelu' (CLIP).
      norm_eps: epsilon of every LayerNorm.
      pre_norm: a LayerNorm before the first block (CLIP).
      layer_scale: a learned factor per channel on each residual branch (DINOv2).
      patch_bias: the patch embedding has a bias (CLIP's has none).
      final_norm: a LayerNorm after the last block (LLaVA reads CLIP before its final norm).
      mean, deviation: normalisation of pixels in [0, 1]; one number for all channels or one each.

    `frozen_layers`: the embedding and this many first layers are in the collection `frozen` and are
    not trained. Their states can be computed once (train/frozen_states.py).
    """

    image_size: int = 224
    channels: int = 3
    patch: int = 32
    width: int = 64
    layers: int = 6
    heads: int = 4
    head_width: int = 32
    mlp_width: int = 256
    frontend: str = "pixels"
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-6
    pre_norm: bool = False
    layer_scale: bool = False
    patch_bias: bool = True
    mean: tuple[float, ...] = (0.5,)
    deviation: tuple[float, ...] = (0.5,)
    final_norm: bool = True
    frozen_layers: int = 0

    def __post_init__(self):
        sizes = (self.image_size, self.patch, self.width, self.heads, self.head_width)
        if min(*sizes, self.mlp_width) < 1 or self.channels not in (1, 3):
            raise ValueError(f"vit: sizes must be 1 or more, and channels 1 or 3, got {self}")
        if self.frontend not in ("pixels", "gradients"):
            raise ValueError(f"vit.frontend must be 'pixels' or 'gradients', got {self.frontend!r}")
        if self.image_size % self.patch:
            raise ValueError(f"vit.image_size must be a multiple of vit.patch, got {self}")
        if self.frontend == "gradients" and self.patch % CELL:
            raise ValueError(
                f"vit.patch must be a multiple of {CELL} for the frontend 'gradients', got {self}"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"vit.activation must be one of {', '.join(ACTIVATIONS)}, got {self}")
        if not {len(self.mean), len(self.deviation)} <= {1, self.channels}:
            raise ValueError(f"vit.mean and vit.deviation need one number per channel, got {self}")
        if not 0 <= self.frozen_layers <= self.layers:
            raise ValueError(f"vit.frozen_layers must be in 0..vit.layers, got {self}")

    @property
    def tokens(self) -> int:
        """N: the number of patches plus `<cls>`."""
        return (self.image_size // self.patch) ** 2 + 1


def space_to_depth(x, side: int):
    """Space to depth: [B, h, w, c] -> [B, h/side, w/side, side * side * c]."""
    B, h, w, c = x.shape
    x = x.reshape(B, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, h // side, w // side, side * side * c)


def _layer_norm(module, name):
    return nn.LayerNorm(module.config.norm_eps, module.dtype, name=name)


class VitBlock(nn.Module):
    """Pre-norm transformer block with full attention."""

    config: VitConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, count: int | None):
        """float[B, N, D] -> (float[B, count, D] of the first tokens, all if `None`; `None`)."""
        c = self.config
        attention = Attention(
            c.width, c.heads, c.head_width, biases="qvo", dtype=self.dtype, name="attention"
        )
        everywhere = jnp.zeros(x.shape[:2], jnp.int32)
        h = _layer_norm(self, "attention_norm")(x)
        seen = attention.keys_values(h, everywhere)
        h = attention(h[:, :count], seen, everywhere[:, :count])
        x = x[:, :count] + self._scaled(h, "attention_scale")
        h = MLP(c.mlp_width, self.dtype, c.activation, name="mlp")(_layer_norm(self, "mlp_norm")(x))
        return x + self._scaled(h, "mlp_scale"), None

    def _scaled(self, h, name):
        if not self.config.layer_scale:
            return h
        return h * self.param(name, nn.initializers.ones, h.shape[-1:]).astype(h.dtype)


def _embed(module, images):
    """uint8[B, P, P, channels] -> float[B, N, D] before the first block, using `module`.

    Pixels are normalised here (the paper's mean and deviation of 0.5 give [-1, 1]).
    """
    c = module.config
    if images.shape[1:] != (c.image_size, c.image_size, c.channels):
        wanted = (c.image_size, c.image_size, c.channels)
        raise ValueError(f"the vision encoder needs images of {wanted}, got {images.shape[1:]}")
    B, unit = images.shape[0], images.astype(jnp.float32) / 255
    x = ((unit - jnp.array(c.mean)) / jnp.array(c.deviation)).astype(module.dtype)
    if c.frontend == "gradients":
        x = gradient_cells(x)
    x = space_to_depth(x, x.shape[1] * c.patch // c.image_size)
    x = Linear(c.width, c.patch_bias, dtype=module.dtype, name="patch_embedding")(x)
    x = x.reshape(B, -1, c.width)
    cls = module.param("cls", nn.initializers.normal(0.02), (1, 1, c.width))
    x = jnp.concatenate([jnp.broadcast_to(cls, (B, 1, c.width)).astype(x.dtype), x], axis=1)
    positions = module.param("positions", nn.initializers.normal(0.02), (c.tokens, c.width))
    x = x + positions.astype(x.dtype)
    return _layer_norm(module, "pre_norm")(x) if c.pre_norm else x


def _blocks(module, layers: int, x):
    if not layers:
        return x
    return stack(VitBlock, layers)(module.config, module.dtype, name="blocks")(x, None)[0]


class VitStem(nn.Module):
    """The embedding and the first `frozen_layers` blocks: uint8[B, P, P, channels] -> states."""

    config: VitConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images):
        return _blocks(self, self.config.frozen_layers, _embed(self, images))


class Vit(nn.Module):
    """Images to tokens.

    Takes uint8[B, P, P, channels] or the output of VitStem, float[B, N, D]. Returns
    float[B, N, D], `<cls>` first; with `cls_only` float[B, 1, D].
    """

    config: VitConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, cls_only: bool = False):
        c = self.config
        if c.frozen_layers:
            # One variable, because a submodule would put its parameters in `params`.
            stem = VitStem(c, self.dtype, parent=None)
            weights = self.variable("frozen", "stem", self._random_stem, stem).value
            x = images if images.ndim == 3 else stem.apply({"params": weights}, images)
        else:
            x = _embed(self, images)
        x, count = x.astype(self.dtype), c.layers - c.frozen_layers
        if cls_only and count and not self.is_initializing():
            x = self._cls(x)
        else:
            x = _blocks(self, count, x)
        x = x[:, : 1 if cls_only else None]
        return _layer_norm(self, "norm")(x) if c.final_norm else x

    def _cls(self, x):
        """All blocks, computing only the `<cls>` token in the last one."""
        weights = self.variables["params"]["blocks"]
        first, last = (
            jax.tree.map(lambda leaf, part=part: leaf[part], weights)
            for part in (slice(None, -1), -1)
        )
        block = (self.config, self.dtype)
        before = self.config.layers - self.config.frozen_layers - 1
        if before:
            x = stack(VitBlock, before)(*block, parent=None).apply({"params": first}, x, None)[0]
        return VitBlock(*block, parent=None).apply({"params": last}, x, 1)[0]

    def _random_stem(self, stem):
        side, channels = self.config.image_size, self.config.channels
        images = jnp.zeros((1, side, side, channels), jnp.uint8)
        return stem.init(self.make_rng("params"), images)["params"]


def split_stem(weights: dict, config: VitConfig) -> tuple[dict, dict]:
    """Splits weights of a whole encoder into (`params`, `frozen`) of one with frozen layers."""
    count = config.frozen_layers
    if not count:
        return weights, {}
    first, late = (
        jax.tree.map(lambda leaf, part=part: leaf[part], weights["blocks"])
        for part in (slice(count), slice(count, None))
    )
    stem = {name: part for name, part in weights.items() if name not in ("blocks", "norm")}
    params = {"norm": weights["norm"]} if config.final_norm else {}
    if count < config.layers:
        params["blocks"] = late
    return params, {"stem": {**stem, "blocks": first}}


class VitClassifier(nn.Module):
    """The encoder with linear heads on `<cls>`: float32[B, classes + facts].

    The class logits come first, then the outputs for facts (data/fact_targets.py), if any.
    """

    config: VitConfig
    classes: int
    facts: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images):
        tokens = Vit(self.config, self.dtype, name="vit")(images, cls_only=True)
        cls = tokens[:, 0].astype(jnp.float32)
        logits = nn.Dense(self.classes, name="head")(cls)
        if not self.facts:
            return logits
        return jnp.concatenate([logits, nn.Dense(self.facts, name=FACT_HEAD)(cls)], axis=-1)

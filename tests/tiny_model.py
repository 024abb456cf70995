"""The smallest models that have every part, with random weights, for tests to share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from slava_jax.models.connectors import ConnectorConfig
from slava_jax.models.decoder import DecoderConfig
from slava_jax.models.grounded import GroundedConfig
from slava_jax.models.inline import Inline, InlineConfig
from slava_jax.models.interface import Prompt
from slava_jax.models.presets import variable_shapes
from slava_jax.models.slava import Slava, SlavaConfig
from slava_jax.models.vit import VitConfig
from slava_jax.nn.adapters import AdapterConfig

VOCABULARY, ROWS = 60, 16
EOS = 3
KINDS = ("transformer", "llama", "inline")  # of tiny_model: sLAVA with either decoder, or LLaVA


def random_batch(seed, rows=ROWS, kind="transformer", images=1):
    """Fields of a batch: lengths that differ, pairs of weight 0, unequal halves.

    Each text is a token, the images with a token behind each, a few more, and the answer.
    """
    rng = np.random.default_rng(seed)
    form = tiny_model(kind)[0].text_form(EOS)
    M, U = form.image_tokens, 8
    T = 14 + images * M
    answer = rng.integers(2, U + 1, rows)
    start = 1 + images * (M + 1) + rng.integers(0, 4, rows)
    length = start + answer
    tokens = rng.integers(0, VOCABULARY, (rows, T), dtype=np.int32)
    index = np.full((rows, T), -1, np.int32)
    for image in range(images):
        at = slice(1 + image * (M + 1), 1 + image * (M + 1) + M)
        index[:, at] = image * M + np.arange(M)
    tokens[index >= 0] = form.image_id or 0
    tokens[np.arange(rows), length - 1] = form.end_id
    offset = np.where(np.arange(rows) % 2 == 0, 1, -1)
    return {
        "images": rng.integers(0, 256, (rows, images, 32, 32, 1), dtype=np.uint8),
        "tokens": tokens,
        "image_index": index,
        "length": length.astype(np.int32),
        "answer_start": start.astype(np.int32),
        "weights": (np.arange(U) < answer[:, None]).astype(np.float32),
        "mismatch_offset": offset.astype(np.int32),
        "mismatch_weight": (rng.random(rows) < 0.7).astype(np.float32),
        "target_image": np.full(rows, images - 1, np.int32),
        "example_id": np.arange(rows, dtype=np.uint32),
    }


def prompt_of(fields):
    """The prompts of a batch, one text a row."""
    behind = np.arange(fields["tokens"].shape[1]) >= fields["answer_start"][:, None]
    tokens = np.where(behind, 0, fields["tokens"])
    index = np.where(behind, -1, fields["image_index"])
    return Prompt(fields["images"], tokens, index, fields["answer_start"])


_VIT = VitConfig(32, 1, 16, 16, 1, 2, 8, 32)


def tiny(decoder="transformer", vocabulary=VOCABULARY, **adapter):
    """The configuration of a sLAVA."""
    return SlavaConfig(
        _VIT,
        DecoderConfig(vocabulary, 32, 2, 4, 2, 8, 48),
        GroundedConfig(32, 1, 1, 2, 16, 64),
        AdapterConfig(r_min=2, r_max=6, dropout=0.2, **adapter),
        decoder,
    )


def tiny_inline(kind="mlp", vocabulary=VOCABULARY, **adapter):
    """The configuration of a LLaVA."""
    return InlineConfig(
        _VIT,
        ConnectorConfig(kind, 0.1),
        DecoderConfig(vocabulary, 32, 2, 4, 2, 8, 48),
        AdapterConfig(r_min=2, r_max=6, dropout=0.2, **adapter),
    )


def as_config(model: Slava) -> ConfigDict:
    """The part of a run's config that describes a model."""
    config = dataclasses.asdict(model.config)
    del config["language_model"]["vocab_size"]
    kind = "inline" if isinstance(model, Inline) else "slava"
    return ConfigDict({**config, "model": kind, "dtype": "float32", "data": {"crop_bar": False}})


def _fill(shapes, rng):
    """Noise in every leaf, so that no B, gate or bias is zero; kernels of unit gain."""
    out = {}
    for name, leaf in shapes.items():
        if isinstance(leaf, dict):
            out[name] = _fill(leaf, rng)
        elif leaf.dtype == jnp.int8:
            out[name] = rng.integers(-127, 128, leaf.shape, np.int8)
        else:
            deviation = leaf.shape[-2] ** -0.5 if name in ("kernel", "lora_a") else 0.1
            noise = deviation * rng.normal(size=leaf.shape)
            out[name] = (noise + (name == "scale")).astype(np.float32)
    if "kernel" in out and out["kernel"].dtype == np.int8:
        gain = out["kernel"].shape[-2] ** -0.5 / 73  # 73: deviation of a uniform int8
        out["scale"] = (gain * rng.uniform(0.5, 1.5, out["scale"].shape)).astype(np.float32)
    return out


def random_variables(model, seed=0):
    """The collections `params` and `frozen` of a model on `tiny()`'s images.

    Drawn by numpy into the shapes, because compiling the real initialisers takes seconds.
    """
    filled = _fill(variable_shapes(model), np.random.default_rng(seed))
    return jax.tree.map(jnp.asarray, filled)


@functools.cache
def tiny_model(kind="transformer"):
    """(model, variables); made once for each kind, so never change the variables in place."""
    model = Inline(tiny_inline()) if kind == "inline" else Slava(tiny(kind))
    return model, random_variables(model)

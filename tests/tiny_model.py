"""The smallest assistant that has every part, with random weights, for tests to share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from slava_jax.models.decoder import LlamaConfig
from slava_jax.models.grounded import GroundedConfig
from slava_jax.models.slava import Slava, SlavaConfig
from slava_jax.models.vit import VitConfig
from slava_jax.nn.adapters import AdapterCall, AdapterConfig
from slava_jax.nn.attention import HIDDEN

VOCABULARY, ROWS = 60, 16


def random_batch(seed, rows=ROWS):
    """A batch with everything in it: lengths that differ, pairs of weight 0, unequal halves."""
    rng = np.random.default_rng(seed)
    T, U = 14, 8
    lengths = rng.integers(9, T + 1, rows)
    position = np.arange(T)
    first = rng.integers(3, 6, rows)
    answer = rng.integers(2, U + 1, rows)
    offset = np.where(np.arange(rows) % 2 == 0, 1, -1)
    return {
        "images": rng.integers(0, 256, (rows, 1, 32, 32, 1), dtype=np.uint8),
        "tokens": rng.integers(0, VOCABULARY + 4, (rows, T), dtype=np.int32),
        "order": np.where(position < lengths[:, None], position, HIDDEN).astype(np.int32),
        "images_before": np.ones((rows, T), np.int32),
        "encode_at": np.stack([first, lengths - 1], axis=1).astype(np.int32),
        "decoder_in": rng.integers(0, VOCABULARY + 4, (rows, U), dtype=np.int32),
        "targets": rng.integers(0, VOCABULARY + 4, (rows, U), dtype=np.int32),
        "target_weights": (np.arange(U) < answer[:, None]).astype(np.float32),
        "wrong_offset": offset.astype(np.int32),
        "wrong_weight": (rng.random(rows) < 0.7).astype(np.float32),
        "target_image": np.zeros(rows, np.int32),
        "example_id": np.arange(rows, dtype=np.uint32),
    }


def tiny(decoder="transformer", vocabulary=VOCABULARY, **adapter):
    """The configuration."""
    return SlavaConfig(
        VitConfig(32, 1, 16, 16, 1, 2, 8, 32),
        LlamaConfig(vocabulary, 32, 2, 4, 2, 8, 48),
        GroundedConfig(32, 1, 1, 2, 16, 64),
        AdapterConfig(r_min=2, r_max=6, dropout=0.2, **adapter),
        decoder,
    )


def as_config(model: Slava) -> ConfigDict:
    """The part of a run's config that describes a model."""
    config = dataclasses.asdict(model.config)
    del config["llama"]["vocab_size"]
    return ConfigDict({**config, "dtype": "float32", "data": {"crop_bar": False}})


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


def random_variables(model: Slava, seed=0):
    """The collections `params` and `frozen` of a model on `tiny()`'s images.

    Drawn by numpy into the shapes, because compiling the real initialisers takes seconds.
    """
    batch = jax.tree.map(lambda a: a[:2], random_batch(0))
    call = AdapterCall(jnp.int32(4), jnp.arange(2, dtype=jnp.uint32))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    shapes = jax.eval_shape(model.init, keys, batch, call)
    filled = _fill(shapes, np.random.default_rng(seed))
    return jax.tree.map(jnp.asarray, {"params": filled["params"], "frozen": filled["frozen"]})


@functools.cache
def tiny_model(decoder="transformer"):
    """(model, variables); made once for each decoder, so never change the variables in place."""
    model = Slava(tiny(decoder))
    return model, random_variables(model)

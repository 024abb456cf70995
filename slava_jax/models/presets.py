"""Model configurations: the paper's, and the one described by a run's config."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from slava_jax.facts import filled, shown
from slava_jax.models.connectors import ConnectorConfig
from slava_jax.models.decoder import DecoderConfig
from slava_jax.models.grounded import GroundedConfig
from slava_jax.models.inline import Inline, InlineConfig
from slava_jax.models.interface import Batch, Prompt, VisionLanguageModel
from slava_jax.models.slava import Slava, SlavaConfig
from slava_jax.models.vit import VitConfig
from slava_jax.nn.adapters import AdapterCall, AdapterConfig

PAPER = SlavaConfig()  # ViT 224/32 of width 64 and Llama-2-7b (section 4.7)
MODELS = ("slava", "inline")
DTYPES = ("float32", "bfloat16")


def build_model(config: Mapping, vocab_size: int) -> VisionLanguageModel:
    """Builds the model of a run's config (see slava_jax/config.py).

    Args:
      vocab_size: number of tokens of its tokenizer.

    Raises:
      ValueError: a setting is invalid; the message names it. KeyError: one is missing.
    """
    if config["dtype"] not in DTYPES:
        raise ValueError(f"dtype: must be one of {', '.join(DTYPES)}, is {shown(config['dtype'])}")
    dtype, names = jnp.dtype(config["dtype"]), ["quantized", "int8_activations", "remat"]
    parts = {
        "vit": filled(VitConfig, config["vit"], "vit"),
        "language_model": filled(
            DecoderConfig, config["language_model"], "language_model", vocab_size=vocab_size
        ),
        "adapter": adapter_config(config["adapter"]),
    }
    if config["model"] == "slava":
        parts["grounded"] = filled(GroundedConfig, config["grounded"], "grounded")
        own = {name: config[name] for name in (*names, "decoder", "text_encoder")}
        return Slava(filled(SlavaConfig, own, **parts), dtype)
    if config["model"] == "inline":
        parts["connector"] = filled(ConnectorConfig, config["connector"], "connector")
        own = {name: config[name] for name in (*names, "template")}
        return Inline(filled(InlineConfig, own, **parts), dtype)
    raise ValueError(f"model: must be one of {', '.join(MODELS)}, is {shown(config['model'])}")


def variable_shapes(model: VisionLanguageModel) -> dict:
    """The variable collections of a model as `jax.ShapeDtypeStruct`s."""
    vit = model.config.vit
    side, number = vit.image_size, jnp.zeros((1, 2), jnp.int32)
    images = jax.ShapeDtypeStruct((1, 1, side, side, vit.channels), jnp.uint8)  # takes no memory
    prompt = Prompt(images, number, number - 1, number[:, 0] + 2)
    mismatched = jnp.zeros((1, 1), jnp.int32) if model.matches else None
    batch = Batch(prompt, number[:, 0] + 1, jnp.ones((1, 1)), mismatched)
    init = functools.partial(model.init, method="outputs")
    shapes = jax.eval_shape(init, jax.random.key(0), batch, AdapterCall(jnp.int32(1)))
    return {"params": shapes["params"], "frozen": shapes.get("frozen", {})}


def adapter_config(settings: Mapping) -> AdapterConfig | None:
    """The adapters described by a config group; `None` with 0 experts."""
    if hasattr(settings, "items") and settings.get("experts") == 0:
        return None
    return filled(AdapterConfig, settings, "adapter")


def hashable(settings: Mapping) -> dict:
    """Settings with lists turned into tuples, since model configs must be hashable."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}

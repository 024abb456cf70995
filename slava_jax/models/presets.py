"""Model configurations: the paper's, and the one described by a run's config."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

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


def build_model(config: Mapping, vocab_size: int) -> VisionLanguageModel:
    """Builds the model of a run's config (see slava_jax/config.py).

    Args:
      vocab_size: number of tokens of its tokenizer.

    Raises:
      ValueError: a setting is invalid; the message names it.
    """
    shared = {
        "vit": VitConfig(**hashable(config["vit"])),
        "language_model": DecoderConfig(
            vocab_size=vocab_size, **hashable(config["language_model"])
        ),
        "adapter": adapter_config(config["adapter"]),
        **{name: config[name] for name in ("quantized", "int8_activations", "remat")},
    }
    dtype = jnp.dtype(config["dtype"])
    if config["model"] == "slava":
        own = {name: config[name] for name in ("decoder", "text_encoder")}
        return Slava(
            SlavaConfig(grounded=GroundedConfig(**config["grounded"]), **shared, **own), dtype
        )
    if config["model"] == "inline":
        connector = ConnectorConfig(**config["connector"])
        return Inline(
            InlineConfig(connector=connector, template=config["template"], **shared), dtype
        )
    raise ValueError(f"model: must be one of {', '.join(MODELS)}, is {config['model']!r}")


def variable_shapes(model: VisionLanguageModel) -> dict:
    """The variable collections of a model as `jax.ShapeDtypeStruct`s."""
    vit = model.config.vit
    side, number = vit.image_size, jnp.zeros((1, 2), jnp.int32)
    images = jnp.zeros((1, 1, side, side, vit.channels), jnp.uint8)
    prompt = Prompt(images, number, number - 1, number[:, 0] + 2)
    mismatched = jnp.zeros((1, 1), jnp.int32) if model.matches else None
    batch = Batch(prompt, number[:, 0] + 1, jnp.ones((1, 1)), mismatched)
    init = functools.partial(model.init, method="outputs")
    shapes = jax.eval_shape(init, jax.random.key(0), batch, AdapterCall(jnp.int32(1)))
    return {"params": shapes["params"], "frozen": shapes.get("frozen", {})}


def adapter_config(settings: Mapping) -> AdapterConfig | None:
    """The adapters described by a config group; `None` with 0 experts."""
    return AdapterConfig(**settings) if settings["experts"] else None


def hashable(settings: Mapping) -> dict:
    """Settings with lists turned into tuples, since model configs must be hashable."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}

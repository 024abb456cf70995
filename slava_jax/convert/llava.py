"""LLaVA folders of transformers, `LlavaForConditionalGeneration`: config and tables, both ways.

A CLIP read behind one of its layers, a projector, and a decoder, each with rows of its own. What
stands behind the layer that is read is left out: `hidden_states[-2]` is what the layer before the
last leaves, and no norm follows it.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slava_jax.convert.decoders import (
    ARCHITECTURES,
    SIZES,
    decoder_config,
    decoder_settings,
    huggingface_table,
)
from slava_jax.convert.pretrained import Part
from slava_jax.convert.rules import ConvertError, LeftOut, Row, Table, transposed
from slava_jax.convert.settings import flag, mapping, whole
from slava_jax.convert.vision import ACTIVATIONS, clip_below, clip_vision
from slava_jax.models.connectors import ConnectorConfig
from slava_jax.models.decoder import DecoderConfig
from slava_jax.models.vit import VitConfig

_IMAGE_TOKEN = 32_000  # transformers' default


@dataclasses.dataclass(frozen=True)
class Names:
    """What the names of tensors begin with, below which each part has those it has alone.

    Attributes:
      vision, projector: with the dot behind. language_model, head: without.
    """

    vision: str = "vision_tower."
    projector: str = "multi_modal_projector."
    language_model: str = "language_model.model"
    head: str = "language_model.lm_head"


def names_of(tensors: Iterable[str]) -> Names:
    """How a folder names its tensors.

    Files are as transformers 4 named modules, also where version 5 saves them; those that hold
    version 5's own names begin with `model.`. CLIP's stand below `vision_model.` in older ones.
    """
    tensors = list(tensors)
    modules = any(name.startswith("model.") for name in tensors)
    names = Names()
    if modules:
        names = Names(
            "model.vision_tower.", "model.multi_modal_projector.", "model.language_model", "lm_head"
        )
    below = f"{names.vision}vision_model."
    if any(name.startswith(below) for name in tensors):
        names = dataclasses.replace(names, vision=below)
    return names


def llava_parts(
    config: dict, pixels: dict, names: Names, image_size: int | None, path: Path
) -> tuple[dict[str, Part], int]:
    """(the three parts, the id that stands for image tokens) of a LLaVA.

    Args:
      config, pixels: config.json, at `path`, and preprocessor_config.json.
      image_size: the side the encoder shall take; None for the one it was trained at.

    Raises:
      ConvertError, KeyError, ValueError: a setting is missing, or ours does not have it.
    """
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise ValueError(
            f"vision_feature_select_strategy: {strategy!r} is neither 'default' nor 'full'"
        )
    said, text = mapping(config, "vision_config"), _text(config)
    vision = clip_vision(said)
    if not said or vision["model_type"] != "clip_vision_model":
        raise ValueError(
            "vision_config: only one whose model_type is 'clip_vision_model' is read here"
        )
    layers = _feature_layers(config, whole(vision, "num_hidden_layers"))
    vit, vit_table = clip_below(vision, pixels, names.vision, image_size, layers)
    decoder = decoder_config(text, path)
    kind = "linear" if identity_projector(config) else "mlp"
    connector = ConnectorConfig(kind, cls=strategy == "full")
    parts = {
        "vit": Part(vit, vit_table),
        "connector": Part(connector, projector_table(connector, vit, decoder, names)),
        "language_model": Part(
            decoder, huggingface_table(decoder, names.language_model, names.head)
        ),
    }
    token = {"image_token_index": config.get("image_token_id", _IMAGE_TOKEN), **config}
    return parts, whole(token, "image_token_index")


def _text(config: dict) -> dict:
    """text_config with what transformers fills in."""
    text = {"model_type": "llama", **mapping(config, "text_config")}
    if text["model_type"] not in ARCHITECTURES:
        raise ValueError(
            f"text_config: model_type {text['model_type']!r} is not known here, only "
            f"{', '.join(ARCHITECTURES)}"
        )
    tied = flag(config, "tie_word_embeddings", False) or flag(text, "tie_word_embeddings", False)
    return {**SIZES[text["model_type"]], **text, "tie_word_embeddings": tied}


def _feature_layers(config: dict, layers: int) -> int:
    """How many layers stand before the states that are read: `hidden_states` counts from 0."""
    index = config.get("vision_feature_layer", -2)
    if type(index) is not int:
        raise ValueError(
            f"vision_feature_layer: must be one layer, is {index!r}; the states of several side by "
            "side are not built here"
        )
    count = index if index >= 0 else layers + 1 + index
    if not 1 <= count <= layers:
        raise ValueError(f"vision_feature_layer: {index} is behind none of {layers} layers")
    return count


def identity_projector(config: dict) -> bool:
    """Whether nothing stands between the projector's two layers: then they are one, or should be.

    Raises:
      ValueError: an activation, or a projector without biases, that is not built here.
    """
    activation = config.get("projector_hidden_act", "gelu")
    if activation not in ("gelu", "linear"):
        raise ValueError(f"projector_hidden_act: {activation!r} is neither 'gelu' nor 'linear'")
    if not flag(config, "multimodal_projector_bias", True):
        raise ValueError("multimodal_projector_bias: false; the connector here has biases")
    return activation == "linear"


def projector_table(
    connector: ConnectorConfig, vit: VitConfig, decoder: DecoderConfig, names: Names
) -> Table:
    """Rows of the projector; one of a single layer may have the identity as a second."""
    first, second = (f"{names.projector}linear_{i}" for i in (1, 2))
    D = decoder.width
    rows = [
        Row(f"{first}.weight", "first/kernel", (D, vit.width), transposed),
        Row(f"{first}.bias", "first/bias", (D,)),
    ]
    if connector.kind == "linear":
        return [*rows, LeftOut(f"{second}.*", "the identity, as was checked")]
    return [
        *rows,
        Row(f"{second}.weight", "second/kernel", (D, D), transposed),
        Row(f"{second}.bias", "second/bias", (D,)),
    ]


def llava_settings(
    vit: VitConfig, connector: ConnectorConfig, decoder: DecoderConfig, image_token: int
) -> dict[str, Any]:
    """config.json of a LLaVA that is read behind the last of its layers.

    Raises:
      ConvertError: the encoder is no CLIP, or has a norm behind its last layer.
    """
    checks = {
        "frontend 'gradients'": vit.frontend != "pixels",
        "no pre_norm": not vit.pre_norm,
        "layer_scale": vit.layer_scale,
        "patch_bias": vit.patch_bias,
        "final_norm": vit.final_norm,
        "a head_width that is not width / heads": vit.heads * vit.head_width != vit.width,
        "a patch that does not divide the image": bool(vit.image_size % vit.patch),
    }
    if problems := [name for name, is_so in checks.items() if is_so]:
        raise ConvertError(
            "the vision encoder is none of those that a LLaVA of transformers has, a CLIP before "
            f"its last norm: it has {', '.join(problems)}; no LLaVA answers as this assistant"
        )
    if connector.kind not in ("linear", "mlp"):
        raise ConvertError(
            f"connector.kind: {connector.kind!r}; a LLaVA of transformers has 'linear' or 'mlp'"
        )
    text = decoder_settings(decoder)
    activation = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}[vit.activation]
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": image_token,
        "image_seq_length": vit.tokens - (not connector.cls),
        "projector_hidden_act": "gelu" if connector.kind == "mlp" else "linear",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": feature_strategy(connector),
        "tie_word_embeddings": decoder.tie_embeddings,
        "torch_dtype": "float32",
        "text_config": text,
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": vit.width,
            "num_hidden_layers": vit.layers,
            "num_attention_heads": vit.heads,
            "intermediate_size": vit.mlp_width,
            "image_size": vit.image_size,
            "patch_size": vit.patch,
            "num_channels": vit.channels,
            "hidden_act": activation,
            "layer_norm_eps": vit.norm_eps,
        },
    }


def feature_strategy(connector: ConnectorConfig) -> str:
    """What transformers calls the tokens that a connector reads."""
    return "full" if connector.cls else "default"


def pixel_settings(vit: VitConfig) -> dict[str, Any]:
    """preprocessor_config.json: images stretched to squares, as ours are."""
    side = {"height": vit.image_size, "width": vit.image_size}
    mean, deviation = (
        list(of) * (vit.channels if len(of) == 1 else 1) for of in (vit.mean, vit.deviation)
    )
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_resize": True, "size": side, "resample": 2,
        "do_center_crop": False, "crop_size": side,
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": mean, "image_std": deviation,
        "do_convert_rgb": True,
    }  # fmt: skip

"""LLaVA folders of transformers, `LlavaForConditionalGeneration`: config and tables, both ways.

A CLIP encoder read after one of its layers, a projector and a decoder, each with its own rows.
Everything after the layer that is read is dropped: `hidden_states[-2]` is the output of the
second-to-last layer, without a norm.
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
from slava_jax.facts import shown
from slava_jax.models.connectors import ConnectorConfig
from slava_jax.models.decoder import DecoderConfig
from slava_jax.models.vit import VitConfig

_IMAGE_TOKEN = 32_000  # transformers' default


@dataclasses.dataclass(frozen=True)
class Names:
    """Name prefixes of the tensors of each part.

    Attributes:
      vision, projector: with the trailing dot. language_model, head: without it.
    """

    vision: str = "vision_tower."
    projector: str = "multi_modal_projector."
    language_model: str = "language_model.model"
    head: str = "language_model.lm_head"


def names_of(tensors: Iterable[str]) -> Names:
    """The prefixes that a folder uses.

    Files normally use the module names of transformers 4, even when saved by version 5; files with
    version 5's own names begin with `model.`. Older ones have CLIP below `vision_model.`.
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
    """(the three parts, the id of image tokens) of a LLaVA.

    Args:
      config, pixels: config.json, at `path`, and preprocessor_config.json.
      image_size: image side for the encoder; None for the one it was trained at.

    Raises:
      ConvertError, KeyError, ValueError: a setting is missing or not supported.
    """
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise ValueError(
            f"vision_feature_select_strategy: must be 'default' or 'full', is {shown(strategy)}"
        )
    said, text = mapping(config, "vision_config"), _text(config)
    vision = clip_vision(said)
    if not said or vision["model_type"] != "clip_vision_model":
        raise ValueError("vision_config: only model_type 'clip_vision_model' is supported")
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
    if config.get("image_token_id", token["image_token_index"]) != token["image_token_index"]:
        raise ValueError("image_token_id, image_token_index: must be the same; keep one")
    return parts, whole(token, "image_token_index")


def _text(config: dict) -> dict:
    """text_config completed with the defaults of transformers."""
    text = {"model_type": "llama", **mapping(config, "text_config")}
    if text["model_type"] not in tuple(ARCHITECTURES):  # a list is no key
        raise ValueError(
            f"text_config: model_type {shown(text['model_type'])} is not supported, only "
            f"{', '.join(ARCHITECTURES)}"
        )
    tied = flag(config, "tie_word_embeddings", False) or flag(text, "tie_word_embeddings", False)
    return {**SIZES[text["model_type"]], **text, "tie_word_embeddings": tied}


def _feature_layers(config: dict, layers: int) -> int:
    """The number of layers before the states that are read (an index into `hidden_states`)."""
    index = config.get("vision_feature_layer", -2)
    if type(index) is not int:
        raise ValueError(
            f"vision_feature_layer: must be one layer, is {shown(index)}; concatenating several "
            "layers is not supported"
        )
    count = index if index >= 0 else layers + 1 + index
    if not 1 <= count <= layers:
        raise ValueError(
            f"vision_feature_layer: {index} is not the output of any of {layers} layers"
        )
    return count


def identity_projector(config: dict) -> bool:
    """Whether the projector has no activation between its layers, so that one layer suffices.

    Raises:
      ValueError: an unsupported activation, or a projector without biases.
    """
    activation = config.get("projector_hidden_act", "gelu")
    if activation not in ("gelu", "linear"):
        raise ValueError(
            f"projector_hidden_act: must be 'gelu' or 'linear', is {shown(activation)}"
        )
    if not flag(config, "multimodal_projector_bias", True):
        raise ValueError(
            "multimodal_projector_bias: false is not supported; the connector has biases"
        )
    return activation == "linear"


def projector_table(
    connector: ConnectorConfig, vit: VitConfig, decoder: DecoderConfig, names: Names
) -> Table:
    """Rows of the projector; the second layer of a linear one may be stored as the identity."""
    first, second = (f"{names.projector}linear_{i}" for i in (1, 2))
    D = decoder.width
    rows = [
        Row(f"{first}.weight", "first/kernel", (D, vit.width), transposed),
        Row(f"{first}.bias", "first/bias", (D,)),
    ]
    if connector.kind == "linear":
        return [*rows, LeftOut(f"{second}.*", "the identity, as checked on reading")]
    return [
        *rows,
        Row(f"{second}.weight", "second/kernel", (D, D), transposed),
        Row(f"{second}.bias", "second/bias", (D,)),
    ]


def llava_settings(
    vit: VitConfig, connector: ConnectorConfig, decoder: DecoderConfig, image_token: int
) -> dict[str, Any]:
    """config.json of a LLaVA that reads the output of the encoder's last layer.

    Raises:
      ConvertError: the encoder is not a CLIP, or has a norm after its last layer.
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
            "a LLaVA of transformers needs a CLIP vision encoder without the last norm, but this "
            f"one has {', '.join(problems)}; this assistant cannot be exported as a LLaVA"
        )
    if connector.kind not in ("linear", "mlp"):
        raise ConvertError(
            f"connector.kind: must be 'linear' or 'mlp' for a LLaVA, is {connector.kind!r}"
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
    """The transformers name for the tokens that a connector reads."""
    return "full" if connector.cls else "default"


def pixel_settings(vit: VitConfig) -> dict[str, Any]:
    """preprocessor_config.json: images are stretched to squares, as in our pipeline."""
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

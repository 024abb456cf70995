"""Exports an assistant with images in its sequence as a LLaVA folder of transformers.

Parameters that only transformers' CLIP has are written without effect: key biases are zero, and
the norm after the last layer, which LLaVA does not read, is ones and zeros.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from slava_jax.convert.decoders import huggingface_table
from slava_jax.convert.export import (
    Read,
    Tensor,
    TextModel,
    reader,
    tensors_of,
    text_limits,
)
from slava_jax.convert.llava import (
    Names,
    feature_strategy,
    llava_settings,
    pixel_settings,
    projector_table,
)
from slava_jax.convert.vision import clip_rows
from slava_jax.data.instructions import IMAGE_TOKEN
from slava_jax.models.connectors import ConnectorConfig
from slava_jax.models.vit import VitConfig

_NAMES = Names()
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # weights of red, green, blue in grey


@dataclasses.dataclass(frozen=True)
class LlavaModel:
    """A LLaVA to export; see export.Exportable.

    Attributes:
      vit: with three channels. read: arrays of `vit/...` and `connector/...` by path.
      image_token: the id of image tokens.
    """

    vit: VitConfig
    connector: ConnectorConfig
    text: TextModel
    read: Read
    image_token: int

    @property
    def vocab_size(self) -> int:
        """See export.Exportable."""
        return self.text.vocab_size

    @property
    def added(self) -> tuple[str, ...]:
        """See export.Exportable."""
        return self.text.added

    def tensors(self) -> list[Tensor]:
        """See export.Exportable."""
        text, vit = self.text.config, self.vit
        below = lambda part: lambda path, layer: self.read(f"{part}/{path}", layer)  # noqa: E731
        projector = projector_table(self.connector, vit, text, _NAMES)
        return [
            *tensors_of(clip_rows(vit, _NAMES.vision, vit.image_size), vit.layers, below("vit")),
            *self._constants(),
            *tensors_of(projector, 0, below("connector")),
            *tensors_of(
                huggingface_table(text, _NAMES.language_model, _NAMES.head),
                text.layers,
                self.text.read,
            ),
        ]

    def _constants(self) -> list[Tensor]:
        zeros, ones = np.zeros(self.vit.width, np.float32), np.ones(self.vit.width, np.float32)
        held = {
            f"{_NAMES.vision}post_layernorm.{n}": a for n, a in (("weight", ones), ("bias", zeros))
        }
        for layer in range(self.vit.layers):
            held[f"{_NAMES.vision}encoder.layers.{layer}.self_attn.k_proj.bias"] = zeros
        if self.connector.kind == "linear":
            width = self.text.config.width
            held[f"{_NAMES.projector}linear_2.weight"] = np.eye(width, dtype=np.float32)
            held[f"{_NAMES.projector}linear_2.bias"] = np.zeros(width, np.float32)
        return [Tensor(name, a.shape, functools.partial(np.copy, a)) for name, a in held.items()]

    def files(self, tokenizer: PreTrainedTokenizerFast) -> dict[str, dict[str, Any]]:
        """See export.Exportable. Answers may not contain the image token: its row is untrained."""
        config = llava_settings(self.vit, self.connector, self.text.config, self.image_token)
        limits = text_limits(tokenizer)
        ends = {name: limits[name] for name in limits if name.endswith("token_id")}
        return {
            "config.json": {
                **config, **ends, "text_config": {**config["text_config"], **limits},
            },
            "generation_config.json": {**ends, "suppress_tokens": [self.image_token]},
            "preprocessor_config.json": pixel_settings(self.vit),
            "processor_config.json": {
                "processor_class": "LlavaProcessor",
                "image_token": IMAGE_TOKEN,
                "patch_size": self.vit.patch,
                "vision_feature_select_strategy": feature_strategy(self.connector),
                "num_additional_image_tokens": 1,
            },
        }  # fmt: skip


def llava_model(
    vit: VitConfig,
    connector: ConnectorConfig,
    text: TextModel,
    read: Read,
    tokenizer: PreTrainedTokenizerFast,
) -> LlavaModel:
    """Assembles a LLaVA to export from its parts.

    If the vocabulary has no `<image>`, it is appended with a row of zeros. A patch kernel for grey
    images becomes one for colour images, weighted by luminance.

    Args:
      read: see LlavaModel; the encoder may take grey images.

    Raises:
      ConvertError: the encoder is not a CLIP, or has a norm after its last layer.
    """
    image_token = tokenizer.get_vocab().get(IMAGE_TOKEN)
    if image_token is None:
        image_token = text.vocab_size
        text = text.with_tokens([IMAGE_TOKEN], np.zeros((1, text.config.width), np.float32))
    if vit.channels == 1:
        read = _coloured(vit, read)
        vit = dataclasses.replace(vit, channels=3)
    llava_settings(vit, connector, text.config, image_token)  # raises if it cannot be exported
    return LlavaModel(vit, connector, text, read, image_token)


def trained_parts(vit: VitConfig, variables: dict) -> Read:
    """Reads arrays of an assistant's connector and encoder, whose first layers may be frozen."""
    params, stem = variables["params"], variables.get("frozen", {}).get("vit", {}).get("stem")
    late = reader(params)
    if stem is None:
        return late
    first = reader({"vit": stem})

    def read(path: str, layer: int | None) -> np.ndarray:
        part, *inner = path.split("/")
        if part != "vit" or inner[0] == "norm":
            return late(path, layer)
        if layer is None or layer < vit.frozen_layers:
            return first(path, layer)
        return late(path, layer - vit.frozen_layers)

    return read


def _coloured(vit: VitConfig, read: Read) -> Read:
    def coloured(path: str, layer: int | None) -> np.ndarray:
        array = read(path, layer)
        if path != "vit/patch_embedding/kernel":
            return array
        pixels = array.reshape(vit.patch**2, 1, vit.width)
        return (pixels * _LUMINANCE[:, None]).reshape(-1, vit.width)

    return coloured

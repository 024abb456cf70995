"""Starting points of a run: converted weights, or stages trained by another run."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from slava_jax.config import ConfigError
from slava_jax.convert.peft import read_peft
from slava_jax.convert.pretrained import described, is_converted, load
from slava_jax.models.decoder import DecoderConfig
from slava_jax.models.presets import adapter_config, hashable
from slava_jax.models.vit import VitConfig, split_stem
from slava_jax.train.fit import finished
from slava_jax.train.workdir import CONFIG, run_config

_OWN = ("vocab_size", "frozen_layers", "dropout")  # from the tokenizer and the run's config
_PARTS = {"vit": "vision", "connector": "connector", "language_model": "language"}


def check_start(config: ConfigDict) -> None:
    """Checks that the weights in `start_from` are usable, without reading the base's arrays.

    Raises:
      ConfigError: a stage there was trained on test images of this run, or the setting would be
        unused. CheckpointError: the weights cannot be read, or a stage there is not finished.
        ConvertError: `adapter` is not a LoRA for this config's adapters.
    """
    encoder = _encoder_place(config) if {"vision", "assistant"} & set(config.stages) else None
    for name, used in (("vision", encoder), ("language", None)):
        if name in config.stages and config.start_from[name] and not used:
            raise ConfigError(
                f"start_from.{name}: {config.start_from[name]} would be unused: this run trains "
                f"the {name} stage, and only converted vision weights can initialize a trained "
                "stage (docs/convert.md). Correct the path or leave it out"
            )
    connector = config.start_from.connector
    if connector and not (config.model == "inline" and is_converted(connector)):
        raise ConfigError(
            f"start_from.connector: {connector} is not a converted LLaVA (docs/convert.md), or "
            "the model is not 'inline' and has no connector"
        )
    if connector:
        _check_widths(config, connector)
    if "assistant" not in config.stages:
        return
    for name in ("vision", "language"):
        place = config.start_from[name]
        if name not in config.stages and not is_converted(place):
            _check_split(config, name, place)
            finished(Path(place) / name, name)
    if config.start_from.adapter:
        shape = DecoderConfig(vocab_size=1, **hashable(config.language_model))
        read_peft(Path(config.start_from.adapter), shape, adapter_config(config.adapter))


def _check_widths(config: ConfigDict, connector: str) -> None:
    """Raises ConfigError where a connector does not fit what it stands between."""
    held = described(connector)[0]
    for part in ("vit", "language_model"):
        theirs, ours = held[part].width, config[part].width
        if theirs != ours:
            raise ConfigError(
                f"start_from.connector: {connector} is for a {part} of width {theirs}, but that of "
                f"this config has {ours}; start the {part} from the same folder"
            )


def _check_split(config: ConfigDict, name: str, place: str) -> None:
    """Raises ConfigError if a stage was trained on test images of this run.

    Synthetic images are exempt: another seed gives other images.
    """
    if not (Path(place) / CONFIG).exists():
        return  # not a run: `finished` reports it
    held, ours = run_config(Path(place))["data"], config.data
    if ours.name == "procedural" or any(held.get(k) != ours[k] for k in ("name", "folder")):
        return
    different = [
        f"data.{key}: {held[key]} there, {ours[key]} here"
        for key in ("seed", "validation", "test")
        if key in held and held[key] != ours[key]
    ]
    if different:
        raise ConfigError(
            f"start_from.{name}: {place} was trained on another split of the same images, so some "
            "test images of this run were used for training; use the same values:\n  "
            + "\n  ".join(different)
        )


def pretrained_encoder(config: ConfigDict) -> tuple[dict, dict] | None:
    """The converted vision encoder that a run starts from, as `params` and `frozen` of its Vit.

    If `start_from.vision` is the work directory of another run, this is the encoder that run
    started from. `None` without converted weights.

    Raises:
      ConfigError: vit.frozen_layers is set, but there are no converted weights.
      CheckpointError: it cannot be read.
    """
    place = _encoder_place(config)
    if place is None:
        return None
    weights = pretrained(place, "vit")["vit"]
    return split_stem(weights, VitConfig(**hashable(config.vit)))


def _encoder_place(config: ConfigDict) -> str | None:
    """The path of the converted weights for `pretrained_encoder`."""
    place = _converted(config, "vision")
    if place is not None:
        return place
    if config.vit.frozen_layers:
        raise ConfigError(
            f"start_from.vision: vit.frozen_layers needs converted weights (docs/convert.md), but "
            f"{config.start_from.vision} neither is nor starts from any"
        )
    return None


def with_pretrained_shapes(config: ConfigDict) -> ConfigDict:
    """The config with the shapes of the converted weights that it starts from.

    `vit`, `connector` and `language_model` describe models trained from scratch; converted weights
    override them, except for `vit.frozen_layers` and `connector.dropout`.

    Raises:
      ConfigError: the weights in `start_from` lack the part, or they are int8 and `quantized` is
        False. CheckpointError: they cannot be read.
    """
    config = config.copy_and_resolve_references()
    for part, name in _PARTS.items():
        place = _converted(config, name)
        if place is None:
            continue
        held, quantized = described(place)
        if part not in held:
            raise ConfigError(f"start_from.{name}: {place} has no {part}, only {', '.join(held)}")
        if part == "language_model" and quantized and not config.quantized:
            raise ConfigError(
                f"start_from.{name}: the kernels in {place} are int8; set quantized to True, or "
                "convert without --quantize"
            )
        shape = dataclasses.asdict(held[part])
        config[part].update({key: shape[key] for key in shape if key not in _OWN})
    return config


def _converted(config: ConfigDict, name: str) -> str | None:
    """The converted weights that replace a stage, or that it starts from."""
    if name == "vision":
        place = config.start_from.vision
        if place and "vision" not in config.stages and (Path(place) / CONFIG).exists():
            place = run_config(Path(place))["start_from"]["vision"]
    elif name == "connector":
        place = config.start_from.connector
    else:
        place = "" if "language" in config.stages else config.start_from.language
    return place if place and is_converted(place) else None


def pretrained_connector(config: ConfigDict) -> dict | None:
    """The converted connector that a run starts from, `{"first": ...}`; `None` without one.

    Raises:
      CheckpointError: it cannot be read.
    """
    place = _converted(config, "connector")
    return None if place is None else pretrained(place, "connector")["connector"]


def pretrained(place: str, part: str) -> dict:
    """Loads a part of converted weights onto the device: `{part: ...}`.

    `part`: 'vit', 'connector' or 'language_model'.

    Raises:
      CheckpointError: they cannot be read, or have no such part.
    """
    return jax.tree.map(jnp.asarray, load(place, part).tree)


def base_place(config: ConfigDict) -> str | None:
    """The converted weights whose language model is identical to the assistant's, if any.

    They are not if the run itself quantized the kernels to int8.
    """
    place = config.start_from.language
    if "language" in config.stages or not is_converted(place):
        return None
    return place if described(place)[1] == config.quantized else None

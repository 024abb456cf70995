"""What a run starts from: converted weights, or stages that another run trained."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from slava_jax.config import ConfigError
from slava_jax.convert.peft import read_peft
from slava_jax.convert.pretrained import described, is_converted, load
from slava_jax.models.presets import hashable, model_config
from slava_jax.models.vit import VitConfig, split_stem
from slava_jax.train.fit import finished
from slava_jax.train.workdir import CONFIG, run_config


def check_start(config: ConfigDict) -> None:
    """Whether what `start_from` names can be started from; arrays of a base are not read yet.

    Raises:
      ConfigError: weights are of another model, a stage there has seen test images of this run, or
        nothing would start from it. CheckpointError: they cannot be read, or a stage
        there is not finished. ConvertError: `adapter` is no LoRA for this config's adapters.
    """
    encoder = _encoder_place(config) if {"vision", "assistant"} & set(config.stages) else None
    if encoder:
        _check_weights(config, "vision", encoder, None)
    for name, used in (("vision", encoder), ("language", None)):
        if name in config.stages and config.start_from[name] and not used:
            raise ConfigError(
                f"start_from.{name}: nothing would start from {config.start_from[name]}: the "
                f"{name} stage is trained here, and only converted vision weights can begin it "
                "(docs/convert.md). Correct the path or leave it out"
            )
    if "assistant" not in config.stages:
        return
    for name in ("vision", "language"):
        place = config.start_from[name]
        if name not in config.stages and not is_converted(place):
            _check_split(config, name, place)
            finished(Path(place) / name, name)
    if "language" not in config.stages and is_converted(config.start_from.language):
        _check_weights(config, "language", config.start_from.language, None)
    if config.start_from.adapter:
        sizes = model_config(config, config.tokenizer.vocab_size)  # no tensor is as large as that
        read_peft(Path(config.start_from.adapter), sizes)


def _check_split(config: ConfigDict, name: str, place: str) -> None:
    """Raises ConfigError where a stage was trained on what is tested here.

    Other drawings under another seed are other images, and may be tested on.
    """
    if not (Path(place) / CONFIG).exists():
        return  # no run: `finished` says so
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
            f"start_from.{name}: {place} was trained on another split of the same images, so that "
            "some of those tested here were trained on there; set alike:\n  "
            + "\n  ".join(different)
        )


def pretrained_encoder(config: ConfigDict) -> tuple[dict, dict] | None:
    """The converted vision encoder that a run starts from, as `params` and `frozen` of its Vit.

    Where `start_from.vision` is the work directory of another run, it is the one that run started
    from. `None` where no converted weights are in play.

    Raises:
      ConfigError: it is not the encoder that the config describes, or vit.frozen_layers has none.
      CheckpointError: it cannot be read.
    """
    place = _encoder_place(config)
    if place is None:
        return None
    weights = pretrained(config, "vision", 1, place)["vit"]
    return split_stem(weights, VitConfig(**hashable(config.vit)))


def _encoder_place(config: ConfigDict) -> str | None:
    """The converted vision encoder of `pretrained_encoder`."""
    place = config.start_from.vision
    if place and (Path(place) / CONFIG).exists():
        place = run_config(Path(place))["start_from"]["vision"]
    if place and is_converted(place):
        return place
    if config.vit.frozen_layers:
        raise ConfigError(
            f"start_from.vision: {config.start_from.vision} neither is nor starts from converted "
            "weights, which vit.frozen_layers needs (docs/convert.md)"
        )
    return None


def pretrained(config: ConfigDict, name: str, vocab_size: int, place: str | None = None) -> dict:
    """Converted weights that stand for the stage `name`: `{"vit": ...}` or `{"llama": ...}`.

    Args:
      vocab_size: of the run's tokenizer; a vision encoder has none.
      place: where they are; `start_from` says so by default.

    Raises:
      ConfigError: the model they are of is not the one that the config describes.
      CheckpointError: they cannot be read.
    """
    place = place or config.start_from[name]
    _check_weights(config, name, place, vocab_size)
    return jax.tree.map(jnp.asarray, load(place).tree)  # on the device, as a stage's weights are


def _check_weights(config: ConfigDict, name: str, place: str, vocab_size: int | None) -> None:
    """Raises as `pretrained` does. `vocab_size` None: the tokenizer is not there yet."""
    part = {"vision": "vit", "language": "llama"}[name]
    held, quantized = described(place)
    wanted = getattr(model_config(config, vocab_size or config.tokenizer.vocab_size), part)
    if type(held) is not type(wanted):
        raise ConfigError(f"start_from.{name}: holds a {type(held).__name__}, not a {part}")
    if part == "vit":  # which layers are frozen is the run's affair
        wanted = dataclasses.replace(wanted, frozen_layers=0)
    elif vocab_size is None:
        wanted = dataclasses.replace(wanted, vocab_size=held.vocab_size)
    stored = dataclasses.asdict(held)
    problems = [
        f"{part}.{key}: {stored[key]!r} in start_from.{name}, {value!r} in the config"
        for key, value in dataclasses.asdict(wanted).items()
        if stored[key] != value
    ]
    if quantized and not config.quantized:
        problems.append("quantized: False, but the kernels there are int8; convert to float32")
    if problems:
        raise ConfigError("\n  ".join(["pretrained weights of another model:", *problems]))


def base_place(config: ConfigDict) -> str | None:
    """Converted weights that hold the frozen Llama exactly as the assistant does, if it is in any.

    Kernels that the run itself made int8 are not in them.
    """
    place = config.start_from.language
    if "language" in config.stages or not is_converted(place):
        return None
    return place if described(place)[1] == config.quantized else None

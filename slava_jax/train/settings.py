"""Checks the settings of a run: the checks of each module, and those across modules."""

from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict

from slava_jax.config import STAGES, check_keys, plain, raise_problems
from slava_jax.data import assistant_batches, pipeline
from slava_jax.data.assistant_data import bucket_problems
from slava_jax.data.tokenizer import SMALLEST
from slava_jax.errors import too_small
from slava_jax.models.presets import MODELS, build_model
from slava_jax.teacher import multi_image
from slava_jax.train import datasets, evaluation, fit, optim, parallel, recipes, trainable


def check(config: ConfigDict | Mapping) -> None:
    """Checks names, types and values before anything is built.

    Raises:
      ConfigError: lists every key that is unknown, missing, or has an invalid value.
    """
    check_keys(config)
    raise_problems(_problems(plain(config)))


def _problems(config: Mapping) -> Iterator[str]:
    yield from _stage_order(config)
    if config["dtype"] not in ("float32", "bfloat16"):
        yield f"dtype: must be float32 or bfloat16, is {config['dtype']!r}"
    yield from too_small(config, 0, "seed")
    yield from _below("data", datasets.setting_problems(config["data"]))
    yield from _below("data", multi_image.setting_problems(config["data"]))
    yield from _below("tokenizer", too_small(config["tokenizer"], SMALLEST, "vocab_size"))
    yield from _image_problems(config)
    for name in STAGES:
        if name in config["stages"]:
            yield from _below(name, _stage_problems(name, config[name]))
    yield from _turn_problems(config)
    if "assistant" in config["stages"]:
        yield from _room_problems(config)
    ranks = config["adapter"]["r_max"]
    yield from _below("evaluation", evaluation.setting_problems(config["evaluation"], ranks))
    yield from _model_problems(config)


def _model_problems(config: Mapping) -> Iterator[str]:
    """Of the model, and of the settings of the other one: they count once `model` is changed."""
    if config["model"] not in MODELS:
        yield f"model: must be one of {', '.join(MODELS)}, is {config['model']!r}"
    found = {}
    for model in MODELS:
        try:
            build_model({**config, "model": model}, config["tokenizer"]["vocab_size"])
        except (ValueError, TypeError) as error:
            found[str(error)] = None
    yield from found


def _below(group: str, problems: Iterator[str]) -> Iterator[str]:
    """Problems with their keys prefixed by the group."""
    return (f"{group}.{problem}" for problem in problems)


def _stage_order(config: Mapping) -> Iterator[str]:
    stages, start = config["stages"], config["start_from"]
    if not stages or tuple(stages) != tuple(name for name in STAGES if name in stages):
        yield f"stages: must be some of {', '.join(STAGES)}, in this order, is {tuple(stages)}"
    if "alignment" in stages and ("assistant" not in stages or config["model"] != "inline"):
        yield "stages: 'alignment' needs model 'inline' and an 'assistant' stage after it"
    for name in ("vision", "language"):
        if "assistant" in stages and name not in stages and not start[name]:
            yield (
                f"start_from.{name}: must be a work directory with a finished {name} stage, or "
                f"converted weights, because stages lacks {name!r}"
            )


def _turn_problems(config: Mapping) -> Iterator[str]:
    for name in ("alignment", "assistant"):
        if name in config["stages"] and config[name]["turns"] > 1 and config["model"] != "inline":
            yield f"{name}.turns: must be 1, because model {config['model']!r} writes one answer"


def _image_problems(config: Mapping) -> Iterator[str]:
    change, vit = config["image"]["augmentation"], config["vit"]
    problems = pipeline.augmentation_problems(change, vit["image_size"])
    yield from _below("image.augmentation", problems)
    if vit["frozen_layers"]:
        if change["shift"]:
            yield "image.augmentation.shift: must be 0, because vit.frozen_layers run only once"
        if not config["start_from"]["vision"]:
            yield "start_from.vision: must be converted weights, because vit.frozen_layers is set"


def _stage_problems(name: str, stage: Mapping) -> Iterator[str]:
    for owner in (fit, optim, parallel, trainable):
        yield from owner.setting_problems(stage)
    if name == "vision":
        yield from recipes.vision_problems(stage)
    elif name == "language":
        yield from pipeline.text_problems(stage)
    else:
        yield from assistant_batches.setting_problems(stage)


def _room_problems(config: Mapping) -> Iterator[str]:
    """Problems with the buckets, and prompts with more images than any bucket allows."""
    buckets, data = config["assistant"]["buckets"], config["data"]
    wrong = list(bucket_problems(buckets))
    yield from _below("assistant", wrong)
    if wrong or [*multi_image.setting_problems(data)]:
        return
    room = max(images for _, _, images in buckets)
    if max(data["shots"], default=0) >= room:
        most = max(data["shots"])
        yield f"data.shots: {most} examples and the image need a bucket of {most + 1} images"
    if data["challenges"] and room < 3:
        yield "data.challenges: needs a bucket of 3 images in assistant.buckets"

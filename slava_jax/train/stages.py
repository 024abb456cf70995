"""The three stages of a run: vision encoder, language model, assistant."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from slava_jax.convert.peft import read_peft, with_lora
from slava_jax.data.assistant_batches import AssistantBatches, AssistantEvaluation
from slava_jax.data.assistant_data import AssistantData
from slava_jax.data.pipeline import (
    Augmentation,
    LanguageBatches,
    PipelineError,
    Shard,
    VisionBatches,
    VisionEvaluation,
)
from slava_jax.data.tokenizer import special_tokens
from slava_jax.models.decoder import LanguageModel, LlamaConfig
from slava_jax.models.presets import hashable, model_config
from slava_jax.models.slava import Slava, split_frozen
from slava_jax.models.vit import Vit, VitClassifier, VitConfig
from slava_jax.nn.adapters import AdapterCall, joined
from slava_jax.nn.quantized import quantize_linear_layers
from slava_jax.train.fit import Stage, device_fields
from slava_jax.train.materials import Materials, Split
from slava_jax.train.recipes import SETTLED, Assistant, Language, Vision


def _dtype(config):
    return jnp.dtype(config.dtype)


def _here(stage: ConfigDict) -> Shard:
    # Under pmap a device sees its own rows alone, and a wrong pair must be among them.
    devices = jax.local_device_count() if stage.strategy == "pmap" else 1
    return Shard(jax.process_index(), jax.process_count(), stage.microbatches, devices)


def check_batches(config: ConfigDict) -> None:
    """Raises PipelineError where the devices that there are cannot share a stage's batch."""
    for name in config.stages:
        c = config[name]
        try:
            _here(c).rows(c.batch_size, c.get("pair_block", 1))
            if c.strategy == "mesh":
                _check_mesh(c)
        except PipelineError as error:
            raise PipelineError(f"{name}: {error}") from error


def _check_mesh(stage: ConfigDict) -> None:
    devices, model = jax.device_count(), stage.mesh_model
    if devices % model:
        raise PipelineError(
            f"mesh_model {model} does not divide the {devices} device(s); change mesh_model"
        )
    if stage.batch_size % (stage.microbatches * devices // model):
        raise PipelineError(
            f"batch size {stage.batch_size} is not a multiple of {stage.microbatches} "
            f"microbatch(es) x {devices // model} device(s) along the data axis of the mesh; "
            "change batch_size, microbatches or mesh_model"
        )


def _epochs(steps: int, per_epoch: int) -> int:
    return -(-steps // per_epoch)


class _Steps(Sequence):
    """As many batches of a source as the stage has steps."""

    def __init__(self, make, steps: int):
        per_epoch = make(1).batches_per_epoch
        self._source, self._steps = make(_epochs(steps, per_epoch)), steps

    def __len__(self):
        return self._steps

    def __getitem__(self, i):
        return self._source[i]


def vision_stage(
    config: ConfigDict, materials: Materials, encoder: tuple[dict, dict] | None = None
) -> Stage:
    """The ViT as a classifier (section 4.4).

    Args:
      encoder: where it starts (see `pretrained_encoder`); `None` for random weights.
    """
    c = config.vision
    model = VitClassifier(
        VitConfig(**hashable(config.vit)), len(materials.class_names), _dtype(config)
    )
    augmentation = Augmentation(**config.image.augmentation)

    def batches(epochs):
        split = materials.train
        return VisionBatches(
            split.images, split.cache, c.batch_size, config.seed, epochs, augmentation, _here(c)
        )

    source = _Steps(batches, c.steps)
    validation = list(
        VisionEvaluation(materials.validation.images, materials.validation.cache, c.batch_size)
    )
    init = jax.jit(model.init)
    params = init(jax.random.key(config.seed), source[0]["images"][:1])["params"]
    frozen = {}
    if encoder is not None:
        trained, stem = encoder
        params = {**params, "vit": trained}
        frozen = {"vit": stem} if stem else {}
    return Stage("vision", c, Vision(model, c.smoothing), params, frozen, source, validation)


def embeddings(
    config: ConfigDict, materials: Materials, vision: dict, encoder: tuple[dict, dict] | None
) -> dict[str, np.ndarray]:
    """float32[n, D] of each split: the `<cls>` embeddings of its images (section 4.4).

    Args:
      vision: parameters of the vision stage, or converted ones. encoder: see `pretrained_encoder`.
    """
    vit, batch = VitConfig(**hashable(config.vit)), config.evaluation.batch_size
    model = Vit(vit, _dtype(config))
    variables = {"params": vision["vit"], "frozen": encoder[1] if encoder else {}}
    cls = jax.jit(lambda images: model.apply(variables, images, cls_only=True)[:, 0])
    found = {}
    for name in ("train", "validation", "test"):
        split = getattr(materials, name)
        batches = VisionEvaluation(split.images, split.cache, batch)
        rows = [np.asarray(cls(each["images"]), np.float32) for each in batches]
        found[name] = np.concatenate(rows)[: len(split.images)]
    return found


def language_stage(config: ConfigDict, materials: Materials) -> Stage:
    """A Llama from scratch on the training instructions: the default ships no weights."""
    c, tokenizer = config.language, materials.tokenizer
    llama = LlamaConfig(vocab_size=len(tokenizer), **config.llama)
    model = LanguageModel(llama)

    def batches(examples, epochs, *shard):
        return LanguageBatches(
            examples, tokenizer.eos_token_id, c.length, c.batch_size, config.seed, epochs, *shard
        )

    source = _Steps(lambda epochs: batches(materials.train.examples, epochs, _here(c)), c.steps)
    held_out = batches(materials.validation.examples, 1)
    validation = [held_out[i] for i in range(min(c.validation_batches, len(held_out)))]
    first = source[0]
    params = jax.jit(model.init)(
        jax.random.key(config.seed), first["tokens"][:1], first["order"][:1]
    )["params"]
    return Stage("language", c, Language(model), params, {}, source, validation)


@dataclasses.dataclass(frozen=True)
class AssistantStart:
    """An assistant before its stage: the model and where its weights start."""

    model: Slava
    params: dict
    frozen: dict


def assistant_start(
    config, materials, vision: dict | None, language: dict, encoder: tuple[dict, dict] | None = None
) -> AssistantStart:
    """Puts the trained ViT and the frozen, int8 Llama into a fresh assistant.

    Args:
      vision: parameters of the vision stage; `None` starts the encoder at random.
      encoder: see `pretrained_encoder`.
      language: parameters of the language stage, or converted ones, which may be int8 already.
    """
    model = Slava(model_config(config, len(materials.tokenizer)), _dtype(config))
    data = assistant_data(config, materials, materials.validation)
    batch = device_fields(AssistantEvaluation(data, 2, 2, rows=range(2))[0])
    keys = dict(
        zip(("params", "dropout"), jax.random.split(jax.random.key(config.seed)), strict=True)
    )
    call = AdapterCall(jnp.int32(1))
    variables = jax.jit(model.init)(keys, batch, call)
    params, frozen = variables["params"], variables["frozen"]
    if vision is not None:
        params = {**params, "vit": vision["vit"]}
    base = language["llama"]
    if config.quantized:
        base = quantize_linear_layers(base)
    _, own = split_frozen(frozen)  # every A, as drawn
    frozen = joined({"llama": base}, own)
    if encoder and encoder[1]:
        frozen["vit"] = encoder[1]
    variables = {"params": params, "frozen": frozen}
    if config.start_from.adapter:
        lora = read_peft(Path(config.start_from.adapter), model.config)
        variables = with_lora(variables, lora)
    return AssistantStart(model, **variables)


def assistant_data(config: ConfigDict, materials: Materials, split: Split) -> AssistantData:
    """The instructions of a split, checked; training images may stand before a target image."""
    specials = special_tokens(materials.tokenizer)
    buckets = [tuple(sizes) for sizes in config.assistant.buckets]
    train = materials.train
    before = None if split is train else (train.images, train.cache)
    return AssistantData(
        split.instructions, split.examples, split.images, split.cache, specials, buckets, before
    )


def check_instructions(config: ConfigDict, materials: Materials) -> None:
    """Raises PipelineError where an instruction of any split cannot stand in a batch.

    Else one of the test split would be found after everything is trained, by buckets that a work
    directory cannot change.
    """
    if "assistant" in config.stages:
        for split in (materials.train, materials.validation, materials.test):
            assistant_data(config, materials, split)


def assistant_stage(config: ConfigDict, materials: Materials, start: AssistantStart) -> Stage:
    """ITM + LM with rank sampling, soft-merged experts, accumulation (sections 4.1 and 4.5).

    With a `vision_rate` of 0 the vision encoder is no part of what the stage trains: no gradient of
    it is computed. `whole` puts it back.
    """
    c = config.assistant
    params, frozen = start.params, start.frozen
    if c.vision_rate == 0:
        params = {name: leaves for name, leaves in params.items() if name != "vit"}
        frozen = {**frozen, SETTLED: {"vit": start.params["vit"]}}
    train = assistant_data(config, materials, materials.train)
    augmentation = Augmentation(**config.image.augmentation)

    def batches(epochs):
        return AssistantBatches(
            train, c.batch_size, c.pair_block, config.seed, epochs, c.per_image, tuple(c.always),
            augmentation, _here(c),
        )  # fmt: skip

    held_out = assistant_data(config, materials, materials.validation)
    evaluation = AssistantEvaluation(held_out, c.batch_size, c.pair_block, config.seed)
    chosen = evenly(len(evaluation), c.validation_batches)
    objective = Assistant(start.model, start.model.config.adapter)

    def describe(batch):
        ids = [train.instructions[i].id for i in batch["index"].tolist()]
        return "instructions " + ", ".join(ids)

    return Stage(
        "assistant", c, objective, params, frozen, _Steps(batches, c.steps),
        [evaluation[i] for i in chosen], describe,
    )  # fmt: skip


def whole(params: dict, stage: Stage) -> dict:
    """Trained parameters, and those that the stage left as they were."""
    return {**params, **stage.frozen.get(SETTLED, {})}


def evenly(length: int, most: int) -> list[int]:
    """At most `most` positions spread evenly over `length`."""
    count = min(length, most)
    return [i * length // count for i in range(count)]

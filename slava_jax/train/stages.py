"""The stages of a run: vision encoder, language model, alignment, assistant."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from slava_jax.convert.peft import read_peft, with_lora
from slava_jax.data.assistant_batches import AssistantBatches, AssistantEvaluation
from slava_jax.data.assistant_data import AssistantData
from slava_jax.data.chat import encode_examples
from slava_jax.data.fact_targets import FactTargets
from slava_jax.data.pipeline import (
    Augmentation,
    LanguageBatches,
    PipelineError,
    Shard,
    VisionBatches,
    VisionEvaluation,
    whole_batches,
)
from slava_jax.data.sampling import conversations
from slava_jax.models.decoder import DecoderConfig, LanguageModel
from slava_jax.models.interface import VisionLanguageModel
from slava_jax.models.presets import build_model, hashable, variable_shapes
from slava_jax.models.vit import Vit, VitClassifier, VitConfig
from slava_jax.nn.adapters import AdapterCall, joined, split_frozen
from slava_jax.nn.quantized import quantize_linear_layers
from slava_jax.train.datasets import Datasets, Split, worded_for_model
from slava_jax.train.fit import Stage
from slava_jax.train.recipes import Assistant, Language, Vision, model_batch
from slava_jax.train.start import pretrained_connector
from slava_jax.train.trainable import chosen, split


def _dtype(config):
    return jnp.dtype(config.dtype)


def _here(stage: ConfigDict) -> Shard:
    # Under pmap a device sees only its own rows, and these must include the mismatched image.
    devices = jax.local_device_count() if stage.strategy == "pmap" else 1
    return Shard(jax.process_index(), jax.process_count(), stage.microbatches, devices)


def check_batches(config: ConfigDict) -> None:
    """Raises PipelineError if a stage's batch does not split evenly over the devices."""
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
    """The first `steps` batches of a source."""

    def __init__(self, make, steps: int):
        per_epoch = make(1).batches_per_epoch
        self._source, self._steps = make(_epochs(steps, per_epoch)), steps

    def __len__(self):
        return self._steps

    def __getitem__(self, i):
        return self._source[i]


def vision_stage(
    config: ConfigDict, datasets: Datasets, encoder: tuple[dict, dict] | None = None
) -> Stage:
    """The ViT as a classifier (section 4.4) that also learns the facts of the images.

    A stage that is not trained here, only read from another run, has no facts.

    Args:
      encoder: initial weights (see `pretrained_encoder`); `None` for random weights.
    """
    c, train, held_out = config.vision, datasets.train, datasets.validation
    learned = c.fact_weight and "vision" in config.stages
    facts = FactTargets.of(train.images.facts) if learned else FactTargets()
    model = VitClassifier(
        VitConfig(**hashable(config.vit)), len(datasets.class_names), facts.outputs, _dtype(config)
    )
    augmentation = Augmentation(**config.image.augmentation)

    def batches(epochs):
        return VisionBatches(
            train.images, train.cache, c.batch_size, config.seed, epochs, augmentation, _here(c),
            facts,
        )  # fmt: skip

    source = _Steps(batches, c.steps)
    validation = list(VisionEvaluation(held_out.images, held_out.cache, c.batch_size, facts))
    init = jax.jit(model.init)
    params = init(jax.random.key(config.seed), source[0]["images"][:1])["params"]
    frozen = {}
    if encoder is not None:
        trained, stem = encoder
        params = {**params, "vit": trained}
        frozen = {"vit": stem} if stem else {}
    objective = Vision(model, c.smoothing, facts, c.fact_weight)
    return _stage("vision", c, objective, (params, frozen), source, validation)


def embeddings(
    config: ConfigDict, datasets: Datasets, vision: dict, encoder: tuple[dict, dict] | None
) -> dict[str, np.ndarray]:
    """The `<cls>` embeddings of each split's images, float32[n, D] (section 4.4).

    Args:
      vision: parameters of the vision stage, or converted ones. encoder: see `pretrained_encoder`.
    """
    vit, batch = VitConfig(**hashable(config.vit)), config.evaluation.batch_size
    model = Vit(vit, _dtype(config))
    variables = {"params": vision["vit"], "frozen": encoder[1] if encoder else {}}
    cls = jax.jit(lambda images: model.apply(variables, images, cls_only=True)[:, 0])
    found = {}
    for name in ("train", "validation", "test"):
        split = getattr(datasets, name)
        batches = VisionEvaluation(split.images, split.cache, batch)
        rows = [np.asarray(cls(each["images"]), np.float32) for each in batches]
        found[name] = np.concatenate(rows)[: len(split.images)]
    return found


def language_stage(config: ConfigDict, datasets: Datasets) -> Stage:
    """Trains a language model from scratch on the training instructions."""
    c = config.language
    shape = DecoderConfig(vocab_size=len(datasets.tokenizer), **config.language_model)
    model = LanguageModel(shape)
    train = datasets.train
    source = _Steps(lambda n: _language_batches(config, datasets, train, n, _here(c)), c.steps)
    held_out = _language_batches(config, datasets, datasets.validation, 1)
    validation = [held_out[i] for i in range(min(c.validation_batches, len(held_out)))]
    first = source[0]
    params = jax.jit(model.init)(
        jax.random.key(config.seed), first["tokens"][:1], first["order"][:1]
    )["params"]
    return _stage("language", c, Language(model), (params, {}), source, validation)


def _language_batches(config, datasets: Datasets, split: Split, epochs: int, *shard):
    c, end = config.language, datasets.tokenizer.eos_token_id
    return LanguageBatches(split.examples, end, c.length, c.batch_size, config.seed, epochs, *shard)


@dataclasses.dataclass(frozen=True)
class AssistantStart:
    """An assistant before its stage: the model and its initial weights."""

    model: VisionLanguageModel
    params: dict
    frozen: dict


def assistant_start(
    config, datasets, vision: dict | None, language: dict, encoder: tuple[dict, dict] | None = None
) -> AssistantStart:
    """Builds a new assistant from the trained vision encoder and language model.

    Args:
      vision: parameters of the vision stage; `None` initializes the encoder at random.
      encoder: see `pretrained_encoder`.
      language: parameters of the language stage, or converted ones, which may already be int8.
    """
    model = build_model(config, len(datasets.tokenizer))
    data = assistant_data(config, datasets, datasets.validation)
    batch = model_batch(model, AssistantEvaluation(data, 2, 2, rows=range(2))[0])
    keys = dict(
        zip(("params", "dropout"), jax.random.split(jax.random.key(config.seed)), strict=True)
    )
    call = AdapterCall(jnp.int32(1))
    init = functools.partial(model.init, method="outputs")
    variables = jax.jit(init)(keys, batch, call)
    params, frozen = variables["params"], variables.get("frozen", {})
    if vision is not None:
        params = {**params, "vit": vision["vit"]}
    base = language["language_model"]
    if config.quantized:
        base = quantize_linear_layers(base)
    held, own = split_frozen(frozen)  # own: the random A matrices
    if "language_model" in held:
        frozen = joined({"language_model": base}, own)
    else:
        params = {**params, "language_model": base}
    if encoder and encoder[1]:
        frozen["vit"] = encoder[1]
    connector = pretrained_connector(config)
    if connector is not None:
        params = {**params, "connector": connector}
    variables = {"params": params, "frozen": frozen}
    if config.start_from.adapter:
        lora = read_peft(
            Path(config.start_from.adapter), model.config.language_model, model.adapter
        )
        variables = with_lora(variables, lora)
    return AssistantStart(model, **variables)


def assistant_data(
    config: ConfigDict, datasets: Datasets, split: Split, tasks: Sequence[str] = ()
) -> AssistantData:
    """The validated instructions of a split; training images may precede a target image.

    On the test split only the last answer of a conversation is scored.
    `tasks`: keep only these tasks, such as ('caption',); () for all.
    """
    buckets = [tuple(sizes) for sizes in config.assistant.buckets]
    train = datasets.train
    rows = [i for i, item in enumerate(split.instructions) if not tasks or item.task in tasks]
    before = None if split.images is train.images else (train.images, train.cache)
    items, examples = ([column[i] for i in rows] for column in (split.instructions, split.examples))
    return AssistantData(
        items, examples, split.images, split.cache, datasets.form, buckets, before,
        datasets.every_answer and split is not datasets.test,
    )  # fmt: skip


def check_batches_fill(config: ConfigDict, datasets: Datasets) -> None:
    """Raises PipelineError if a stage lacks the data for one batch, or an instruction does not fit.

    Without this check, too few texts or an oversized test instruction would only be found after
    hours of training, when the config can no longer change.
    """
    if "assistant" in config.stages:
        assistant_data(config, datasets, datasets.test)
    for name in config.stages:
        try:
            _check_stage(config, datasets, name)
        except PipelineError as error:
            raise PipelineError(f"{name}: {error}".replace("STAGE", name)) from error


def _check_stage(config: ConfigDict, datasets: Datasets, name: str) -> None:
    if name == "vision":
        images = datasets.train.images
        whole_batches(len(images), config.vision.batch_size, images.name)
    elif name == "language":
        for split in (datasets.train, datasets.validation):
            _language_batches(config, datasets, split, 1)
    else:
        _training_batches(config, datasets, name)[1](1)
        assistant_data(config, datasets, datasets.validation, config[name].tasks)


def _training_batches(config: ConfigDict, datasets: Datasets, name: str):
    """Training data of the stage 'alignment' or 'assistant', and a function epochs -> batches."""
    c = config[name]
    split = _with_conversations(config, datasets, c) if c.turns > 1 else datasets.train
    data = assistant_data(config, datasets, split, c.tasks)
    augmentation = Augmentation(**config.image.augmentation)

    def batches(epochs):
        return AssistantBatches(
            data, c.batch_size, c.pair_block, config.seed, epochs, c.per_image, tuple(c.always),
            augmentation, _here(c), c.asked_weight,
        )  # fmt: skip

    return data, batches


def _with_conversations(config: ConfigDict, datasets: Datasets, stage: ConfigDict) -> Split:
    """The training split with up to `stage.turns` questions about an image in one text."""
    train, sizes = datasets.train, config.assistant.buckets[-1]
    pairs = zip(train.instructions, train.examples, strict=True)
    asked = [pair for pair in pairs if not stage.tasks or pair[0].task in stage.tasks]
    more = datasets.form.image_tokens - 1
    items = conversations(
        [item for item, _ in asked],
        [len(example.ids) - more * len(example.spans) for _, example in asked],
        (stage.turns, min(sizes[:2])), stage.asked_weight, config.seed,
    )  # fmt: skip
    read = worded_for_model(train.images, items)
    examples = encode_examples(read, datasets.tokenizer, datasets.form)
    return dataclasses.replace(train, instructions=items, examples=examples)


def assistant_stage(
    config: ConfigDict, datasets: Datasets, start: AssistantStart, name: str = "assistant"
) -> Stage:
    """LM and ITM with rank sampling, soft-merged experts, accumulation (sections 4.1 and 4.5).

    Args:
      name: 'assistant', or 'alignment', the preceding stage that trains the connector (LLaVA).
    """
    c = config[name]
    train, batches = _training_batches(config, datasets, name)
    held_out = assistant_data(config, datasets, datasets.validation, c.tasks)
    evaluation = AssistantEvaluation(held_out, c.batch_size, c.pair_block, config.seed)
    taken = evenly(len(evaluation), c.validation_batches)

    def describe(batch):
        ids = [train.instructions[i].id for i in batch["index"].tolist()]
        return "instructions " + ", ".join(ids)

    return _stage(
        name, c, Assistant(start.model), (start.params, start.frozen), _Steps(batches, c.steps),
        [evaluation[i] for i in taken], describe,
    )  # fmt: skip


def check_trainable(config: ConfigDict) -> None:
    """Checks that the patterns of the stages match parameters, without making arrays.

    Raises:
      TrainableError: a pattern matches nothing, or leaves nothing to train.
    """
    for name in config.stages:
        c = config[name]
        if tuple(c.trainable) != ("**",) or c.rates:
            _split(name, c, _parameter_shapes(config, name))


def _parameter_shapes(config, stage: str) -> dict:
    """Parameter shapes of a stage's model; the numbers of classes and tokens are arbitrary."""
    if stage not in ("vision", "language"):
        return variable_shapes(build_model(config, 2))["params"]
    if stage == "vision":
        vit = VitConfig(**hashable(config.vit))
        model, shape = VitClassifier(vit, 2), (1, vit.image_size, vit.image_size, vit.channels)
        inputs = (jax.ShapeDtypeStruct(shape, jnp.uint8),)
    else:
        model = LanguageModel(DecoderConfig(vocab_size=2, **hashable(config.language_model)))
        inputs = (jax.ShapeDtypeStruct((1, 2), jnp.int32),) * 2
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def _split(name: str, config, params: dict) -> tuple[dict, dict]:
    """Splits the parameters of a stage into trained and fixed ones."""
    trained, held = split(params, chosen(params, config.trainable, f"{name}.trainable"))
    chosen_rates = [pattern for pattern, _ in config.rates]
    if chosen_rates:
        chosen(trained, chosen_rates, f"{name}.rates")
    return trained, held


def _stage(name: str, config, objective, variables: tuple[dict, dict], *data) -> Stage:
    """The stage, its parameters split into those it trains and those it holds."""
    params, frozen = variables
    trained, held = _split(name, config, params)
    return Stage(name, config, objective, trained, {"params": held, "frozen": frozen}, *data)


def whole(params: dict, stage: Stage) -> dict:
    """The trained parameters joined with those the stage kept fixed."""
    return joined(stage.held["params"], params)


def evenly(length: int, most: int) -> list[int]:
    """At most `most` positions, evenly spaced over `length`."""
    count = min(length, most)
    return [i * length // count for i in range(count)]

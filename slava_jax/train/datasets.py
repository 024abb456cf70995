"""The data of a run: image sets, instructions on disk, the tokenizer."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerFast

from slava_jax import hosts
from slava_jax.checkpoint import atomic_folder
from slava_jax.convert.pretrained import TOKENIZER, WEIGHTS, is_converted
from slava_jax.data.chat import Example, TextForm, encode_examples
from slava_jax.data.datasets.base import DataError, ImageSet
from slava_jax.data.datasets.catalogue import PUBLISHED
from slava_jax.data.datasets.elpv import Elpv
from slava_jax.data.datasets.folder import Folder
from slava_jax.data.datasets.procedural import Procedural
from slava_jax.data.datasets.published import Published
from slava_jax.data.datasets.store import image_sets
from slava_jax.data.fact_targets import FactTargets
from slava_jax.data.instructions import IMAGE_TOKEN, Instruction, read_jsonl, write_jsonl
from slava_jax.data.names import composed
from slava_jax.data.own_instructions import by_split, check_agreement, completed
from slava_jax.data.pipeline import Augmentation, ImageCache
from slava_jax.data.tokenizer import (
    TokenizerError,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from slava_jax.data.units import Scale, in_shares
from slava_jax.errors import too_small
from slava_jax.models.presets import build_model, hashable
from slava_jax.models.vit import VitConfig
from slava_jax.synthetic.facts import ACQUISITION, supplement_text
from slava_jax.synthetic.records import GroundTruth
from slava_jax.synthetic.scenes.geometry import SMALLEST
from slava_jax.teacher import procedural as teacher
from slava_jax.teacher.multi_image import multi_image_instructions
from slava_jax.train.frozen_states import UNCHANGED, FrozenStates

ON_DISK = ("folder", *PUBLISHED)  # data sets read from data.folder
DATA_SETS = ("procedural", "elpv", *ON_DISK)
LEFT_OUT = "left_out.jsonl"  # next to the instructions of the splits


@dataclasses.dataclass(frozen=True)
class Split:
    """One split: its images, the instructions about them, their token ids.

    `pixels` are the decoded images; `cache` is the model's input: the same pixels, or the states
    of frozen layers (frozen_states.py).
    """

    images: ImageSet
    pixels: ImageCache
    cache: ImageCache | FrozenStates
    instructions: list[Instruction]
    examples: list[Example]


@dataclasses.dataclass(frozen=True)
class Datasets:
    """Everything a run reads.

    Attributes:
      class_answers: the class names as worded in answers.
      form: the text format of the model. every_answer: train on all answers of a conversation at
        once; otherwise each turn is a separate instruction.
    """

    train: Split
    validation: Split
    test: Split
    tokenizer: PreTrainedTokenizerFast
    class_names: list[str]
    class_answers: list[str]
    form: TextForm
    every_answer: bool


def setting_problems(data: Mapping) -> Iterator[str]:
    """Problems with the settings of images, splits and question."""
    name = data["name"]
    if name not in DATA_SETS:
        yield f"name: must be one of {', '.join(DATA_SETS)}, is {name!r}"
    if name in ON_DISK and not data["folder"]:
        yield "folder: must name the folder of your images (--config.data.folder=DIR)"
    if name not in ON_DISK and data["crop_bar"]:
        yield f"crop_bar: must be False, because {name!r} does not read your files"
    if data["facts"] and name != "folder":
        yield f"facts: must be (), because {name!r} has no labels.csv of yours"
    named = [*data["facts"]]
    if not all(isinstance(column, str) and column.strip() for column in named):
        yield f"facts: must be names of columns, is {data['facts']!r}"
        return
    if len(set(named)) < len(named):
        yield f"facts: must name each column once, is {data['facts']!r}"
    taken = sorted({"file", "label", "category", "pixel_size_nm", *ACQUISITION} & {*named})
    if taken:
        yield f"facts: must not name {', '.join(taken)}, which have a meaning of their own"
    if name == "procedural" and data["images_per_category"] < 3:
        yield "images_per_category: must be 3 or more, one for each split"
    yield from too_small(data, SMALLEST if name == "procedural" else 1, "size")
    yield from too_small(data, 0, "seed")
    if IMAGE_TOKEN in data["question"]:
        yield f"question: must not contain {IMAGE_TOKEN}, which is added automatically"
    if not (data["validation"] > 0 and data["test"] > 0 and data["validation"] + data["test"] < 1):
        yield "validation, test: must be above 0, and their sum below 1"


def prepare(config: ConfigDict, workdir: Path) -> Datasets:
    """Builds the missing files under `workdir/data`, then reads them all.

    Raises:
      DataError, ImageError, InstructionError: unusable images or instructions.
      ChatError: an instruction cannot be formatted as a conversation.
    """
    images = open_image_sets(config, workdir / "data")
    names = images["train"].class_names
    if len(names) < 2:
        raise DataError(
            f"{images['train'].name}: all images are of one class, {names[0]!r}, but the "
            "evaluation needs mismatched images: add images of a second class"
        )
    _say_what_is_not_learned(config, images["train"])
    instructions = _instructions(config, workdir / "data" / "instructions", images)
    answers = [teacher.class_answer(name) for name in names]
    folder = workdir / "data" / "tokenizer"
    words = worded_for_model(images["train"], instructions["train"])
    tokenizer = _tokenizer(config, folder, images["train"], words, answers)
    model = build_model(config, len(tokenizer))
    form = model.text_form(tokenizer.eos_token_id)
    size, channels, cache_mb = config.vit.image_size, config.vit.channels, config.image.cache_mb
    splits = {}
    for name in images:
        pixels = ImageCache(images[name], size, channels, cache_mb)
        items = instructions[name]
        if not model.every_answer:
            items = [turn for item in items for turn in item.each_turn()]
        # Each turn has the scale of its own target image, so only single turns can be reused.
        reusable = name == "train" and not any(item.turns for item in items)
        read = words if reusable else worded_for_model(images[name], items)
        examples = encode_examples(read, tokenizer, form)
        splits[name] = Split(images[name], pixels, pixels, items, examples)
    return Datasets(
        **splits, tokenizer=tokenizer, class_names=names, class_answers=answers, form=form,
        every_answer=model.every_answer,
    )  # fmt: skip


def _say_what_is_not_learned(config, images: ImageSet) -> None:
    learned = FactTargets.of(images.facts).names
    for name in config.data.facts:
        if composed(name) not in learned:
            print(
                f"data.facts: {name} is not learned: it needs 20 and 5 % of the training images, "
                "values that differ, numbers above 0, and for lengths (_nm) a pixel size",
                file=sys.stderr,
            )


def worded_for_model(images: ImageSet, items: Sequence[Instruction]) -> list[Instruction]:
    """The instructions as the model reads them, with lengths as shares of the target's width."""
    return [in_shares(item, scale_of(images, item)) for item in items]


def scale_of(images: ImageSet, item: Instruction) -> Scale:
    """The scale of an instruction's target image; an unknown one for an unknown image."""
    row = images.index.get(item.target)
    return Scale() if row is None else Scale.of(images.facts[row])


def with_frozen_states(
    config: ConfigDict, datasets: Datasets, stem: dict, workdir: Path
) -> Datasets:
    """The data sets with the states of the frozen layers, computed here, as the model's input.

    Args:
      stem: weights of models/vit.VitStem.
    """
    vit = VitConfig(**hashable(config.vit))
    change = Augmentation(**config.image.augmentation)
    place = Path(config.image.states or workdir / "data" / "states")
    tested = change if config.evaluation.test_time_augmentation else UNCHANGED
    changes = {"train": change, "validation": UNCHANGED, "test": tested}
    splits = {}
    for name, augmentation in changes.items():
        split = getattr(datasets, name)
        states = FrozenStates(place, vit, stem, split.images, split.pixels)
        with hosts.first_before_others():
            states.compute(augmentation)
        splits[name] = dataclasses.replace(split, cache=states)
    return dataclasses.replace(datasets, **splits)


def with_multi_image(
    config: ConfigDict, datasets: Datasets, embeddings: Mapping[str, np.ndarray], workdir: Path
) -> Datasets:
    """The data sets with the multi-image instructions of `data.shots` and `data.challenges` added.

    Args:
      embeddings: split -> float32[n, D], image embeddings of the trained vision encoder (section
        4.4).
    """
    splits = {}
    for name, embedded in embeddings.items():
        split, pool = getattr(datasets, name), datasets.train
        path = workdir / "data" / "instructions" / f"{name}-multi_image.jsonl"
        with hosts.first_before_others():
            if not path.exists():
                pair = (embedded, embeddings["train"])
                images = (split.images, pool.images)
                write_jsonl(path, _about_several(config, *images, pair, tested=name == "test"))
            items = read_jsonl(path)
        splits[name] = dataclasses.replace(
            split,
            instructions=split.instructions + items,
            examples=split.examples
            + encode_examples(
                worded_for_model(split.images, items), datasets.tokenizer, datasets.form
            ),
        )
    return dataclasses.replace(datasets, **splits)


def _about_several(
    config, images: ImageSet, pool: ImageSet, embeddings, tested: bool = False
) -> list[Instruction]:
    data = config.data
    return multi_image_instructions(
        images, pool, embeddings, data.shots, data.challenges, data.seed, data.question, tested
    )


def _wordings(config, images: ImageSet) -> list[Instruction]:
    """Multi-image instructions with arbitrary groups, so that the tokenizer knows their words."""
    if not (config.data.shots or config.data.challenges):
        return []
    anything = np.random.default_rng(0).normal(size=(len(images), 8))
    return _about_several(config, images, images, (anything, anything))


def open_image_sets(config: ConfigDict, directory: Path) -> dict[str, ImageSet]:
    """The splits of `config.data`, built under `directory` if missing.

    Raises:
      DataError, ImageError: unusable images.
    """
    data = config.data
    shares = (data.validation, data.test)
    place = directory / data.name
    if data.name == "procedural":
        count = data.images_per_category
        builder = Procedural(place, count, data.size, data.seed, shares=shares)
    elif data.name == "elpv":
        builder = Elpv(place, data.size, data.seed, shares)
    else:
        settings = (place, data.size, config.vit.channels, data.seed, shares, data.crop_bar)
        if data.name in PUBLISHED:
            builder = Published(data.name, data.folder, *settings)
        else:
            builder = Folder(data.folder, *settings, data.facts)
    return {name: s.with_facts(teacher.facts) for name, s in image_sets(builder).items()}


def _instructions(
    config, folder: Path, images: dict[str, ImageSet]
) -> dict[str, list[Instruction]]:
    paths = {name: folder / f"{name}.jsonl" for name in images}
    missing = [name for name in images if not paths[name].exists()]
    own, apart = {}, []
    if missing and config.data.instructions:
        own, apart = by_split(_own_instructions(config), images, config.data.instructions)
    folder.mkdir(parents=True, exist_ok=True)
    if apart:
        write_jsonl(folder / LEFT_OUT, apart)
        told = f"left out {len(apart)} instructions that show images of other splits"
        print(f"{told}: {folder / LEFT_OUT}", file=sys.stderr)
    items = {}
    for name, path in paths.items():
        if name in missing:
            taught = _teach(config, images[name])
            items[name] = completed(own[name], taught) if own else taught
            write_jsonl(path, items[name])
        else:
            items[name] = read_jsonl(path)
            check_agreement(items[name], images[name], str(path))
    return items  # not read back: that takes seconds and gives the same


def _own_instructions(config) -> list[Instruction]:
    try:
        items = read_jsonl(config.data.instructions)
    except OSError as error:
        raise DataError(f"data.instructions: {error}; give a file of instructions") from error
    if not items:
        raise DataError(f"data.instructions: {config.data.instructions} is empty")
    return items


def _teach(config, images: ImageSet) -> list[Instruction]:
    seed, items = config.data.seed, []
    for i, (key, record) in enumerate(zip(images.keys, images.records, strict=True)):
        if record is not None:
            items += teacher.instructions(key, GroundTruth.from_dict(record), seed)
        else:
            known = images.facts[i]
            facts = {k: v for k, v in known.items() if isinstance(v, str) and k != "category"}
            scale = supplement_text(known.get("nm_per_pixel"), known.get("magnification"))
            items += teacher.label_instructions(
                key, images.category(i), facts, seed, config.data.question or None, scale
            )
    return items


def _tokenizer(config, folder: Path, images: ImageSet, train: list[Instruction], answers):
    """Trains a tokenizer once per run, or copies that of the pretrained language model.

    Raises DataError if an existing folder has another tokenizer than the language model's.
    """
    start = config.start_from.language if "language" not in config.stages else ""
    own = _tokenizer_of(Path(start)) if start else None
    if folder.exists():
        held = load_tokenizer(folder)
        if own is not None and _rules(held) != _rules(own):
            raise DataError(
                f"{folder}: not the tokenizer of start_from.language, {start}; delete the folder "
                "to write it again"
            )
    else:
        tokenizer = own
        if tokenizer is None:
            items = train + _wordings(config, images)
            turns = [turn for i in items for turn in (*i.turns, (i.question, i.answer))]
            texts = [text for turn in turns for text in turn]
            texts += [item.metadata.get("supplement", "") for item in items]
            texts = [text.replace("<image> ", "") for text in texts + answers]
            tokenizer = train_tokenizer(texts, config.tokenizer.vocab_size)
        with atomic_folder(folder) as unfinished:
            save_tokenizer(tokenizer, unfinished)
    return load_tokenizer(folder)


def _rules(tokenizer: PreTrainedTokenizerFast) -> tuple:
    """Everything that decides which ids a text becomes."""
    return tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map


def _tokenizer_of(workdir: Path):
    try:
        if is_converted(workdir):
            return load_tokenizer(workdir / TOKENIZER, workdir / WEIGHTS / "language_model")
        return load_tokenizer(workdir / "data" / "tokenizer")
    except TokenizerError as error:
        raise DataError(
            f"{error}: start_from.language must be converted weights (docs/convert.md) or a work "
            "directory with a finished language stage; run python -m slava_jax.main "
            f"--config configs/language.py --workdir {workdir}"
        ) from error

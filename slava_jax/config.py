"""All settings of a run and their meaning. The files in configs/ change values, never keys.

The code that uses a value checks its range; train/settings.py collects these checks.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping

from ml_collections import ConfigDict

from slava_jax.errors import UserError
from slava_jax.models.connectors import ConnectorConfig
from slava_jax.models.presets import PAPER

STAGES = ("vision", "language", "alignment", "assistant")
_DEFAULT_STAGES = ("vision", "language", "assistant")


class ConfigError(UserError, ValueError):
    """Invalid config; the message lists every wrong key and the reason."""


def default_config() -> ConfigDict:
    """All settings with their defaults, locked: values can be changed, but no keys added.

    The model has the paper's sizes (models/presets.py); configs/quickstart.py has small ones.
    """
    settings = {
        "seed": 0,
        # Any of STAGES, in this order. Without 'vision' or 'language' these come from start_from.
        # 'alignment' trains the connector of an inline model before the assistant (LLaVA).
        "stages": _DEFAULT_STAGES,
        # vision, language: weights for a stage that is left out: the work directory of a run that
        # has the stage, or a folder of converted weights (docs/convert.md). The tokenizer comes
        # with the language model. Converted vision weights also initialize a vision stage that is
        # trained. connector: a folder of a converted LLaVA, whose connector initializes that of an
        # inline model. adapter: a PEFT folder of a LoRA, which initializes the first expert.
        "start_from": {"vision": "", "connector": "", "language": "", "adapter": ""},
        "dtype": "float32",  # 'bfloat16' on accelerators that have it
        "data": _data(),
        "image": {
            "cache_mb": 1024,  # larger splits are decoded again for every batch
            # turns: 4 for quarter turns, 2 for half turns only, 1 for none; shift: pixels.
            "augmentation": {"flips": True, "turns": 4, "shift": 16},
            # Folder for the states of vit.frozen_layers; '' for the work directory. Runs that share
            # a folder compute them once.
            "states": "",
        },
        "tokenizer": {"vocab_size": 1024},
        "model": "slava",  # or 'inline': image tokens in the decoder's sequence (LLaVA)
        # The classes document their fields: models/vit.py, decoder.py, grounded.py, connectors.py
        # and nn/adapters.py. Converted weights in start_from override the shapes of vit and
        # language_model given here.
        "vit": dataclasses.asdict(PAPER.vit),
        "language_model": _without(dataclasses.asdict(PAPER.language_model), "vocab_size"),
        "adapter": dataclasses.asdict(PAPER.adapter),  # experts=0 for none
        "quantized": PAPER.quantized,  # int8 kernels in the language model
        "int8_activations": PAPER.int8_activations,  # int8 x int8 products in the language model
        "remat": PAPER.remat,  # activations a decoder block keeps for the gradient: nn/stack.py
        # Only for sLAVA.
        "grounded": dataclasses.asdict(PAPER.grounded),
        "decoder": PAPER.decoder,  # 'transformer' or 'llama'
        "text_encoder": PAPER.text_encoder,  # 'llama', or 'embeddings' for a control
        # Only for inline models.
        "connector": dataclasses.asdict(ConnectorConfig()),
        "template": "vicuna_v1",  # chat template, see data/chat.py
        # smoothing: of the class labels; fact_weight: of the loss of the images' facts
        # (data/fact_targets.py), 0 for none; length: tokens of a training sequence.
        "vision": _stage(weight_decay=0.05, smoothing=0.1, fact_weight=4.0),
        "language": _stage(length=96, validation_batches=8),
        "alignment": _assistant_stage(tasks=("caption",), trainable=("connector/**",)),
        "assistant": _assistant_stage(
            # Allowed batch sizes: (tokens of prompt and answer, tokens of the answer, images), the
            # cheapest first; everything must fit the last one. An image counts as one token.
            buckets=((48, 16, 1), (64, 32, 1), (96, 48, 1), (128, 80, 1)),
        ),
        "evaluation": _evaluation(),
    }
    config = ConfigDict(settings)
    config.lock()
    return config


def _assistant_stage(tasks=(), **own) -> dict:
    return _stage(
        tasks=tasks,  # only these tasks, such as ('caption',); () for all
        pair_block=8,  # block of rows in which the mismatched image of a pair is chosen
        per_image=4,  # instructions sampled per image and epoch,
        always=("class",),  # always including these question types
        asked_weight=12.0,  # of a question for a single fact, against 1 for open questions
        # Maximum number of questions about an image in one text, for models that train on every
        # answer (inline). The image is read once for all of them.
        turns=1,
        validation_batches=12,
        **own,
    )


def _evaluation() -> dict:
    return {
        "batch_size": 32,
        "pair_block": 8,
        "classification": 800,  # maximum number of test questions, by task
        "captions": 160,
        "answers": 320,
        "truth": 160,  # test images whose facts are asked for, if the ground truth is known
        "several": 96,  # each kind of multi-image question; few-shot: as classification
        "examples": 12,  # in the report
        "ranks": (),  # adapter ranks to score; () for the smallest, middle and largest
        # Averages the class probabilities of a test image over all symmetries of
        # image.augmentation; also for the zero-B control and the vision classifier.
        "test_time_augmentation": False,
    }


def _data() -> dict:
    return {
        # Or 'elpv'; 'folder' for your own images; 'sem', 'neu', 'cmi' or 'kth_tips' for the
        # published data sets of the paper (third_party/).
        "name": "procedural",
        # Image folder. For 'folder': one subfolder per class, or images and a labels.csv; for a
        # published data set: the folder with the unpacked archives.
        "folder": "",
        # Columns of a folder's labels.csv that the vision encoder learns: words such as 'alloy', or
        # numbers such as 'pore_size_nm', which lengths in `_nm` are with a pixel size.
        "facts": (),
        "crop_bar": False,  # cut off data bars if found (data/bar.py); with a folder
        "images_per_category": 400,  # for 'procedural'
        "size": 256,  # side of the stored images, pixels
        "seed": 0,  # of the synthetic images, the split and the wording
        "validation": 0.1,  # fraction of each class; for 'elpv' also of each cell type
        "test": 0.2,
        # A JSON Lines file of instructions about these images (docs/formats.md); '' for the
        # teacher's. Each goes to the split of its images. Class and caption questions are kept.
        "instructions": "",
        "question": "",  # the classification question; '' for the teacher's wordings
        # Questions about several images: similar training images, then the target (section 4.4).
        # shots: numbers of few-shot examples, e.g. (1, 2, 4, 8). challenges: any of 'intra_class',
        # 'inter_class', 'heterogeneity'; need ground truth.
        "shots": (),
        "challenges": (),
    }


def _without(settings: dict, name: str) -> dict:
    return {key: value for key, value in settings.items() if key != name}


def _stage(**own) -> dict:
    """The settings common to all stages, and the stage's own."""
    common = {
        "steps": 1000,
        "batch_size": 32,  # over all devices and microbatches
        "microbatches": 1,  # gradient accumulation inside the step
        "optimizer": "adam",  # or 'muon', for kernels; see train/optim.py
        "learning_rate": 1e-3,
        # trainable: path patterns of the trained parameters (train/trainable.py), such as
        # ("connector/**", "**/lora_b", "**/router"). rates: learning-rate factors for some of them,
        # (("vit/**", 0.1),). Int8 kernels and weights under adapters are never trained.
        "trainable": ("**",),
        "rates": (),
        "warmup": 50,  # steps
        "schedule": "cosine",  # or 'constant', with only the plateau rule
        "weight_decay": 0.0,
        "grad_clip": 1.0,  # global norm
        "eval_every": 250,  # steps between validations (the paper's epochs)
        "patience": 5,  # validations without improvement until the learning rate is halved
        "stop_patience": 10,  # validations without improvement until training stops early
        "strategy": "pmap",  # or 'mesh'
        "mesh_model": 1,  # devices along the model axis of the mesh
    }
    return {**common, **own}


def check_keys(config: ConfigDict | Mapping) -> None:
    """Checks names and types. For the checks of values see train/settings.py.

    Raises:
      ConfigError: lists every key that is unknown, missing or of the wrong type.
    """
    raise_problems(_key_problems(plain(config), default_config().to_dict(), ""))


def plain(config: ConfigDict | Mapping) -> Mapping:
    """The settings as nested dicts, because a ConfigDict is not a Mapping."""
    return config.to_dict() if isinstance(config, ConfigDict) else config


def raise_problems(problems: Iterable[str]) -> None:
    """Raises ConfigError with all problems, if any."""
    problems = list(problems)
    if problems:
        raise ConfigError("invalid config:\n  " + "\n  ".join(problems))


def _key_problems(held: Mapping, known: Mapping, path: str) -> Iterator[str]:
    for key in held:
        if key not in known:
            similar = difflib.get_close_matches(key, list(known), 1)
            hint = f"did you mean {path}{similar[0]}?" if similar else f"known: {', '.join(known)}"
            yield f"{path}{key}: unknown ({hint})"
    for key, example in known.items():
        if key not in held:
            yield f"{path}{key}: missing (derive from configs/quickstart.py, which has every key)"
        elif isinstance(example, Mapping) and isinstance(held[key], Mapping):
            yield from _key_problems(held[key], example, f"{path}{key}.")
        elif not _of_type(held[key], example):
            yield f"{path}{key}: must be {_type_name(example)}, is {held[key]!r}"


def _of_type(value, example) -> bool:
    if isinstance(value, Mapping) or isinstance(example, Mapping):
        return False
    if isinstance(example, bool) or isinstance(value, bool):
        return isinstance(example, bool) and isinstance(value, bool)
    if isinstance(example, float):
        return isinstance(value, int | float)
    if isinstance(example, tuple):
        return isinstance(value, tuple | list)
    return isinstance(value, type(example))


def _type_name(example) -> str:
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
    if isinstance(example, Mapping):
        return "a group of settings"
    return names.get(type(example), "a tuple")

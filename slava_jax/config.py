"""Every setting of a run and what it means. The files in configs/ change values, never keys.

What a value may be stands with the code that uses it; train/settings.py collects it.
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
    """The config cannot be used; the message names every key that is wrong, and how."""


def default_config() -> ConfigDict:
    """All settings. It is locked: values can be changed, no key can be misspelt.

    Sizes of the model are the paper's (models/presets.py); configs/quickstart.py has small ones.
    """
    settings = {
        "seed": 0,
        # Any of them, in their order. What is left out of the first two is read from start_from;
        # 'alignment' trains the connector of an inline model before the assistant (LLaVA).
        "stages": _DEFAULT_STAGES,
        # What stands for the stages that are left out: a work directory with its best weights, or
        # a folder of converted ones (docs/convert.md). The tokenizer comes with the language's.
        # A vision stage that is not left out starts from converted weights, where they are named.
        # connector: a folder of a converted LLaVA, whose connector an inline model begins with;
        # adapter: a PEFT folder of a LoRA that the first expert starts as.
        "start_from": {"vision": "", "connector": "", "language": "", "adapter": ""},
        "dtype": "float32",  # 'bfloat16' on accelerators that have it
        "data": _data(),
        "image": {
            "cache_mb": 1024,  # splits that need more are decoded again for every batch
            # turns: 4 for quarter turns, 2 for half turns alone, 1 for none; shift: pixels.
            "augmentation": {"flips": True, "turns": 4, "shift": 16},
            # Where the states of vit.frozen_layers are kept; '' for the work directory. Runs that
            # share a folder compute them once.
            "states": "",
        },
        "tokenizer": {"vocab_size": 1024},
        "model": "slava",  # or 'inline': image tokens stand in the decoder's sequence (LLaVA)
        # The fields are explained at the classes: models/vit.py, decoder.py, grounded.py,
        # connectors.py and nn/adapters.py. Converted weights in start_from know the shapes of vit
        # and language_model themselves; what is set here then counts for nothing.
        "vit": dataclasses.asdict(PAPER.vit),
        "language_model": _without(dataclasses.asdict(PAPER.language_model), "vocab_size"),
        "adapter": dataclasses.asdict(PAPER.adapter),  # experts=0 for none
        "quantized": PAPER.quantized,  # int8 kernels in the language model
        "int8_activations": PAPER.int8_activations,  # the language model multiplies int8 by int8
        "remat": PAPER.remat,  # what a decoder block keeps for its gradient: see nn/stack.py
        # Of sLAVA alone.
        "grounded": dataclasses.asdict(PAPER.grounded),
        "decoder": PAPER.decoder,  # 'transformer' or 'llama'
        "text_encoder": PAPER.text_encoder,  # 'llama', or 'embeddings' for a control
        # Of inline models alone.
        "connector": dataclasses.asdict(ConnectorConfig()),
        "template": "vicuna_v1",  # how a conversation is written, see data/chat.py
        "vision": _stage(weight_decay=0.05, smoothing=0.1),  # smoothing of the labels
        "language": _stage(
            length=96,  # tokens of a training sequence
            validation_batches=8,
        ),
        "alignment": _assistant_stage(tasks=("caption",), trainable=("connector/**",)),
        "assistant": _assistant_stage(
            # Tokens of prompt and answer, tokens of the answer, images: the sizes a batch may have,
            # the cheapest first; the last one must hold everything. An image counts as one token.
            buckets=((48, 16, 1), (64, 32, 1), (96, 48, 1), (128, 80, 1)),
        ),
        "evaluation": _evaluation(),
    }
    config = ConfigDict(settings)
    config.lock()
    return config


def _assistant_stage(tasks=(), **own) -> dict:
    return _stage(
        tasks=tasks,  # of these tasks alone, such as ('caption',); () for all
        pair_block=8,  # rows among which the wrong image of a pair is looked for
        per_image=4,  # instructions drawn of each image and epoch,
        always=("class",),  # the question types here among them every time
        validation_batches=12,
        **own,
    )


def _evaluation() -> dict:
    return {
        "batch_size": 32,
        "pair_block": 8,
        "classification": 800,  # test questions of each task, at most
        "captions": 160,
        "answers": 320,
        "several": 96,  # of each kind of question about several images; few-shot: as classification
        "examples": 12,  # of the report
        "ranks": (),  # adapter ranks to score; () for the least, the middle and the largest one
        # The class of a test image is scored under all symmetries of image.augmentation, and the
        # mean probability counts; with every B at zero and by the vision classifier alone, too.
        "test_time_augmentation": False,
    }


def _data() -> dict:
    return {
        # Or 'elpv'; 'folder' for images of one's own; 'sem', 'neu', 'cmi' or 'kth_tips' for the
        # published sets of the paper (third_party/).
        "name": "procedural",
        # Where the images are: a folder a class, or images and a labels.csv, for 'folder'; what
        # the archives were unpacked in, for a published set.
        "folder": "",
        "crop_bar": False,  # cut data bars off, where one is found (data/bar.py); with a folder
        "images_per_category": 400,  # for 'procedural'
        "size": 256,  # side the images are stored at, pixels
        "seed": 0,  # of the drawings, the split and the wording
        "validation": 0.1,  # share of each class; and of each kind of cell of 'elpv'
        "test": 0.2,
        # A JSON Lines file of instructions about these images (docs/formats.md); '' for the
        # teacher's. Each goes to the split of its images. Class and caption are asked all the same.
        "instructions": "",
        "question": "",  # the classification question; '' for the teacher's wordings
        # Questions about several images, of which those before the last are training images that
        # are alike (section 4.4): few-shot classification with so many examples, e.g. (1, 2, 4, 8),
        # and some of 'intra_class', 'inter_class', 'heterogeneity' where there is ground truth.
        "shots": (),
        "challenges": (),
    }


def _without(settings: dict, name: str) -> dict:
    return {key: value for key, value in settings.items() if key != name}


def _stage(**own) -> dict:
    """What every stage has, and its own settings."""
    common = {
        "steps": 1000,
        "batch_size": 32,  # over all devices and microbatches
        "microbatches": 1,  # gradient accumulation inside the step
        "optimizer": "adam",  # or 'muon', for kernels; see train/optim.py
        "learning_rate": 1e-3,
        # Path patterns of what is trained (train/trainable.py), such as ("connector/**",
        # "**/lora_b", "**/router"); and factors on the rate of some of it, (("vit/**", 0.1),).
        # Int8 kernels, the weights under adapters and every A stay as they are.
        "trainable": ("**",),
        "rates": (),
        "warmup": 50,  # steps
        "schedule": "cosine",  # or 'constant', which leaves it to the plateau rule
        "weight_decay": 0.0,
        "grad_clip": 1.0,  # global norm
        "eval_every": 250,  # steps between two validations, which stand for epochs
        "patience": 5,  # flat validations until the rate is halved
        "stop_patience": 10,  # flat validations until training stops early
        "strategy": "pmap",  # or 'mesh'
        "mesh_model": 1,  # devices along the model axis of the mesh
    }
    return {**common, **own}


def check_keys(config: ConfigDict | Mapping) -> None:
    """Checks names and types. What a value may be, its owner says: see train/settings.py.

    Raises:
      ConfigError: lists every key that is unknown, missing or of another type.
    """
    raise_problems(_key_problems(plain(config), default_config().to_dict(), ""))


def plain(config: ConfigDict | Mapping) -> Mapping:
    """The settings as nested dicts: a ConfigDict is no Mapping."""
    return config.to_dict() if isinstance(config, ConfigDict) else config


def raise_problems(problems: Iterable[str]) -> None:
    """Raises ConfigError with all of the problems, if there are any."""
    problems = list(problems)
    if problems:
        raise ConfigError("the config cannot be used:\n  " + "\n  ".join(problems))


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

"""Every setting of a run and what it means. The files in configs/ change values, never keys."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict

from slava_jax.data.datasets.catalogue import PUBLISHED
from slava_jax.data.instructions import IMAGE_TOKEN, TASKS
from slava_jax.errors import UserError
from slava_jax.models.connectors import ConnectorConfig
from slava_jax.models.presets import PAPER, build_model
from slava_jax.synthetic.scenes.geometry import SMALLEST
from slava_jax.teacher.multi_image import CHALLENGES, MOST_SHOTS

STAGES = ("vision", "language", "alignment", "assistant")
_DEFAULT_STAGES = ("vision", "language", "assistant")
ON_DISK = ("folder", *PUBLISHED)  # data sets that are read where data.folder says
DATA_SETS = ("procedural", "elpv", *ON_DISK)
_SMALLEST_VOCABULARY = 260  # 256 bytes and 4 special tokens


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
        "alignment": _assistant_stage(tasks=("caption",)),
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


def check(config: ConfigDict | Mapping) -> None:
    """Checks names, types and values before anything is built.

    Raises:
      ConfigError: lists every key that is unknown, missing, or has a value that cannot be used.
    """
    check_keys(config)
    _raise(list(_value_problems(_plain(config))))


def check_keys(config: ConfigDict | Mapping) -> None:
    """The part of `check` that looks at no value. Raises ConfigError."""
    _raise(list(_key_problems(_plain(config), default_config().to_dict(), "")))


def _plain(config: ConfigDict | Mapping) -> Mapping:
    return config.to_dict() if isinstance(config, ConfigDict) else config  # it is no Mapping


def _raise(problems: list[str]) -> None:
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


def _value_problems(config) -> Iterator[str]:
    stages, start = config["stages"], config["start_from"]
    if not stages or tuple(stages) != tuple(name for name in STAGES if name in stages):
        yield f"stages: must be some of {', '.join(STAGES)}, in this order, is {tuple(stages)}"
    if "alignment" in stages and "assistant" not in stages:
        yield "stages: 'alignment' prepares 'assistant', which must follow it"
    for name in ("vision", "language"):
        if "assistant" in stages and name not in stages and not start[name]:
            yield (
                f"start_from.{name}: must name a work directory with a finished {name} stage, or "
                f"converted weights, because stages leaves {name!r} out"
            )
    if config["dtype"] not in ("float32", "bfloat16"):
        yield f"dtype: must be float32 or bfloat16, is {config['dtype']!r}"
    if config["seed"] < 0 or config["data"]["seed"] < 0:
        yield "seed, data.seed: must be 0 or more"
    yield from _data_problems(config)
    yield from _image_problems(config)
    for name in STAGES:
        if name in stages:
            yield from (f"{name}.{problem}" for problem in _stage_problems(config[name]))
    for name in ("alignment", "assistant", "evaluation"):
        group = config[name]
        if group["pair_block"] < 2 or group["batch_size"] % group["pair_block"]:
            yield f"{name}.pair_block: must be 2 or more and divide {name}.batch_size"
    if not all(_is_bucket(sizes) for sizes in config["assistant"]["buckets"]):
        yield "assistant.buckets: must be triples of whole numbers, ((48, 16, 1), ...)"
    elif "assistant" in stages:
        yield from _room_problems(config)
    yield from _evaluation_problems(config["evaluation"], config["adapter"]["r_max"])
    try:
        build_model(config, config["tokenizer"]["vocab_size"])
    except (ValueError, TypeError) as error:
        yield str(error)


def _evaluation_problems(evaluation, r_max: int) -> Iterator[str]:
    for name in ("batch_size", "classification"):
        if evaluation[name] < 1:
            yield f"evaluation.{name}: must be 1 or more, is {evaluation[name]}"
    for name in ("captions", "answers", "several", "examples"):
        if evaluation[name] < 0:
            yield f"evaluation.{name}: must be 0 or more, is {evaluation[name]}"
    if not all(type(rank) is int and 1 <= rank <= r_max for rank in evaluation["ranks"]):
        yield f"evaluation.ranks: must be whole numbers in 1..adapter.r_max, {r_max}"


def _data_problems(config) -> Iterator[str]:
    data, vocabulary = config["data"], config["tokenizer"]["vocab_size"]
    if data["name"] not in DATA_SETS:
        yield f"data.name: must be one of {', '.join(DATA_SETS)}, is {data['name']!r}"
    if data["name"] in ON_DISK and not data["folder"]:
        yield "data.folder: must name the folder of your images (--config.data.folder=DIR)"
    if data["name"] not in ON_DISK and data["crop_bar"]:
        yield f"data.crop_bar: must be False, because {data['name']!r} does not read your files"
    if data["name"] == "procedural" and data["images_per_category"] < 3:
        yield "data.images_per_category: must be 3 or more, one for each split"
    smallest = SMALLEST if data["name"] == "procedural" else 1
    if data["size"] < smallest:
        yield f"data.size: must be {smallest} or more, is {data['size']}"
    if not all(type(n) is int and 1 <= n <= MOST_SHOTS for n in data["shots"]):
        yield f"data.shots: must be whole numbers in 1..{MOST_SHOTS}, is {data['shots']!r}"
    if not all(kind in CHALLENGES for kind in data["challenges"]):
        yield f"data.challenges: must be some of {', '.join(CHALLENGES)}"
    if IMAGE_TOKEN in data["question"]:
        yield f"data.question: must not hold {IMAGE_TOKEN}, which is put before it"
    if vocabulary < _SMALLEST_VOCABULARY:
        yield f"tokenizer.vocab_size: must be {_SMALLEST_VOCABULARY} or more, is {vocabulary}"
    if not (data["validation"] > 0 and data["test"] > 0 and data["validation"] + data["test"] < 1):
        yield "data.validation, data.test: must be above 0, and their sum below 1"


def _room_problems(config) -> Iterator[str]:
    """Prompts of several images that no bucket has room for, which only a batch would notice."""
    room = max(images for _, _, images in config["assistant"]["buckets"])
    shots, several = config["data"]["shots"], config["data"]["challenges"]
    if all(type(n) is int for n in shots) and shots and max(shots) >= room:
        yield f"data.shots: {max(shots)} examples and the image need a bucket of {max(shots) + 1}"
    if several and room < 3:
        yield "data.challenges: need a bucket of 3 images in assistant.buckets"


def _image_problems(config) -> Iterator[str]:
    change = config["image"]["augmentation"]
    side = config["vit"]["image_size"]
    if not 0 <= change["shift"] < side:
        yield f"image.augmentation.shift: must be 0 or more and below vit.image_size, {side}"
    if change["turns"] not in (1, 2, 4):
        yield f"image.augmentation.turns: must be 1, 2 or 4, is {change['turns']}"
    if config["vit"]["frozen_layers"]:
        if change["shift"]:
            yield "image.augmentation.shift: must be 0, because vit.frozen_layers are computed once"
        if not config["start_from"]["vision"]:
            yield "start_from.vision: must name converted weights for vit.frozen_layers"


def _stage_problems(stage) -> Iterator[str]:
    counts = ("steps", "batch_size", "microbatches", "eval_every", "patience", "stop_patience")
    for name in (*counts, "mesh_model", "per_image", "length", "validation_batches"):
        if stage.get(name, 1) < 1:
            yield f"{name}: must be 1 or more, is {stage[name]}"
    for name in ("learning_rate", "grad_clip"):
        if not stage[name] > 0:
            yield f"{name}: must be above 0, is {stage[name]}"
    if not 0 <= stage.get("smoothing", 0) < 1:
        yield f"smoothing: must be 0 or more and below 1, is {stage['smoothing']}"
    if not all(_is_rate(pair) for pair in stage["rates"]):
        yield f"rates: must be pairs of a path pattern and a factor above 0, is {stage['rates']}"
    if not all(isinstance(pattern, str) for pattern in stage["trainable"]):
        yield f"trainable: must be path patterns, is {stage['trainable']}"
    if not all(task in TASKS for task in stage.get("tasks", ())):
        yield f"tasks: must be some of {', '.join(TASKS)}, is {stage['tasks']}"
    if stage["batch_size"] % max(stage["microbatches"], 1):
        yield f"microbatches: must divide batch_size, {stage['batch_size']}"
    if stage["optimizer"] not in ("adam", "muon"):
        yield f"optimizer: must be adam or muon, is {stage['optimizer']!r}"
    if stage["schedule"] not in ("constant", "cosine"):
        yield f"schedule: must be constant or cosine, is {stage['schedule']!r}"
    if stage["schedule"] == "cosine" and not 0 <= stage["warmup"] < stage["steps"]:
        yield f"warmup: must be below steps ({stage['steps']}), is {stage['warmup']}"
    if stage["strategy"] not in ("pmap", "mesh"):
        yield f"strategy: must be pmap or mesh, is {stage['strategy']!r}"


def _is_rate(pair) -> bool:
    return (
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and isinstance(pair[1], int | float)
        and pair[1] > 0
    )


def _is_bucket(sizes) -> bool:
    return (
        isinstance(sizes, tuple | list)
        and len(sizes) == 3
        and all(type(n) is int and n > 0 for n in sizes)
    )

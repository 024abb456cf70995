"""An invalid config is refused before anything is built, and the message says why."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from slava_jax import main
from slava_jax.config import ConfigError, default_config
from slava_jax.train.datasets import ON_DISK
from slava_jax.train.settings import check

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))


def quickstart() -> ConfigDict:
    return get("quickstart")


def get(name: str) -> ConfigDict:
    config = importlib.import_module(f"configs.{name}").get_config()
    if config.data.name in ON_DISK:
        config.data.folder = "somewhere"  # given by the user
    if name == "teacher":  # has one more group, which its own command checks
        with config.unlocked():
            del config.teacher
    return config


@pytest.mark.parametrize("name", NAMES)
def test_every_config_can_be_used(name):
    config = get(name)
    if config.start_from.vision:  # the shape comes from the weights
        config.vit.layers = config.vit.frozen_layers
    check(config)
    check(ConfigDict(config.to_dict()))  # a user's own, written from scratch
    check(json.loads(config.to_json()))  # as a work directory keeps it
    assert config.is_locked


def test_every_key_has_a_value_in_the_default():
    check(default_config())


def refusal(config) -> str:
    with pytest.raises(ConfigError) as caught:
        check(config)
    return str(caught.value)


def test_unknown_and_missing_keys_are_all_listed():
    config = ConfigDict(quickstart().to_dict())
    config.visoin = 1
    config.assistant.stpes = 3
    config.assistant.foo_bar_baz = 3
    del config.language.warmup
    del config.language_model
    text = refusal(config)
    assert "visoin: unknown (did you mean vision?)" in text
    assert "assistant.stpes: unknown (did you mean assistant.steps?)" in text
    assert "assistant.foo_bar_baz: unknown (known: always, asked_weight" in text
    assert "language.warmup: missing" in text
    assert "language_model: missing" in text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vision.steps", 2.5, "vision.steps: must be a whole number, is 2.5"),
        ("vision.steps", True, "vision.steps: must be a whole number, is True"),
        ("vision.learning_rate", "1e-3", "vision.learning_rate: must be a number, is '1e-3'"),
        ("image.augmentation.flips", 1, "image.augmentation.flips: must be True or False, is 1"),
        ("assistant.always", "class", "assistant.always: must be a tuple, is 'class'"),
        ("data", 3, "data: must be a group of settings, is 3"),
        ("seed", {"a": 1}, "seed: must be a whole number"),
        (
            "stages",
            ("vision", "langauge"),
            "stages: must be some of vision, language, alignment",
        ),
        ("stages", (), "stages: must be some of"),
        ("dtype", "float8", "dtype: must be float32 or bfloat16, is 'float8'"),
        ("seed", -1, "seed: must be 0 or more, is -1"),
        ("data.seed", -1, "data.seed: must be 0 or more, is -1"),
        ("data.name", "sme", "data.name: must be one of procedural, elpv, folder, sem, neu, cmi,"),
        ("data.name", "sem", "data.folder: must name the folder of your images"),
        ("data.crop_bar", True, "data.crop_bar: must be False, because 'procedural' does not"),
        ("data.name", "folder", "data.folder: must name the folder of your images"),
        ("data.images_per_category", 2, "data.images_per_category: must be 3 or more"),
        ("data.size", 48, "data.size: must be 64 or more, is 48"),
        ("tokenizer.vocab_size", 100, "tokenizer.vocab_size: must be 260 or more, is 100"),
        ("image.augmentation.shift", -1, "image.augmentation.shift: must be 0 or more"),
        ("assistant.microbatches", 3, "assistant.microbatches: must divide batch_size, 32"),
        ("assistant.microbatches", 0, "assistant.microbatches: must be 1 or more, is 0"),
        ("assistant.pair_block", 5, "assistant.pair_block: must be 2 or more and divide"),
        ("assistant.turns", 2, "assistant.turns: must be 1, because model 'slava' writes one answer"),
        ("evaluation.pair_block", 1, "evaluation.pair_block: must be 2 or more and divide"),
        (
            "evaluation.ranks",
            (4, 17),
            "evaluation.ranks: must be whole numbers in 1..adapter.r_max",
        ),
        ("remat", "some", "remat must be one of none, dots, adapters, full, got 'some'"),
        ("assistant.buckets", (48, 16), "assistant.buckets: must be triples of whole numbers"),
        ("assistant.buckets", (), "assistant.buckets: must be triples of whole numbers"),
        ("assistant.buckets", ((88, 52, 1), (36, 8, 2)), "buckets: the last one must be the large"),
        ("connector.kind", "foo", "connector.kind must be one of linear, mlp, got 'foo'"),
        ("template", "foo", "template must be one of plain, vicuna_v1"),
        ("data.shots", (1, 4), "data.shots: 4 examples and the image need a bucket of 5"),
        ("data.challenges", ("intra_class",), "data.challenges: needs a bucket of 3 images"),
        ("vision.smoothing", 1.0, "vision.smoothing: must be 0 or more and below 1, is 1.0"),
        (
            "assistant.rates",
            (("vit/**", -0.1),),
            "assistant.rates: must be pairs of a path pattern",
        ),
        ("assistant.rates", (("!vit/**", 0.1),), "assistant.rates: must be pairs of a path"),
        ("stages", ("vision", "language", "alignment", "assistant"), "needs model 'inline'"),
        ("assistant.trainable", (3,), "assistant.trainable: must be path patterns"),
        ("assistant.tasks", ("poem",), "assistant.tasks: must be some of classification, caption"),
        ("stages", ("assistant", "vision"), "in this order, is ('assistant', 'vision')"),
        ("stages", ("vision", "alignment"), "stages: 'alignment' needs model 'inline'"),
        ("model", "bert", "model: must be one of slava, inline, is 'bert'"),
        ("vision.schedule", "linear", "vision.schedule: must be constant or cosine, is 'linear'"),
        ("vision.warmup", 1500, "vision.warmup: must be below steps"),
        ("language.strategy", "jit", "language.strategy: must be pmap or mesh, is 'jit'"),
        ("language.eval_every", 0, "language.eval_every: must be 1 or more, is 0"),
        ("language.learning_rate", 0.0, "language.learning_rate: must be above 0, is 0.0"),
        ("decoder", "foo", "decoder must be 'transformer' or 'llama', got 'foo'"),
        ("vit.patch", 100, "vit.image_size must be a multiple of vit.patch"),
        ("language_model.kv_heads", 3, "language_model.kv_heads must divide heads"),
        ("adapter.r_min", 17, "adapter ranks need 1 <= r_min <= r_max"),
        ("vit.patch", 0, "vit: sizes must be 1 or more"),
        ("vit.channels", 2, "channels 1 or 3"),
        ("vit.patch", 28, "vit.patch must be a multiple of 8 for the frontend 'gradients'"),
        ("language_model.kv_heads", 0, "language_model: sizes must be 1 or more"),
        ("adapter.experts", -1, "adapter.experts must be 1 or more"),
        ("vision.optimizer", "adamw", "vision.optimizer: must be adam or muon, is 'adamw'"),
        ("evaluation.batch_size", 0, "evaluation.batch_size: must be 1 or more, is 0"),
        ("evaluation.classification", 0, "evaluation.classification: must be 1 or more, is 0"),
        ("evaluation.examples", -1, "evaluation.examples: must be 0 or more, is -1"),
        ("image.augmentation.shift", 224, "must be 0 or more and below vit.image_size, 224"),
        ("data.question", "<image> Is it gold?", "data.question: must not contain <image>"),
        ("data.challenges", ([1],), "data.challenges: must be some of intra_class"),
        ("adapter.router", "none", "adapter.router must be 'projected' or 'hidden'"),
    ],
)
def test_each_wrong_value_is_named(key, value, message):
    settings = quickstart().to_dict()
    group = settings
    *path, last = key.split(".")
    for name in path:
        group = group[name]
    if key == "vision.warmup":
        value = settings["vision"]["steps"]
    group[last] = value
    assert message in refusal(settings)


def test_an_assistant_alone_needs_the_stages_before_it():
    config = quickstart()
    config.stages = ("assistant",)
    text = refusal(config)
    assert "start_from.vision: must be a work directory with a finished vision stage" in text
    assert "start_from.language: must be" in text
    config.start_from.update(vision="a", language="b")
    check(config)


def test_a_stage_that_does_not_run_is_not_checked():
    config = quickstart()
    config.stages = ("vision",)
    config.assistant.warmup = 10**6
    check(config)


def test_a_misspelt_key_in_a_config_file_is_an_error_where_it_stands():
    config = quickstart()
    with pytest.raises(AttributeError, match="visoin"):
        config.visoin.steps = 3
    with pytest.raises(KeyError, match="stpes"):
        config.vision.update(stpes=3)


CONFIG_FILE = """
from configs.quickstart import get_config as quickstart

def get_config():
    config = quickstart()
    config.vision.stpes = 3
    return config
"""


@pytest.mark.parametrize("case", ["flag", "file", "value"])
def test_the_command_line_says_it_in_one_line(tmp_path, case):
    (tmp_path / "mine.py").write_text(CONFIG_FILE)
    arguments, message = {
        "flag": (
            ["--config=configs/quickstart.py", "--config.visoin.steps=3"],
            'error: --config: no setting \'visoin\' (Did you mean "vision" instead of "visoin"?)',
        ),
        "file": (
            [f"--config={tmp_path / 'mine.py'}"],
            f"error: {tmp_path / 'mine.py'}:6: no setting 'stpes' (Did you mean \"steps\"",
        ),
        "value": (["--config=configs/quickstart.py", "--config.decoder=foo"], "got 'foo'"),
    }[case]
    command = [sys.executable, "-m", "slava_jax.main", *arguments, f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "configs/foldr.py", "--workdir=x"], "configs/foldr.py: there is no such "
         "config file; did you mean configs/folder.py?"),
        (["--config=configs/nothing.py", "--workdir=x"], "configs/nothing.py: there is no such "
         "config file"),
        (["--config=configs/llava.py"], "--workdir is missing: give a folder for the run"),
        (["--workdir", "x"], "--config is missing: give a file of configs/"),
    ],
)  # fmt: skip
def test_a_missing_file_or_flag_is_named(monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=f"^error: {re.escape(message)}$"):
        main.parse_flags(["slava train", *arguments])


def test_arguments_of_a_config_file_are_no_part_of_its_name(tmp_path):
    (tmp_path / "mine.py").touch()
    main.check_files(["slava train", f"--config={tmp_path / 'mine.py'}:large", "--workdir=x"])

"""Invalid input to a run gives one clear error, as early as possible, and nothing is lost."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nltk
import numpy as np
import pytest
from nltk.corpus import wordnet
from PIL import Image
from tiny_run import get_config

from slava_jax import hosts
from slava_jax.checkpoint import CheckpointError
from slava_jax.config import ConfigError
from slava_jax.data.datasets.base import DataError
from slava_jax.data.images import ImageError
from slava_jax.data.instructions import InstructionError, read_jsonl, write_jsonl
from slava_jax.data.pipeline import PipelineError
from slava_jax.errors import UserError
from slava_jax.eval import text_metrics
from slava_jax.eval.wordnet import WordNetError
from slava_jax.train.datasets import prepare
from slava_jax.train.loop import run
from slava_jax.train.stages import check_batches
from slava_jax.train.workdir import CONFIG, WorkdirError, claim

HERE = Path(__file__).parent


def refusal(config, workdir, kind) -> str:
    with pytest.raises(kind) as caught:
        run(config, workdir)
    assert isinstance(caught.value, UserError)  # main prints these without a traceback
    return str(caught.value)


def one_stage(name="vision"):
    config = get_config()
    config.stages = (name,)
    return config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A work directory with data, but nothing trained."""
    workdir = tmp_path_factory.mktemp("prepared")
    prepare(get_config(), workdir)
    return workdir


@pytest.fixture
def workdir(prepared, tmp_path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "run"))


def images(folder: Path, each: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for label in ("round", "square"):
        (folder / label).mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 255, (20, 20), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


def on_folder(folder: Path):
    config = one_stage()
    config.data.update(name="folder", folder=str(folder), size=32)
    return config


def test_a_test_question_that_no_batch_has_room_for_is_named_before_anything_is_trained(workdir):
    path = workdir / "data" / "instructions" / "test.jsonl"
    first, *others = read_jsonl(path)
    write_jsonl(path, [dataclasses.replace(first, answer="very long " * 300), *others])
    assert f"{first.id!r}: needs" in refusal(get_config(), workdir, PipelineError)
    assert not (workdir / "vision").exists()


@pytest.mark.parametrize("stage", ["vision", "language"])
def test_too_little_data_for_a_batch_is_named_before_anything_is_trained(tmp_path, stage):
    """The same work directory takes the smaller batches that the error asks for."""
    config = get_config()
    config[stage].batch_size = 10_000
    with pytest.raises(PipelineError, match=rf"^{stage}: .*--config\.{stage}\.batch_size=N"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    assert not (tmp_path / "run" / "vision").exists()


def test_the_work_directory_of_another_config_lists_what_differs(tmp_path):
    config = on_folder(images(tmp_path / "images", each=12))
    workdir = tmp_path / "run"
    claim(workdir, config, finished=False)
    before = (workdir / "config.json").read_bytes()
    other = config.copy_and_resolve_references()
    other.vision.steps = 77
    other.stages = ("language",)
    text = refusal(other, workdir, WorkdirError)
    assert "vision.steps: 8 there, 77 now" in text
    assert "stages: ['vision'] there, ['language'] now" in text
    assert text.count("\n") == 2
    assert (workdir / "config.json").read_bytes() == before


def test_a_corrected_path_may_take_the_same_directory(tmp_path):
    refusal(on_folder(tmp_path / "imagse"), tmp_path / "run", DataError)
    assert run(on_folder(images(tmp_path / "images", each=12)), tmp_path / "run")


def test_a_work_directory_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    assert "cannot be created" in refusal(one_stage(), tmp_path / "run", WorkdirError)


@pytest.mark.parametrize("content", [b"not an image", None])
def test_a_file_that_is_no_image_or_truncated_is_named(tmp_path, content):
    folder = images(tmp_path / "images")
    bad = folder / "square" / "2.png"
    bad.write_bytes(content or bad.read_bytes()[:200])
    assert str(bad) in refusal(on_folder(folder), tmp_path / "run", ImageError)
    bad.unlink()  # then the same command resumes
    bad.write_bytes((folder / "square" / "1.png").read_bytes())
    prepare(on_folder(folder), tmp_path / "run")


def test_an_empty_folder_and_a_class_too_small_for_three_splits(tmp_path):
    (tmp_path / "empty").mkdir()
    text = refusal(on_folder(tmp_path / "empty"), tmp_path / "a", DataError)
    assert f"{tmp_path / 'empty'}: has neither class folders nor" in text
    text = refusal(on_folder(images(tmp_path / "few", each=2)), tmp_path / "b", DataError)
    assert "class 'round' has 2 image(s) (round/" in text and "but needs 3, one each for" in text
    assert "did you mean" not in text
    assert "is not a folder" in refusal(on_folder(tmp_path / "none"), tmp_path / "c", DataError)


def test_a_line_that_breaks_the_schema_is_named_by_file_and_line(workdir):
    path = workdir / "data/instructions/train.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[4] = lines[4].replace('"answer"', '"anwser"')
    path.write_text("".join(lines))
    text = refusal(one_stage("language"), workdir, InstructionError)
    assert f"{path}:5" in text
    assert "answer" in text


@pytest.mark.parametrize("missing", ["vision", "language"])
def test_a_stage_to_start_from_that_was_not_run(tmp_path, missing):
    """Detected before the other stage is trained; nothing is written."""
    config = get_config()
    config.stages = tuple(name for name in config.stages if name != missing)
    config.start_from[missing] = str(tmp_path / "other")
    text = refusal(config, tmp_path / "run", CheckpointError)
    assert f"no finished {missing} stage; run it first" in text
    assert f"--config configs/{missing}.py --workdir {tmp_path / 'other'}" in text
    assert not (tmp_path / "run").exists()


def test_how_a_run_is_evaluated_may_change_until_it_has_a_report(tmp_path, monkeypatch):
    config, workdir = get_config(), tmp_path / "run"
    assert claim(workdir, config)
    config.evaluation.batch_size = 4
    config.image.update(cache_mb=7, states="elsewhere")
    assert not claim(workdir, config)
    held = json.loads((workdir / CONFIG).read_text())
    assert held["evaluation"]["batch_size"] == 4 and held["image"]["cache_mb"] == 7
    config.evaluation.batch_size = 2
    with pytest.raises(
        WorkdirError, match=r"or only its report\.html to evaluate.*\n.*size: 4 there, 2"
    ):
        claim(workdir, config, finished=True)
    monkeypatch.setattr(hosts, "is_first", lambda: False)  # other hosts follow the first
    with pytest.raises(WorkdirError, match="size: 4 there, 2 now"):
        claim(workdir, config)
    monkeypatch.undo()
    config.assistant.steps += 1
    with pytest.raises(
        WorkdirError, match=r"delete that one\. Different:\n  assistant\.steps: 8"
    ) as e:
        claim(workdir, config)
    assert "batch_size" not in str(e.value)
    assert json.loads((workdir / CONFIG).read_text()) == held


@pytest.mark.parametrize("name", ["vision", "language"])
def test_a_start_that_nothing_starts_from_is_no_silent_one(tmp_path, name):
    """A mistyped path, or a run where only converted weights are possible."""
    config = get_config()
    config.start_from[name] = str(tmp_path / "typo")
    text = refusal(config, tmp_path / "run", ConfigError)
    assert f"start_from.{name}: {tmp_path / 'typo'} would be unused" in text
    assert not (tmp_path / "run").exists()


def test_a_stage_that_saw_the_test_images_is_refused(tmp_path):
    """The same folder with another seed has another split."""
    config, before = on_folder(tmp_path), tmp_path / "before"
    claim(before, config)
    config.data.seed += 1
    config.stages = ("assistant",)
    config.start_from.update(vision=str(before), language=str(before))
    text = refusal(config, tmp_path / "run", ConfigError)
    assert "trained on another split of the same images" in text
    assert "data.seed: 0 there, 1 here" in text
    assert not (tmp_path / "run").exists()


def test_no_wordnet_is_noticed_before_anything_is_made(tmp_path, monkeypatch):
    """NLTK looks into an empty folder, as on a machine without it."""
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    fresh = nltk.corpus.util.LazyCorpusLoader(
        "wordnet", nltk.corpus.reader.wordnet.WordNetCorpusReader, None
    )
    monkeypatch.setattr(text_metrics, "wordnet", fresh)
    text_metrics._wordnet.cache_clear()
    try:
        text = refusal(get_config(), tmp_path / "run", WordNetError)
    finally:
        text_metrics._wordnet.cache_clear()
    assert "slava wordnet" in text
    assert not (tmp_path / "run").exists()
    assert wordnet is not fresh


LITTLE_ROOM = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import test_fit
from slava_jax.checkpoint import CheckpointError
from slava_jax.train.fit import fit

test_fit.MODEL = test_fit.Linear(1024)
directory, stage = Path(sys.argv[2]), test_fit.make_stage()
try:
    fit(test_fit.make_stage(bad={7: KeyboardInterrupt()}), directory, 0)
except KeyboardInterrupt:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
try:
    fit(stage, directory, 0)
except CheckpointError as error:
    print(error)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
fit(stage, directory, 0)
print([entry["step"] for entry in test_fit.read_history(directory)])
"""


def test_a_full_disk_keeps_the_checkpoint_and_the_run_goes_on_with_room(tmp_path):
    """A file size limit replaces the full disk, because it needs no privileges."""
    arguments = [str(HERE), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", LITTLE_ROOM, *arguments],
        capture_output=True, text=True, timeout=200, cwd=HERE.parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    message, steps = done.stdout.strip().rsplit("\n", 1)
    assert message.startswith("checkpoint of step 9 (step 6 is kept): cannot be written to")
    assert steps == "[3, 6, 9, 12]"


def test_pairs_that_no_device_has_whole_are_refused_at_once(tmp_path):
    """Not after two stages: under `pmap` a device only sees its own rows."""
    config = get_config()
    config.assistant.pair_block = 4
    text = refusal(config, tmp_path / "run", PipelineError)
    assert text.startswith("assistant: batch size 16 is not a multiple of 1 host(s) x 4 device(s)")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mesh_model": 3}, "vision: mesh_model 3 does not divide the 4 device(s)"),
        ({"batch_size": 6}, "vision: batch size 6 is not a multiple of 1 microbatch(es) x 4"),
        ({"batch_size": 8, "microbatches": 4}, "vision: batch size 8 is not a multiple of 4 micro"),
    ],
)
def test_a_batch_that_a_mesh_cannot_share_is_refused_at_once(settings, message, tmp_path):
    config = get_config()
    config.vision.update(strategy="mesh", **settings)
    assert refusal(config, tmp_path / "run", PipelineError).startswith(message)
    assert not (tmp_path / "run").exists()
    config.vision.update(mesh_model=2, batch_size=8, microbatches=4)
    check_batches(config)

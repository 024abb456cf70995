"""`fit` on a toy stage: checkpoints, stopping, and that a resumed run gives the same results."""

import json
import os
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from slava_jax.checkpoint import CheckpointError, Checkpoints, load_tree
from slava_jax.config import default_config
from slava_jax.train.fit import Plateau, Stage, TrainingError, best_params, fit
from slava_jax.train.logging import read_history
from slava_jax.train.recipes import Vision


class Linear(nn.Module):
    """Compiles fast; test_kill.py runs the real stages."""

    width: int = 8

    @nn.compact
    def __call__(self, images):
        x = images.reshape(images.shape[0], -1) / 127.5 - 1
        return nn.Dense(2, name="head")(nn.Dense(self.width, name="in")(x))


MODEL = Linear()
ROWS = 8  # two for each of the four devices of conftest.py


def batch(seed: int, **changes) -> dict:
    """Dark images of class 0 and light ones of class 1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, ROWS).astype(np.int32)
    images = rng.integers(0, 100, (ROWS, 8, 8, 1)) + 150 * labels[:, None, None, None]
    rows = np.arange(ROWS, dtype=np.uint32)
    return {"images": images.astype(np.uint8), "labels": labels, "example_id": rows, **changes}


class Batches:
    """`bad`: {position: replacement of that batch; an exception is raised}."""

    def __init__(self, steps: int, bad: dict | None = None):
        self.steps, self.bad = steps, bad or {}

    def __len__(self):
        return self.steps

    def __getitem__(self, i):
        held = self.bad.get(i)
        if isinstance(held, BaseException):
            raise held
        return held if held is not None else batch(i)


def make_stage(bad=None, validation=None, held=None, **changes) -> Stage:
    config = default_config().vision
    settings = {"steps": 12, "batch_size": ROWS, "warmup": 2, "eval_every": 3}
    config.update({**settings, "learning_rate": 1e-2, **changes})
    params = MODEL.init(jax.random.key(0), batch(0)["images"])["params"]
    held_out = [batch(100)] if validation is None else validation
    batches = Batches(config.steps, bad)
    return Stage("vision", config, Vision(MODEL), params, held or {}, batches, held_out)


def files(directory) -> dict:
    """The files of a finished stage, except the event files, which contain times."""
    out = {"history": (directory / "history.jsonl").read_bytes()}
    for name in ("last", "best"):
        step = Checkpoints(directory / name).latest()
        arrays, facts = load_tree(directory / name / str(step))
        leaves = jax.tree_util.tree_leaves_with_path(arrays)
        out[name] = (step, facts, {jax.tree_util.keystr(p): a.tobytes() for p, a in leaves})
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    directory = tmp_path_factory.mktemp("whole")
    params = fit(make_stage(), directory, 0)
    return directory, params


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_it_learns_and_returns_the_best(whole):
    directory, params = whole
    history = read_history(directory)
    assert [entry["step"] for entry in history] == [3, 6, 9, 12]
    losses = [entry["val_loss"] for entry in history]
    assert losses[-1] < losses[0]
    best = Checkpoints(directory / "best")
    assert best.latest() == history[int(np.argmin(losses))]["step"]
    assert same(params, best.restore(params)[1])


def test_a_finished_stage_is_not_trained_again(whole):
    directory, params = whole
    before = files(directory)
    again = fit(make_stage(bad=dict.fromkeys(range(12), RuntimeError("read"))), directory, 0)
    assert same(params, again)
    assert files(directory) == before


@pytest.mark.parametrize("position", [1, 3, 7, 11])
def test_an_interrupted_run_ends_as_if_it_had_not_been(whole, tmp_path, position):
    with pytest.raises(KeyboardInterrupt):
        fit(make_stage(bad={position: KeyboardInterrupt()}), tmp_path, 0)
    params = fit(make_stage(), tmp_path, 0)
    assert same(params, whole[1])
    assert files(tmp_path) == files(whole[0])


def cut(folder: Path) -> Path:
    """Halves the largest file of a checkpoint, as a power cut can."""
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    return largest


@pytest.mark.parametrize("damaged", [("last",), ("best",), ("last", "best")])
def test_a_damaged_checkpoint_is_replaced_by_training_from_the_one_before(
    whole, tmp_path, capsys, damaged
):
    """The largest steps of a finished stage; it says which file, and ends with the same numbers."""
    shutil.copytree(whole[0], tmp_path / "run")
    files_cut = [cut(tmp_path / "run" / name / "12") for name in damaged]
    assert same(fit(make_stage(), tmp_path / "run", 0), whole[1])
    said = capsys.readouterr().err
    assert all(f"{file}: damaged" in said for file in files_cut)
    assert "Training goes on from step 9" in said
    assert files(tmp_path / "run") == files(whole[0])


def test_without_a_whole_checkpoint_the_damaged_files_are_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(make_stage(bad={4: KeyboardInterrupt()}), tmp_path, 0)
    file = cut(tmp_path / "last" / "3")
    with pytest.raises(CheckpointError, match=rf"{file}: damaged.*\n.*delete {tmp_path} to train"):
        fit(make_stage(), tmp_path, 0)
    assert file.exists()


def test_a_damaged_best_without_a_last_is_made_again(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(make_stage(bad={4: KeyboardInterrupt()}), tmp_path, 0)
    shutil.rmtree(tmp_path / "last" / "3")
    cut(tmp_path / "best" / "3")
    assert same(fit(make_stage(), tmp_path, 0), whole[1])


def test_killed_between_the_best_and_the_last_checkpoint(whole, tmp_path):
    """`best` is then ahead of `last`; the resumed run reaches the same step again."""
    with pytest.raises(KeyboardInterrupt):
        fit(make_stage(bad={10: KeyboardInterrupt()}), tmp_path, 0)
    history = [json.loads(line) for line in (whole[0] / "history.jsonl").read_text().splitlines()]
    assert min(history, key=lambda entry: entry["val_loss"])["step"] == 12
    best = Checkpoints(whole[0] / "best")
    ahead = best.restore(whole[1])
    Checkpoints(tmp_path / "best").save(12, ahead[1], ahead[2])
    assert same(fit(make_stage(), tmp_path, 0), whole[1])
    assert files(tmp_path) == files(whole[0])


@pytest.mark.parametrize("position", [7, 12])
def test_other_frozen_weights_are_refused_on_the_way_and_at_the_end(tmp_path, position):
    """The base changed between kill and resumption; once restored, the stage resumes."""
    llama = {"kernel": np.zeros(2)}
    base, other = (
        {"frozen": {"stem": {"kernel": np.full((2, 3), n, np.int8)}, "language_model": llama}}
        for n in (1, 2)
    )
    if position < 12:
        with pytest.raises(KeyboardInterrupt):
            fit(make_stage({position: KeyboardInterrupt()}, held=base), tmp_path, 0)
    else:
        fit(make_stage(held=base), tmp_path, 0)
    with pytest.raises(CheckpointError, match=r"started with other frozen weights \(frozen/stem\)"):
        fit(make_stage(held=other), tmp_path, 0)
    fit(make_stage(held=base), tmp_path, 0)


def flat_validation():
    """The training classes swapped: the better the model, the higher this loss."""
    wrong = batch(100)
    return [{**wrong, "labels": 1 - wrong["labels"]}]


def test_a_plateau_halves_the_rate_and_then_stops(tmp_path):
    stage = make_stage(
        steps=60, eval_every=5, patience=2, stop_patience=5, schedule="constant",
        validation=flat_validation(),
    )  # fmt: skip
    fit(stage, tmp_path, 0)
    history = read_history(tmp_path)
    losses = [entry["val_loss"] for entry in history]
    first_best = int(np.argmin(losses))
    assert len(losses) == first_best + 6 < 12  # stopped, five flat validations later
    arrays, facts = load_tree(tmp_path / "last" / str(history[-1]["step"]))
    assert facts["done"]
    assert facts["plateau"]["scale"] == arrays["lr_scale"] == 0.25
    assert Checkpoints(tmp_path / "best").latest() == history[first_best]["step"]


def test_the_rate_is_the_halved_one_in_the_run_that_halves_it_and_in_one_resumed(tmp_path):
    settings = {
        "steps": 40, "eval_every": 5, "schedule": "constant", "patience": 1, "stop_patience": 9,
        "validation": flat_validation(),
    }  # fmt: skip
    first = tmp_path / "first"
    fit(make_stage(**settings), first, 0)
    halved = [e["step"] for e in read_history(first) if e["val_loss"] > 0][1]
    second = tmp_path / "second"
    with pytest.raises(KeyboardInterrupt):
        fit(make_stage(bad={halved + 1: KeyboardInterrupt()}, **settings), second, 0)
    fit(make_stage(**settings), second, 0)
    assert load_tree(second / "last" / "40")[0]["lr_scale"] < 0.5
    assert files(first) == files(second)
    unhalved = tmp_path / "unhalved"
    fit(make_stage(**{**settings, "patience": 99, "stop_patience": 99}), unhalved, 0)
    assert files(unhalved)["history"] != files(first)["history"]


def test_plateau_counts():
    plateau = Plateau(patience=2, stop=4)
    assert plateau.update(1.0)
    scales = []
    for loss in (1.0, 1.5, 0.5, 0.6, 0.6, 0.6):
        plateau.update(loss)
        scales.append(plateau.scale)
    assert scales == [1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert not plateau.exhausted
    plateau.update(0.6)
    assert plateau.exhausted


def poisoned(i: int) -> dict:
    return {**batch(i), "images": np.full((ROWS, 8, 8, 1), np.nan, np.float32)}


def test_a_loss_that_is_not_finite_names_step_and_batch_and_keeps_the_checkpoints(tmp_path):
    with pytest.raises(TrainingError) as caught:
        fit(make_stage(bad={7: poisoned(7)}), tmp_path, 0)
    text = str(caught.value)
    assert text.startswith("vision: grad_norm, loss not finite")
    assert "at step 8," in text
    assert f"rows {list(range(ROWS))}" in text
    assert str(tmp_path) in text
    assert Checkpoints(tmp_path / "last").latest() == 6
    for name in ("last", "best"):
        arrays = load_tree(tmp_path / name / "6")[0]
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(arrays))
    assert [entry["step"] for entry in read_history(tmp_path)] == [3, 6]


def test_the_last_step_before_a_checkpoint_is_checked_too(tmp_path):
    with pytest.raises(TrainingError, match="step 6,"):
        fit(make_stage(bad={5: poisoned(5)}), tmp_path, 0)
    assert Checkpoints(tmp_path / "last").latest() == 3


def test_a_run_with_the_bad_batch_mended_ends_as_an_undisturbed_one(whole, tmp_path):
    with pytest.raises(TrainingError):
        fit(make_stage(bad={7: poisoned(7)}), tmp_path, 0)
    assert same(fit(make_stage(), tmp_path, 0), whole[1])
    assert files(tmp_path) == files(whole[0])


def test_a_validation_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match="step 3, in validation"):
        fit(make_stage(validation=[poisoned(0)]), tmp_path, 0)
    assert Checkpoints(tmp_path / "last").latest() is None


def test_the_description_of_a_batch_is_the_stages_own(tmp_path):
    stage = make_stage(bad={0: poisoned(0)})
    named = Stage(**{**vars(stage), "describe": lambda _: "instructions a/class, b/vqa"})
    with pytest.raises(TrainingError, match="instructions a/class, b/vqa"):
        fit(named, tmp_path, 0)


def test_best_params_of_another_run(whole, tmp_path):
    directory, params = whole
    assert same(best_params(make_stage(), directory), params)
    with pytest.raises(CheckpointError, match=r"--config configs/vision.py --workdir"):
        best_params(make_stage(), tmp_path / "vision")
    wide = Linear(16).init(jax.random.key(0), batch(0)["images"])["params"]
    with pytest.raises(
        CheckpointError, match=r"used another model or other data: train its vision"
    ):
        best_params(Stage(**{**vars(make_stage()), "params": wide}), directory)


def test_an_unfinished_stage_is_no_start(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(make_stage(bad={7: KeyboardInterrupt()}), tmp_path, 0)
    with pytest.raises(CheckpointError, match="no finished vision stage"):
        best_params(make_stage(), tmp_path)

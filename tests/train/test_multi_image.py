"""A whole run with several images per prompt, and its batches."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_run import get_config

from slava_jax.config import ConfigError
from slava_jax.data.instructions import read_jsonl
from slava_jax.inference.assistant import load_assistant
from slava_jax.teacher.multi_image import CHALLENGES, PERMUTED
from slava_jax.teacher.sources import read_groups
from slava_jax.train.datasets import open_image_sets, prepare, with_multi_image
from slava_jax.train.loop import run
from slava_jax.train.settings import check
from slava_jax.train.test_split import TestSplit


def config():
    c = get_config()
    c.data.shots = (1, 3)
    c.data.challenges = CHALLENGES
    c.assistant.buckets = ((400, 300, 4),)  # a single one compiles faster
    c.assistant.update(per_image=6, always=("class", "few_shot"), batch_size=8, microbatches=1)
    c.assistant.update(steps=2 * jax.device_count(), warmup=2, eval_every=4)
    c.evaluation.several = 4
    return c


@pytest.mark.slow
def test_a_whole_run(tmp_path):
    """One test, so that the run happens once for any number of workers."""
    finished = tmp_path / "run", run(config(), tmp_path / "run")
    examples_are_training_images_and_targets_of_the_split(finished)
    few_shot_stands_beside_its_controls_and_challenges_beside_theirs(finished)
    a_picture_shows_what_was_chosen(finished)
    the_tokenizer_knows_the_words_of_such_prompts(finished)
    a_trained_assistant_is_asked_about_several_images(finished)


@pytest.mark.slow
def test_a_run_on_images_that_only_have_labels_leaves_groups_for_a_teacher(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("gold", "tin", "zinc"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (32, 32), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    c = get_config()
    c.stages = ("vision",)
    c.data.update(name="folder", folder=str(tmp_path / "images"), size=32, challenges=CHALLENGES)
    run(c, tmp_path / "run")
    sets = open_image_sets(c, tmp_path / "run" / "data")
    groups = read_groups(str(tmp_path / "run" / "groups.jsonl"), sets, CHALLENGES)
    assert {group.images[-1] for group in groups} == {k for s in sets.values() for k in s.index}
    assert all(set(group.images[:-1]) <= set(sets["train"].index) for group in groups)
    assert {group.kind for group in groups} == set(CHALLENGES)


def examples_are_training_images_and_targets_of_the_split(finished):
    workdir, _ = finished
    folder = workdir / "data" / "instructions"
    own = {
        name: {item.target for item in read_jsonl(folder / f"{name}.jsonl")}
        for name in ("train", "validation", "test")
    }
    for name, keys in own.items():
        items = read_jsonl(folder / f"{name}-multi_image.jsonl")
        assert {item.target for item in items} == keys
        assert all(set(item.images[:-1]) <= own["train"] for item in items)
        kinds = {item.question_type for item in items}
        permuted = {"few_shot_permuted"} if name == "test" else set()  # not used to select a model
        assert kinds == {"few_shot", *CHALLENGES} | permuted


def few_shot_stands_beside_its_controls_and_challenges_beside_theirs(finished):
    workdir, metrics = finished
    assert json.loads((workdir / "metrics.json").read_text()) == metrics
    for count in (1, 3):
        name = f"classification_few_shot_{count}"
        for control in ("", "_permuted", "_zero_shot", "_majority"):
            assert metrics[f"{name}{control}.n"] == metrics["classification.n"] == 8
        gain = metrics[f"{name}.top1"] - metrics[f"{name}_zero_shot.top1"]
        assert metrics[f"{name}.minus_zero_shot"] == pytest.approx(gain)
        assert metrics[f"{name}_zero_shot.top1"] == metrics["classification.top1"]
    for kind in CHALLENGES:
        for control in ("", "_shuffled", "_zero_b", "_untrained"):
            assert 0 < metrics[f"{kind}{control}.n"] <= 4
            assert f"{kind}{control}.rougeL" in metrics
        assert f"lm.nats_per_token.{kind}" in metrics


def test_controls_of_few_shot_are_of_the_images_that_are_asked_without_examples(tmp_path):
    c = config()
    datasets = prepare(c, tmp_path)
    embedded = {
        name: np.random.default_rng(0).normal(size=(len(getattr(datasets, name).images), 4))
        for name in ("train", "validation", "test")
    }
    datasets = with_multi_image(c, datasets, embedded, tmp_path)
    held = datasets.test
    kept = [i for i, item in enumerate(held.instructions) if i > 1]  # one image has no question
    kept += kept[:30]  # and one has two
    test = TestSplit.of(
        c,
        replace(
            datasets,
            test=replace(
                held,
                instructions=[held.instructions[i] for i in kept],
                examples=[held.examples[i] for i in kept],
            ),
        ),
    )
    data = test.data
    asked = data.targets[test.class_rows].tolist()
    assert len(asked) == 8
    for kind, rows_of in (("few_shot", test.few_shot_rows), (PERMUTED, test.permuted_rows)):
        for count, rows in rows_of.items():
            assert data.targets[rows].tolist() == asked
            items = [data.instructions[row] for row in rows]
            assert {(i.question_type, i.metadata["shots"]) for i in items} == {(kind, count)}


def a_picture_shows_what_was_chosen(finished):
    workdir, _ = finished
    with Image.open(workdir / "neighbours.png") as sheet:
        assert sheet.width > 10 * 128 and sheet.height > 10 * 128  # 1 + 3 x 3 pictures, ten rows


def the_tokenizer_knows_the_words_of_such_prompts(finished):
    workdir, _ = finished
    assistant = load_assistant(workdir)
    assert len(assistant.tokenizer.tokenize(" shows")) < len(" shows")


def a_trained_assistant_is_asked_about_several_images(finished):
    workdir, _ = finished
    assistant = load_assistant(workdir)
    rng = np.random.default_rng(0)
    pixels = list(rng.integers(0, 256, (3, 32, 32, 1), dtype=np.uint8))
    question = "<image> shows Tips. <image> shows Powder. <image> What is it?"
    batch = assistant.prompts([pixels, pixels[:1]], [question, "What is it?"])
    assert batch["images"].shape == (2, 3, 32, 32, 1)
    assert batch["image_index"].max(axis=1).tolist() == [2, 0]
    together = assistant.candidate_scores(batch, ["Tips", "Powder"])
    alone = assistant.prompts([pixels[:1]], ["What is it?"])
    scores = assistant.candidate_scores(alone, ["Tips", "Powder"])
    np.testing.assert_allclose(together[1:], scores, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("shots", (0,), "data.shots: must be whole numbers in 1..8"),
        ("shots", (9,), "data.shots: must be whole numbers in 1..8"),
        ("challenges", ("intraclass",), "data.challenges: must be some of intra_class"),
    ],
)
def test_what_is_refused(key, value, message):
    c = config()
    c.data[key] = value
    with pytest.raises(ConfigError, match=message):
        check(c)

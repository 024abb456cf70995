"""Answers are checked against the truth of the image that they are about."""

import numpy as np
import pytest
from tiny_run import get_config

from slava_jax.data.units import Scale, to_shares, to_units
from slava_jax.train import evaluation, fact_check
from slava_jax.train.datasets import prepare
from slava_jax.train.evaluation import image_statistics
from slava_jax.train.fact_check import FactQuestions, check_facts, judged_answers
from slava_jax.train.test_split import TestSplit


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    config = get_config()
    config.data.update(images_per_category=20, test=0.4)
    config.evaluation.truth = 80
    datasets = prepare(config, tmp_path_factory.mktemp("run"))
    return config, datasets, FactQuestions.of(config, datasets, TestSplit.of(config, datasets))


def repeat_teacher(assistant, test, rows, shown=None, scale=None):
    """Says what the teacher says of the image that is shown, as far as it was asked there."""
    items = {(i.target, i.question, i.task): i.answer for i in test.data.instructions}
    targets = test.data.targets if shown is None else shown
    keys = [test.data.images.keys[targets[row]] for row in rows]
    asked = [test.data.instructions[row] for row in rows]
    said = [
        items.get((key, item.question, item.task), "")
        for key, item in zip(keys, asked, strict=True)
    ]
    if scale is None:
        return said
    facts = [test.data.images.facts[test.data.targets[row]] for row in rows]
    read = (to_shares(text, Scale.of(f)) for text, f in zip(said, facts, strict=True))
    return [to_units(text, scale) for text in read]


def repeats(monkeypatch):
    monkeypatch.setattr(fact_check, "written", repeat_teacher)

    def scored(*arguments):
        texts = repeat_teacher(*arguments)
        return texts, np.zeros(len(texts))

    monkeypatch.setattr(fact_check, "scored_texts", scored)


def test_validation_images_are_asked_about_as_well(held, monkeypatch):
    """Their answers calibrate the probabilities."""
    config, datasets, tested = held
    repeats(monkeypatch)
    test = TestSplit.of(config, datasets)
    questions = FactQuestions.of(config, datasets, test, datasets.validation)
    judged = judged_answers(questions, None)
    assert judged and all(answer.right for answer in judged)
    keys = {questions.test.data.instructions[answer.row].target for answer in judged}
    assert keys <= set(datasets.validation.images.keys)
    assert not keys & {item.target for item in tested.test.data.instructions}


def test_every_class_is_asked_about(held):
    config, datasets, _ = held
    config = config.copy_and_resolve_references()
    config.evaluation.truth = 20
    questions = FactQuestions.of(config, datasets, TestSplit.of(config, datasets))
    labels = questions.test.data.images.labels[questions.test.data.targets[questions.caption_rows]]
    assert np.bincount(labels).tolist() == [2] * 10


def test_a_truthful_assistant_is_right_unless_it_is_shown_another_image(held, monkeypatch):
    _, datasets, questions = held
    repeats(monkeypatch)
    controls = [("", None, False), ("_shuffled", None, True)]
    found = check_facts(questions, datasets, controls, image_statistics(datasets))
    metrics = found.metrics
    assert metrics["truth.right"] == 1 and all(answer.right for answer in found.judged)
    assert metrics["truth_shuffled.right"] < 0.6
    assert metrics["truth.skill"] == metrics["truth_teacher.skill"] > 0.9
    assert metrics["truth_shuffled.skill"] < 0.3
    assert metrics["truth.gain_low"] > 0  # the classical baseline makes mistakes
    for fact in ("mean_size_nm", "count", "artefact_charging"):
        assert metrics[f"truth.{fact}.score"] == 1 and metrics[f"truth.{fact}.missing"] == 0
        assert metrics[f"truth_constant.{fact}.score"] < 0.6
    assert metrics["truth.mean_size_nm.impossible"] == 0
    assert metrics["truth.magnification_given.stated"] == 1
    assert metrics["truth.magnification_given.copied_wrongly"] == 0
    assert metrics["truth.magnification_withheld.stated"] == 0
    assert metrics["truth_captions.right"] == 1 and metrics["truth_captions.n"] > 60
    assert metrics["truth_captions_shuffled.right"] < 0.6
    assert metrics["truth_captions_blind.right"] < 0.6


def test_neither_prompt_states_the_scale(held):
    """It is not the model that repeats it."""
    _, datasets, questions = held
    for row in questions.caption_rows:
        ids = questions.test.data.examples[row].ids
        assert "agnif" not in datasets.tokenizer.decode(ids[: len(ids) // 3])


def test_a_question_is_only_asked_of_images_that_have_the_fact(held):
    _, _, questions = held
    for row in questions.fact_rows:
        item = questions.test.data.instructions[row]
        assert item.metadata["asked"][0] in questions.facts(row), item.question


def test_without_images_of_known_truth_nothing_is_asked(held):
    config, datasets, _ = held
    config = config.copy_and_resolve_references()
    config.evaluation.truth = 0
    assert FactQuestions.of(config, datasets, TestSplit.of(config, datasets)) is None


@pytest.mark.parametrize("wanted", [1, 2, 5])
def test_a_report_shows_as_many_examples_as_asked_for(held, monkeypatch, wanted):
    """Facts first; one or two examples are not rounded to none."""
    config, datasets, questions = held
    repeats(monkeypatch)
    monkeypatch.setattr(evaluation, "written", repeat_teacher)
    config = config.copy_and_resolve_references()
    config.evaluation.examples = wanted
    test = TestSplit.of(config, datasets)
    judged = judged_answers(questions, None)
    right = np.ones(len(test.class_rows), bool)
    shown = evaluation._examples(None, test, right, questions, judged)
    assert len(shown) == wanted
    fact_questions = {i.question.removeprefix("<image> ") for i in questions.test.data.instructions}
    assert shown[0].question in fact_questions

"""Classification scores and the match head's AUC."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, top_k_accuracy_score

from slava_jax.eval.classification import (
    auc_by_type,
    classification_metrics,
    confusion_matrix,
    predictions,
)

NAMES = ["a", "b", "c", "d", "e", "f", "g"]


def test_a_table_worked_by_hand():
    # Two classes, four examples: a a b b answered a b b b.
    scores = [[2.0, 1.0], [0.0, 1.0], [0.0, 3.0], [-2.0, -1.0]]
    metrics = classification_metrics([0, 0, 1, 1], scores, ["a", "b"])
    expected = {
        "top1": 3 / 4,
        "top5": 1.0,
        "macro_f1": (2 / 3 + 4 / 5) / 2,
        "precision.a": 1.0,
        "precision.b": 2 / 3,
        "recall.a": 1 / 2,
        "recall.b": 1.0,
        "f1.a": 2 / 3,
        "f1.b": 4 / 5,
    }
    assert metrics == pytest.approx(expected, abs=1e-12)
    matrix = confusion_matrix([0, 0, 1, 1], predictions(scores), 2)
    assert matrix.tolist() == [[1, 1], [0, 2]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(8, 60))
def test_equal_to_scikit_learn_and_to_the_confusion_matrix(seed, n):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 7, n), rng.normal(size=(n, 7))
    metrics = classification_metrics(labels, scores, NAMES)
    predicted = predictions(scores)
    for key, k in (("top1", 1), ("top5", 5)):
        expected = top_k_accuracy_score(labels, scores, k=k, labels=np.arange(7))
        assert metrics[key] == pytest.approx(expected)
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    matrix = confusion_matrix(labels, predicted, 7)
    assert matrix.sum() == n
    assert metrics["top1"] == pytest.approx(np.trace(matrix) / n)
    for i, name in enumerate(NAMES):
        if matrix[i].sum():
            assert metrics[f"recall.{name}"] == pytest.approx(matrix[i, i] / matrix[i].sum())


def test_ties_count_alike_in_top1_and_in_the_confusion_matrix():
    labels, scores = [0, 1, 6, 6], np.zeros((4, 7))
    metrics = classification_metrics(labels, scores, NAMES)
    assert (metrics["top1"], metrics["top5"]) == (1 / 4, 2 / 4)
    assert np.trace(confusion_matrix(labels, predictions(scores), 7)) == 1


def test_a_class_that_does_not_occur_has_no_row():
    metrics = classification_metrics([0, 1], [[1, 0, 0], [0, 1, 0]], ["a", "b", "c"])
    assert metrics["macro_f1"] == 1.0
    assert "f1.c" not in metrics


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([], np.zeros((0, 7)), "empty"),
        ([0, 7], np.zeros((2, 7)), "0 to 7"),
        ([0, 1], np.zeros((2, 6)), "7 classes"),
        ([0], np.full((1, 7), np.nan), "not finite"),
    ],
)
def test_bad_input_is_named(labels, scores, words):
    with pytest.raises(ValueError, match=words):
        classification_metrics(np.array(labels, int), scores, NAMES)


def test_auc_by_type_leaves_out_types_with_one_kind_of_pair():
    labels = [1, 0, 1, 0, 1, 1, 0, 1]
    scores = [0.9, 0.1, 0.2, 0.8, 0.5, 0.6, 0.5, 0.5]
    types = ["class", "class", "size", "size", "basics", "basics", "even", "even"]
    assert auc_by_type(labels, scores, types) == {"class": 1.0, "size": 0.0, "even": 0.5}


def test_auc_refuses_what_it_cannot_rank():
    with pytest.raises(ValueError, match="equal length"):
        auc_by_type([1, 0], [0.5], ["a", "a"])
    with pytest.raises(ValueError, match="0 or 1"):
        auc_by_type([1, 2], [0.5, 0.1], ["a", "a"])
    with pytest.raises(ValueError, match="not finite"):
        auc_by_type([1, 0], [np.nan, 0.1], ["a", "a"])

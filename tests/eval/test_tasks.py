"""Few-shot classification and its controls, worked out by hand."""

import numpy as np
import pytest

from slava_jax.eval import tasks

NAMES = ("a", "b", "c")
LABELS = np.asarray([0, 1, 2, 1])
# Classes of the examples, the most similar one last.
SHOTS = np.asarray([[0, 0, 1], [1, 2, 0], [2, 1, 2], [0, 1, 0]])


def favouring(*classes):
    """Scores that are highest for these classes."""
    return np.eye(3)[list(classes)]


def few_shot(shots=SHOTS):
    scores = {
        "": favouring(0, 1, 2, 1),
        "_permuted": favouring(1, 1, 0, 2),
        "_zero_shot": favouring(0, 2, 2, 0),
    }
    return dict(tasks.few_shot(LABELS, scores, shots, NAMES))


def test_each_control_is_scored_on_the_same_images():
    found = few_shot()
    name = "classification_few_shot_3"
    shares = {"": 1.0, "_permuted": 0.25, "_zero_shot": 0.5, "_majority": 0.5}
    for control, share in shares.items():
        assert found[f"{name}{control}.top1"] == share
        assert found[f"{name}{control}.n"] == 4


def test_the_majority_is_of_the_most_examples_and_of_equally_many_that_of_the_nearest():
    # 0 (two of three), 0 (the nearest of three), 2, 0: the first and the third are correct.
    assert few_shot()["classification_few_shot_3_majority.recall.b"] == 0
    nearest = few_shot(np.asarray([[1, 0], [2, 1], [0, 2], [0, 1]]))
    assert nearest["classification_few_shot_2_majority.top1"] == 1
    farthest = few_shot(np.asarray([[0, 1], [1, 2], [2, 0], [1, 0]]))
    assert farthest["classification_few_shot_2_majority.top1"] == 0


def test_differences_are_paired_by_image():
    found = few_shot()
    for control, gains in (
        ("_zero_shot", [0, 1, 0, 1]),
        ("_majority", [0, 1, 0, 1]),
        ("_permuted", [1, 0, 1, 1]),
    ):
        name = f"classification_few_shot_3.minus{control}"
        assert found[name] == np.mean(gains)
        assert found[f"{name}_error"] == pytest.approx(np.std(gains, ddof=1) / 2)


def test_scores_over_unicode_words_are_added_where_references_are_beyond_ascii():
    english = dict(tasks.texts("vqa", ["round wires, 5 µm"], ["round wires"]))
    assert not any(name.endswith("unicode") or "ascii" in name for name in english)
    greek = dict(tasks.texts("vqa", ["Το σύρμα", "two words"], ["Το σύρμα", "two words"], "_blind"))
    assert greek["vqa_blind.beyond_ascii"] == 0.5
    assert (greek["vqa_blind.rougeL"], greek["vqa_blind.rougeL_unicode"]) == (0.5, 1.0)
    assert greek["vqa_blind.rougeL_unicode_std"] == 0

"""The verdict says which is better only when the interval does, and names what fails."""

import pytest

from slava_jax.eval.report import write_report
from slava_jax.eval.truth_table import truth_rows, unscored, verdict


def metrics(low, high):
    values = {"truth.gain_low": low, "truth.gain_high": high, "truth.images": 96.0}
    values["truth.right"] = 0.46
    for control, count, texture, skill in (
        ("truth", 0.7, 0.4, 0.31),
        ("truth_constant", 0.3, 0.35, 0.0),
        ("truth_blind", 0.2, 0.33, -0.05),
        ("truth_classical", 0.5, 0.5, 0.25),
    ):
        values |= {f"{control}.count.score": count, f"{control}.texture.score": texture}
        values[f"{control}.skill"] = skill
    values |= {"truth.count.within_factor_2": 0.9, "truth.count.impossible": 0.0}
    for fact in ("count", "texture"):
        values |= {f"truth.{fact}.missing": 0.125, f"truth.{fact}.n": 40.0}
    return values


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.1, "better than the classical"),
        (-0.01, 0.1, "no better and no worse than the classical"),
        (-0.2, -0.1, "worse than the classical"),
    ],
)
def test_the_verdict_follows_the_interval(low, high, said):
    text = verdict(metrics(low, high))
    assert f"is 0.31 (0: the best blind answer, 1: always right), {said} baseline's 0.25" in text
    assert text.startswith("46 % of its statements about facts are right.")
    assert text.endswith("Do not trust: texture.")  # 0.4 is hardly above the constant's 0.35


def test_a_parrot_is_called_one():
    """Nothing above the blind answers, and told-the-class better."""
    values = metrics(-0.2, -0.1)
    for fact in ("count", "texture"):
        values[f"truth.{fact}.score"] = values[f"truth_constant.{fact}.score"]
    text = verdict({**values, "truth.skill": -0.001, "truth_class.skill": 0.3})
    assert "Its skill at them is 0.00 (0: the best blind answer" in text
    assert "below the 0.30 of someone who knows only the class." in text
    assert text.endswith("Do not trust any fact it states.")


def test_facts_of_too_few_images_are_named():
    assert unscored({**metrics(0.01, 0.1), "truth.direction.n": 7.0}) == ["Direction"]


def test_the_report_opens_with_the_verdict_and_the_facts(tmp_path):
    write_report(tmp_path / "r.html", metrics(0.01, 0.1))
    text = (tmp_path / "r.html").read_text()
    assert text.index("better than the classical") < text.index('id="truth"')
    assert "Number of features" in text and "Touching or isolated" not in text
    first = truth_rows(metrics(0.01, 0.1))[0]
    assert first == {
        "label": "Number of features", "n": 40, "missing": 0.125, "cells": [0.7, 0.2, 0.3, 0.5],
        "factor_2": 0.9, "impossible": 0.0,
    }  # fmt: skip


def test_of_few_images_nothing_is_said():
    text = verdict({**metrics(0.01, 0.1), "truth.images": 19.0})
    assert text == "Its facts were checked on 19 images, too few to judge."


def classified(top1, n):
    """Against a classical baseline of 0.9 on 200 images: its standard error is 0.021."""
    return {
        "classification.top1": top1,
        "classification.n": n,
        "classification_classical.top1": 0.9,
        "classification_classical.n": 200.0,
    }


def test_the_class_is_compared_with_the_classical_baseline():
    # Standard errors: 0.021 and, of 0.5 on 200 images, 0.035; 1.96 of both together is 0.08.
    assert verdict(classified(0.5, 200.0)) == (
        "It names the class worse than the classical baseline: 0.50 against 0.90 (difference "
        "-0.40 ± 0.08, n = 200)."
    )
    assert "no better and no worse than" in verdict(classified(0.88, 200.0))
    assert "class better than" in verdict(classified(0.99, 2000.0))


def test_few_images_and_empty_answers_are_warned_of():
    text = verdict({**classified(0.5, 12.0), "caption.empty": 1.0, "vqa.empty": 0.0})
    assert "With fewer than 100 test images, do not trust differences." in text
    assert text.endswith("100 % of the generated answers are empty.")
    assert "empty" not in verdict({**classified(0.5, 200.0), "caption.empty": 0.0})


def test_without_known_truth_there_is_no_verdict(tmp_path):
    assert verdict({"classification.top1": 0.5}) == ""
    write_report(tmp_path / "r.html", {"classification.top1": 0.5})
    assert 'id="truth"' not in (tmp_path / "r.html").read_text()

"""Scores of what answers say against the truth; the values are worked out by hand."""

import numpy as np
import pytest

from slava_jax.eval.truth import (
    Asked,
    best_constant,
    blind_guesses,
    classical_guesses,
    copied,
    fact_scores,
    share_impossible,
    skill,
    skill_gain,
)


def test_a_number_is_right_within_a_quarter_and_within_a_factor_of_two():
    asked = Asked([100, 100, 100, 100, 0], [125, 126, 50, None, 0])
    scores = fact_scores("count", asked)
    assert scores["score"] == 2 / 5  # 125, and the 0
    assert scores["within_factor_2"] == 4 / 5
    assert scores["missing"] == 1 / 5 and scores["n"] == 5
    assert scores["median_log2_error"] == pytest.approx((np.log2(1.25) + np.log2(1.26)) / 2)


def test_saying_nothing_or_nothing_but_zero_is_wrong():
    assert fact_scores("count", Asked([3, 4], [None, 0]))["score"] == 0
    assert "median_log2_error" not in fact_scores("count", Asked([3], [None]))


def test_the_majority_has_a_balanced_accuracy_of_chance():
    true = [True] + [False] * 9
    assert fact_scores("has_defects", Asked(true, [False] * 10))["score"] == 0.5
    assert fact_scores("has_defects", Asked(true, true))["score"] == 1
    assert fact_scores("has_defects", Asked(true, [None] * 10))["score"] == 0


def test_a_parrot_has_no_skill_and_the_truth_all_of_it():
    scores = {
        "constant": {"count": 0.1, "texture": 0.5},
        "blind": {"count": 0.2, "texture": 0.5},
        "parrot": {"count": 0.2, "texture": 0.5},
        "": {"count": 0.6, "texture": 0.5},
        "truth": {"count": 1.0, "texture": 1.0},
        "worse": {"count": 0.0, "texture": 0.5},
    }
    assert skill(scores, "parrot") == 0 and skill(scores, "truth") == 1
    assert skill(scores) == pytest.approx((0.4 / 0.8 + 0) / 2)
    assert skill(scores, "worse") == pytest.approx(-0.25 / 2)


def test_the_best_constant_is_close_to_most_values():
    everything = ["rough"] * 9 + ["smooth"] * 9
    assert best_constant("texture", ["rough", "smooth", "rough"], everything) == "rough"
    assert best_constant("has_defects", *[[False, False, True]] * 2) is False
    values = [1.0] * 3 + [100.0, 101.0, 105.0, 110.0, 1000.0]
    assert 88 <= best_constant("count", values, values) <= 125


def test_without_looking_a_length_is_a_share_of_the_image():
    def facts(category, nm_per_pixel, pixels):
        size = nm_per_pixel * pixels
        return {"category": category, "nm_per_pixel": nm_per_pixel, "mean_size_nm": size}

    known = [facts("Tips", scale, 10) for scale in (1, 2, 5)] + [facts("Powder", 1, 80)] * 2
    asked = [facts("Powder", 7, 80), facts("Tips", 7, 10), facts("New", 7, 10)]
    assert blind_guesses("mean_size_nm", known, asked, False) == pytest.approx([70, 70, 70])
    assert blind_guesses("mean_size_nm", known, asked, True) == pytest.approx([560, 70, 70])


def test_the_classical_baseline_reads_facts_from_statistics():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 3))
    facts = [
        {"nm_per_pixel": 2.0, "mean_size_nm": 2 * np.exp(a), "texture": "rough" if b > 0 else ""}
        for a, b, _ in rows
    ]
    pair = (rows[:300], rows[300:])
    said = classical_guesses("mean_size_nm", facts[:300], facts[300:], pair)
    true = [f["mean_size_nm"] for f in facts[300:]]
    assert fact_scores("mean_size_nm", Asked(true, said))["score"] > 0.8
    said = classical_guesses("texture", facts[:300], facts[300:], pair)
    true = [f["texture"] for f in facts[300:]]
    assert fact_scores("texture", Asked(true, said))["score"] > 0.9


def test_the_interval_of_the_gain_covers_it_and_shrinks_with_n():
    def widths(n):
        rng = np.random.default_rng(1)
        true = rng.integers(0, 2, n).astype(bool).tolist()
        coin = [bool(x) for x in rng.integers(0, 2, n)]
        asked = {
            name: {"has_defects": Asked(true, said)}
            for name, said in (("", true), ("classical", coin), ("constant", [False] * n))
        }
        low, high = skill_gain(asked, {"has_defects": np.arange(n)}, "classical")
        assert abs((low + high) / 2 - 1) < 0.3  # all of the truth against a coin
        return high - low

    assert 0 < widths(400) < widths(40)


def test_the_interval_of_no_gain_is_zero():
    asked = {name: {"count": Asked([3, 4], [3, 3])} for name in ("", "classical")}
    assert skill_gain(asked, {"count": np.arange(2)}, "classical") == (0, 0)


def test_a_length_far_below_a_pixel_or_above_the_diagonal_is_impossible():
    asked = Asked([1.0] * 5, [500.0, 708.0, None, 0.19, 0.2])
    assert share_impossible("spacing_nm", asked, [(2.0, 500.0)] * 5) == 2 / 4  # 708 and 0.19
    assert share_impossible("coverage", Asked([0.5] * 2, [1.1, 1.0]), [(1, 1)] * 2) == 0.5
    assert share_impossible("count", Asked([5], [None]), [(1, 1)]) == 0


def test_a_coverage_is_right_as_far_as_its_wording_goes():
    assert fact_scores("coverage", Asked([0.01, 0.15, 0.15], [0.025, 0.2, 0.3]))["score"] == 2 / 3


def test_a_fact_that_needs_no_look_is_left_out_and_none_counts_less_than_minus_one():
    blind = {"texture": 1.0, "count": 0.9}
    assert skill({"": {"texture": 0.0, "count": 0.95}, "constant": blind}) == pytest.approx(0.5)
    assert skill({"": {"texture": 0.0, "count": 0.1}, "constant": blind}) == -1
    assert np.isnan(skill({"": {"texture": 0.0}, "constant": blind}))


def test_the_constant_of_a_class_is_chosen_for_balanced_accuracy():
    """A rare word of a class may be rare elsewhere, and then counts for more."""
    everything = ["uniform"] * 90 + ["mixed"] * 10
    assert best_constant("composition", ["uniform"] * 12 + ["mixed"] * 8, everything) == "mixed"


def test_numbers_of_the_prompt_are_copied_or_not():
    found = dict(copied([1000, 1009, 2000, None], [1000] * 4))
    assert found == {"stated": 0.75, "copied_wrongly": pytest.approx(1 / 3)}
    assert dict(copied([None], [5])) == {"stated": 0.0, "copied_wrongly": 0.0}

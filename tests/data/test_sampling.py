"""Closed questions are sampled so that no answer is likely without looking."""

import numpy as np
import pytest

from slava_jax.data.instructions import Instruction
from slava_jax.data.sampling import sampling_weights


def item(i, question, answer, **metadata):
    return Instruction(str(i), ("a",), f"<image> {question}", answer, "vqa", "short", "x", metadata)


def test_the_answers_of_a_closed_question_are_equally_likely():
    items = [item(i, "Charging?", "Yes, it is." if i < 4 else "No, none.") for i in range(20)]
    items += [item(i, "Drift?", "No." if i < 30 else "Yes.") for i in range(20, 40)]
    weights = sampling_weights(items, 1.0)
    for rows in (range(20), range(20, 40)):
        yes = [row for row in rows if items[row].answer.startswith("Yes")]
        no = [row for row in rows if items[row].answer.startswith("No")]
        assert weights[yes].sum() == pytest.approx(weights[no].sum())
        assert weights[[*rows]].max() == 1


def test_open_questions_weigh_one_whatever_their_answers():
    items = [item(i, "What is it?", "A powder." if i else "Norwegian wood.") for i in range(5)]
    assert (sampling_weights(items, 3.0) == 1).all()


def test_the_fact_that_is_asked_for_decides_not_the_wording():
    packed = [
        item(
            i, "How far apart?", f"Wording {i}.", asked=["packing"],
            claims={"packing": "dense" if i < 2 else "loose"},
        )
        for i in range(8)
    ]  # fmt: skip
    weights = sampling_weights(packed, 5.0)
    assert weights[:2].sum() == pytest.approx(weights[2:].sum()) == pytest.approx(10)


def test_numbers_that_are_asked_for_are_boosted_but_not_balanced():
    items = [item(i, "Size?", "9 nm.", asked=["size"], claims={"size": [8, 10]}) for i in range(3)]
    assert sampling_weights(items, 5.0).tolist() == [5, 5, 5]


def test_the_common_answer_to_a_very_rare_one_is_still_sampled():
    items = [item(i, "Drift?", "Yes." if i == 0 else "No.") for i in range(1000)]
    assert np.min(sampling_weights(items, 1.0)) == 0.1

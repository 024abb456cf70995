"""What can be checked of answers without a ground truth."""

import time

import pytest

from slava_jax.eval.consistency import consistency, consistency_rows


def checked(answers, references=None, images=None, widths=None):
    n = len(answers)
    return consistency(answers, references or [""] * n, images or [*range(n)], widths or [None] * n)


def test_yes_and_no_agree_with_the_reference():
    found = checked(
        ["Yes, it does.", "no.", "Perhaps.", "Norwegian"],
        ["Yes.", "Yes, much.", "No, it does not.", "Nothing is seen."],
    )
    assert found == {"yes_no": pytest.approx(1 / 3), "yes_no_n": 3}


def test_numbers_agree_within_a_quarter_and_must_be_about_the_same_thing():
    found = checked(
        [
            "The pores are about 45 nm in diameter.",
            "They have a diameter of 0.1 µm.",
            "One counts 12 wires.",
            "One counts 12 pores.",
            "No number.",
        ],
        [
            "The pores are about 40 nm in diameter.",
            "The diameter is 50 nm.",
            "There are 10 wires.",
            "There are 10 wires.",
            "There are 10 wires.",
        ],
    )
    assert found["numbers"] == pytest.approx(2 / 5) and found["numbers_n"] == 5


def test_a_length_must_fit_into_the_image():
    answers = ["It is 1,200 nm wide.", "About 20 to 90 nm.", "It is 2 µm wide.", "12 grains."]
    found = checked(answers, widths=[1000.0, 100.0, None, 5.0])
    assert found == {"impossible": 0.0, "impossible_n": 2}
    found = checked(["About 20 to 190 nm."], widths=[100.0])
    assert found["impossible"] == 1


def test_two_answers_about_one_image_may_contradict_each_other():
    answers = [
        "Pores of 40 nm in diameter.", "The diameter is 42 nm. The spacing is 90 nm.",  # agree
        "Pores of 40 nm in diameter.", "The diameter is 400 nm.",  # do not
        "12 grains.", "5 cracks.",  # different things
    ]  # fmt: skip
    found = checked(answers, images=[0, 0, 1, 1, 2, 2])
    assert found == {"contradicted": 0.5, "contradicted_n": 2}


def test_one_answer_alone_contradicts_nothing_and_percents_are_of_different_things():
    answers = [
        "Small pores have a diameter of 20 nm and large pores a diameter of 80 nm.",
        "The features cover about 40 percent of the image.",
        "Their mean size is 5 percent of the width.",
    ]
    assert "contradicted" not in checked(answers, images=[0, 0, 0])


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("About 40 nm.", "The mean diameter is 40 nm.", [1.0]),  # not named, but a length
        ("Diameters of 10 nm, 40 nm and 90 nm.", "The diameter is 40 nm.", [0.0]),
        ("The diameter is 20 nm.", "The diameter is 20 nm or a diameter of 80 nm.", []),
        ("The spacing is 40 nm.", "The diameter is 40 nm.", [0.0]),
    ],
)
def test_a_list_of_numbers_is_no_answer(answer, reference, right):
    found = checked([answer], [reference])
    assert [found[name] for name in ("numbers",) if name in found] == right


@pytest.mark.parametrize("text", ["1" * 10**6, "1,111," * 10**5, "40 nm diameter " * 10**5])
def test_a_megabyte_is_read_in_a_moment(text):
    start = time.monotonic()
    checked([text], [text])
    assert time.monotonic() - start < 5


def test_what_cannot_be_checked_has_no_row():
    metrics = {
        "consistency.yes_no": 0.5,
        "consistency.yes_no_n": 4.0,
        "consistency_blind.yes_no": 1.0,
    }
    (row,) = consistency_rows(metrics, ["", "_shuffled", "_blind"])
    assert row["n"] == 4 and row["cells"] == [0.5, None, 1.0]
    assert consistency_rows({}, [""]) == [] and checked(["Fine."], ["Good."]) == {}

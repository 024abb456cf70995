"""Closed questions are sampled so that no answer is likely without looking."""

import dataclasses

import numpy as np
import pytest

from slava_jax.data.instructions import Instruction
from slava_jax.data.sampling import conversations, sampling_weights


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


def asked(i, image="a", supplement="", question="<image> Size?", **more):
    known = {"supplement": supplement, "asked": ["size"], "claims": {}, **more}
    return Instruction(f"q{i}", (image,), question, f"{i} nm.", "vqa", "short", "x", known)


def answers(item):
    return [*(answer for _, answer in item.turns), item.answer]


def test_a_conversation_asks_every_question_once_and_shows_its_image_once():
    items = [asked(i, image) for i, image in enumerate("abab" * 5)]
    found = conversations(items, [10] * 20, (4, 1000), 5.0, 0)
    assert sorted(a for item in found for a in answers(item)) == sorted(i.answer for i in items)
    assert [len(item.turns) for item in found] == [3, 3, 1] * 2
    for item in found:
        assert [q.count("<image>") for q in item.questions] == [1, *[0] * len(item.turns)]
        assert {int(a.split()[0]) % 2 for a in answers(item)} == {"ab".index(item.target)}


def test_no_questions_are_no_conversations():
    assert conversations([], [], (4, 100), 1.0, 0) == []


def test_a_conversation_has_no_more_tokens_than_fit():
    items = [asked(i) for i in range(6)]
    found = conversations(items, [40, 40, 40, 10, 10, 200], (9, 100), 1.0, 0)
    lengths = dict(zip((item.answer for item in items), [40, 40, 40, 10, 10, 200], strict=True))
    sizes = [[lengths[a] for a in answers(item)] for item in found]
    assert all(sum(of) <= 100 or of == [200] for of in sizes)
    assert sum(map(len, sizes)) == 6


def test_questions_that_cannot_share_a_text_stay_alone():
    """Another supplement, an image elsewhere in the question, several images, earlier turns."""
    items = [
        asked(0), asked(1), asked(2, supplement="Magnification 9x."),
        asked(3, question="Of <image>: size?"),
        Instruction("s", ("b", "a"), "<image> <image> Same?", "No.", "vqa", "short", "x"),
        dataclasses.replace(asked(5), question="Why?", turns=(("<image> Is?", "Yes."),)),
    ]  # fmt: skip
    found = conversations(items, [1] * 6, (9, 99), 1.0, 0)
    assert sorted(map(len, map(answers, found))) == [1, 1, 1, 2, 2]
    assert items[5] in found and items[4] in found


def test_one_directional_answer_keeps_the_image_upright():
    items = [asked(i, directional=i == 1) for i in range(3)]
    (found,) = conversations(items, [1] * 3, (9, 99), 1.0, 0)
    assert found.metadata["directional"] is True


def test_few_open_questions_are_joined_if_single_facts_weigh_more():
    items = [asked(i) for i in range(500)]
    items += [item(i, "What is it?", "A powder.") for i in range(500)]
    found = conversations(items, [1] * 1000, (4, 99), 10.0, 0)
    kinds = [a for item in found for a in answers(item)]
    assert len(kinds) - kinds.count("A powder.") == 500
    assert 25 <= kinds.count("A powder.") <= 80

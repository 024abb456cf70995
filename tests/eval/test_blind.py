"""Answers without an image: the most common training answer to the same question."""

import pytest

from slava_jax.data.instructions import Instruction
from slava_jax.eval.blind import blind_answers, medoid


def item(question, answer="", task="vqa", style="short", question_type="size", turns=()):
    metadata = {"question_type": question_type}
    answer = answer or "unknown to it"
    question = question if turns else f"<image> {question}"
    return Instruction("-", ("image",), question, answer, task, style, "Tips", metadata, turns)


def test_it_is_the_answer_that_has_most_in_common_with_the_others():
    texts = ["They are small.", "They are large and round.", "They are round.", "Nothing is seen."]
    assert medoid(texts) == "They are round."
    assert medoid(texts[::-1]) == "They are round."
    assert medoid(["b", "a"]) == "b"  # the first of equals
    assert medoid(["rare words"] + ["a few words"] * 1000) == "a few words"


def test_answers_in_other_scripts_have_words_in_common_too():
    assert medoid(["Πορώδες", "Λεία σύρματα", "Λεία σύρματα, πυκνά"]) == "Λεία σύρματα"


def test_a_long_answer_does_not_win_by_its_length():
    assert medoid(["a b", "a c", "a b c d e f g h"]) == "a b"


def test_only_answers_to_the_same_question_in_the_same_style_count():
    known = [
        *[item("How large?", "Some 20 nm.")] * 2,
        *[item("How large?", "They measure some 20 nm.", style="detailed")] * 3,
        *[item("How many?", "Few.", question_type="number")] * 4,
    ]
    asked = [item("How many?", question_type="number"), item("How large?")]
    asked.append(item("How large?", style="detailed"))
    assert blind_answers(asked, known) == ["Few.", "Some 20 nm.", "They measure some 20 nm."]


def test_a_question_after_others_is_answered_as_after_those():
    fibres, pores = ((("<image> What is there?", what),) for what in ("Fibres.", "Pores."))
    holes = (("<image> Are there holes?", "Yes."),)
    known = [
        *[item("How large?", "Some 20 nm.", turns=fibres)] * 2,
        *[item("How large?", "About a micron.", turns=holes)] * 3,
    ]
    asked = [item("How large?", turns=turns) for turns in (pores, holes, ())]
    answers = ["Some 20 nm.", "About a micron.", "About a micron."]
    assert blind_answers(asked, known) == answers


def test_an_unknown_question_is_answered_like_others_of_its_kind():
    known = [
        *[item("How large?", "Some 20 nm.")] * 2,
        *[item("What is it?", "Tips.", "classification", question_type="class")] * 3,
        *[item("How many?", "Few.", question_type="number")] * 4,
    ]
    kinds = (
        ("vqa", "size", "Some 20 nm."),
        ("vqa", "colour", "Few."),
        ("classification", "other", "Tips."),
        ("caption", "caption", "Few."),
    )
    asked = [item("Never heard", task=task, question_type=kind) for task, kind, _ in kinds]
    assert blind_answers(asked, known) == [answer for *_, answer in kinds]
    assert blind_answers([], known) == []


def test_without_training_there_is_no_answer():
    with pytest.raises(ValueError, match="no training instruction"):
        blind_answers([item("How large?")], [])

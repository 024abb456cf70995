"""The user's own instructions: assignment to splits, and added class questions."""

import numpy as np
import pytest

from slava_jax.data.datasets.base import DataError, ImageSet
from slava_jax.data.instructions import Instruction
from slava_jax.data.own_instructions import by_split, completed


def image_set(*keys):
    labels = [key.startswith("tin") for key in keys]
    return ImageSet(keys, np.asarray(labels, int), ["gold", "tin"], [b""] * len(keys))


def item(name, *images, question_type="vqa", category=""):
    return Instruction(
        name, images, "<image>" * len(images), "yes", "vqa", "short", category,
        {"question_type": question_type},
    )  # fmt: skip


@pytest.fixture
def images():
    return {"train": image_set("gold1", "tin1", "tin2"), "test": image_set("gold2", "tin3")}


def test_an_instruction_goes_to_the_split_of_its_images(images):
    items = [
        item("a", "tin3"), item("b", "gold1"), item("c", "gold1", "tin2"),
        item("d", "tin3", "gold1"), item("e", "gold1", "tin3"), item("f", "gold2"),
    ]  # fmt: skip
    sorted_items, apart = by_split(items, images, "mine.jsonl")
    assert {split: [i.id for i in found] for split, found in sorted_items.items()} == {
        "train": ["b", "c"],
        "test": ["a", "e", "f"],  # e has a training image before its target
    }
    assert apart == [items[3]]


def test_an_empty_category_is_filled_in_from_the_target_image(images):
    items = [item("a", "gold1", "tin1"), item("b", "gold1", category="Gold")]
    sorted_items, _ = by_split(items, images, "mine.jsonl")
    assert [i.category for i in sorted_items["train"]] == ["tin", "gold"]


def asked(answer, question_type="class", turns=(), **changes):
    metadata = {"question_type": question_type, **changes}
    return Instruction(
        "a", ("gold1",), "What?" if turns else "<image> What?", answer, "classification", "short",
        "", metadata, turns,
    )  # fmt: skip


CONTRADICTIONS = [
    (item("a", "gold1", category="tin"), "category is 'tin', but 'gold1' is of the class 'gold'"),
    (item("a", "tin1", "gold1", category="tin"), "category is 'tin', but 'gold1' is"),
    (asked("tin"), "answers 'tin', but 'gold1' is of the class 'gold'"),
    (asked("Tin.", "classification"), "answers 'tin'"),
    (asked("It shows tin here."), "answers 'tin'"),
    (asked("Sure.", turns=[("<image> What?", "tin")]), "answers 'tin'"),
    (asked("gold", claims={"category": "tin"}), "metadata.claims.category is 'tin', but of"),
    (asked("gold", seen_claims={"pores": [3, 5]}), "metadata.seen_claims.pores is [3, 5], but"),
]


@pytest.mark.parametrize(("wrong", "said"), CONTRADICTIONS, ids=range(len(CONTRADICTIONS)))
def test_what_contradicts_the_image_is_refused(wrong, said):
    facts = [{"category": "gold", "pores": 2.0}, {"category": "tin"}]
    labels = np.asarray([0, 1])
    of = ImageSet(["gold1", "tin1"], labels, ["gold", "tin"], [b""] * 2, facts)
    with pytest.raises(DataError, match=r"^mine\.jsonl: instruction 'a': ") as caught:
        by_split([wrong], {"train": of}, "mine.jsonl")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "right",
    [
        asked("Gold"),
        asked("It is not tin but gold."),
        asked("tinned goods"),
        asked("tin", "coating"),
        asked("tin", "few_shot_permuted"),
        asked("A tin of gold on tin", "classification"),
        asked("gold", claims={"category": "gold", "unknown": 3}),
    ],
)
def test_what_agrees_with_the_image_or_is_about_something_else_is_kept(right, images):
    assert by_split([right], images, "mine.jsonl")[0]["train"]


def test_accents_may_be_written_in_either_form(images):
    images = {"train": ImageSet(["café/1"], [0], ["café", "b"], [b""])}
    other = item("a", "cafe\u0301/1", category="cafe\u0301")
    (found,) = by_split([other], images, "mine.jsonl")[0]["train"]
    assert (found.images, found.category) == (("caf\xe9/1",), "caf\xe9")


def test_an_id_that_the_teacher_uses_too_gets_a_suffix():
    own = [item("gold1/class", "gold1"), item("gold1/class#", "gold1")]
    taught = [item("gold1/class", "gold1", question_type="class")]
    assert [i.id for i in completed(own, taught)] == [*(i.id for i in own), "gold1/class##"]


def test_a_conversation_is_assigned_as_a_whole(images):
    """All its images count, including those of earlier turns."""
    turns = (("<image> and <image>?", "yes"),)
    here = Instruction("a", ("gold1", "tin1"), "Sure?", "yes", "vqa", "short", "", turns=turns)
    across = Instruction("b", ("tin3", "gold1"), "Sure?", "yes", "vqa", "short", "", turns=turns)
    sorted_items, apart = by_split([here, across], images, "mine.jsonl")
    assert [(i.id, i.turns, i.category) for i in sorted_items["train"]] == [("a", turns, "tin")]
    assert [i.id for i in apart] == ["b"]


def test_an_unknown_image_is_named(images):
    with pytest.raises(DataError, match=r"mine.jsonl: instruction 'a': image 'zinc' .*'gold1'"):
        by_split([item("a", "gold1", "zinc")], images, "mine.jsonl")


def test_missing_class_and_caption_questions_are_added():
    own = [item("mine", "gold1", question_type="class"), item("more", "gold1")]
    taught = [
        item(f"{key}/{kind}", key, question_type=kind)
        for key in ("gold1", "tin1")
        for kind in ("class", "caption", "size")
    ]
    found = [i.id for i in completed(own, taught)]
    assert found == ["mine", "more", "gold1/caption", "tin1/class", "tin1/caption"]

"""Instructions about several images: their groups, and the answers about the last one."""

import json
import random
import re
from collections import Counter

import numpy as np
import pytest

from slava_jax.data.datasets.base import DataError, ImageSet
from slava_jax.data.images import encode_png
from slava_jax.data.instructions import claims_hold, shown_false
from slava_jax.synthetic.micrographs import draw
from slava_jax.synthetic.phrases import MATERIALS, Writer
from slava_jax.synthetic.records import CATEGORIES
from slava_jax.teacher.multi_image import (
    CHALLENGES,
    FEW_SHOT,
    OTHERS,
    PERMUTED,
    multi_image_instructions,
    similar_groups,
)
from slava_jax.teacher.procedural import class_answer, facts

BLANK = encode_png(np.zeros((4, 4), np.uint8))
TRAIN, TEST = 6, 2  # images per class


def drawn(name, count, start):
    names = [(c, start + i) for c in CATEGORIES for i in range(count)]
    records = [json.loads(draw(c, seed, 64).truth.to_json()) for c, seed in names]
    keys = [f"{name}-{c}-{seed}" for c, seed in names]
    labels = [CATEGORIES.index(c) for c, _ in names]
    images = ImageSet(keys, labels, CATEGORIES, [BLANK] * len(keys), None, records, name)
    return images.with_facts(facts)


POOL, UNSEEN = drawn("train", TRAIN, 0), drawn("test", TEST, 100)


def embedded(images, seed=0):
    """A direction for each class, plus noise for each image."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(len(CATEGORIES), 16))
    return centres[images.labels] + 0.5 * rng.normal(size=(len(images), 16))


def about(images=UNSEEN, pool=POOL, shots=(), challenges=(), tested=True, **options):
    embeddings = embedded(images, 1 if images is not pool else 0), embedded(pool)
    return multi_image_instructions(
        images, pool, embeddings, shots, challenges, seed=3, tested=tested, **options
    )


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def names_in(question):
    return re.findall(r"<image> shows (.*?)\. ", question)


def test_the_most_similar_training_images_come_with_their_labels_the_nearest_last():
    pool, queries = embedded(POOL), embedded(UNSEEN, 1)
    items = about(shots=(1, 3))
    assert Counter((i.question_type, i.metadata["shots"]) for i in items) == {
        (kind, n): len(UNSEEN) for kind in (FEW_SHOT, PERMUTED) for n in (1, 3)
    }
    for item in (i for i in items if i.question_type == FEW_SHOT):
        *examples, target = item.images
        assert target in UNSEEN.index and all(key in POOL.index for key in examples)
        rows = [POOL.index[key] for key in examples]
        assert names_in(item.question) == [class_answer(POOL.category(i)) for i in rows]
        similarity = [cosine(pool[i], queries[UNSEEN.index[target]]) for i in range(len(POOL))]
        assert rows == np.argsort(similarity)[-len(rows) :].tolist()
        assert item.answer == class_answer(item.category)


def test_permuted_names_are_the_same_prompt_with_every_example_called_by_one_wrong_name():
    items = {(i.question_type, i.images): i for i in about(shots=(4,))}
    renamed = {}
    for (kind, images), item in items.items():
        if kind == PERMUTED:
            right = items[FEW_SHOT, images]
            assert item.answer == right.answer
            pairs = zip(names_in(right.question), names_in(item.question), strict=True)
            for name, wrong in pairs:
                assert renamed.setdefault(name, wrong) == wrong != name
    assert len(set(renamed.values())) == len(renamed) > 5


def test_in_training_an_image_is_never_its_own_example_and_has_two_numbers_of_them():
    items = about(POOL, POOL, shots=(1, 2, 4), tested=False)
    assert len({(i.target, len(i.images)) for i in items}) == len(items) == 2 * len(POOL)
    assert {len(i.images) for i in items} == {2, 3, 5}
    assert all(i.target not in i.images[:-1] for i in items)
    assert {i.question_type for i in items} == {FEW_SHOT}


def test_a_twelfth_of_the_training_prompts_rename_every_class_and_the_answer_follows():
    items = about(POOL, POOL, shots=(4, 6), tested=False)
    renamed = 0
    for item in items:
        *examples, target = item.images
        true = [class_answer(POOL.category(POOL.index[key])) for key in examples]
        called = dict(zip(true, names_in(item.question), strict=True))
        own = class_answer(POOL.category(POOL.index[target]))
        if all(name == other for name, other in called.items()):
            assert item.answer == own
        else:
            renamed += 1
            assert all(name != other for name, other in called.items())
            assert item.answer == called[own]
    assert 0.03 * len(items) < renamed < 0.15 * len(items)


def test_more_examples_than_images_to_train_on():
    few = ImageSet(POOL.keys[:5], POOL.labels[:5], CATEGORIES, [BLANK] * 5)
    with pytest.raises(DataError, match=r"data\.shots: 8 examples, but only 4 training images"):
        about(few, few, shots=(8,), tested=False)


def test_few_shot_needs_labels_alone():
    bare = ImageSet(POOL.keys, POOL.labels, CATEGORIES, [BLANK] * len(POOL))
    items = about(bare, bare, shots=(2,), challenges=CHALLENGES, tested=False)
    assert len(items) == len(POOL)
    assert {i.metadata["supplement"] for i in items} == {""}
    bare.facts[0] = {"category": CATEGORIES[0], "nm_per_pixel": 2.0}  # a known scale
    item = about(bare, bare, shots=(2,), tested=False)[0]
    assert item.metadata["supplement"] == "Pixel size 2 nm."
    asked = about(bare, bare, shots=(2,), tested=False, question="Sound or not?")
    assert all(i.question.endswith("<image> Sound or not?") for i in asked)


@pytest.mark.parametrize("kind", CHALLENGES)
def test_challenges_are_true_of_their_target_and_false_of_another_category(kind):
    items = about(challenges=(kind,))
    # Sizes do not vary in every class.
    assert {i.style for i in items} == {"short", "detailed"} and len(items) > len(UNSEEN) / 2
    for item in items:
        assert len(item.images) == OTHERS + 1
        known = UNSEEN.facts[UNSEEN.index[item.target]]
        assert item.claims and claims_hold(item.claims, known)
        wrong = [f for f in UNSEEN.facts if f["category"] != item.category]
        assert sum(shown_false(item, f) for f in wrong) > 0.8 * len(wrong)
        others = {POOL.category(POOL.index[key]) for key in item.images[:-1]}
        if kind == "inter_class":
            assert item.category not in others
        else:
            assert others == {item.category}


def test_in_training_an_image_gets_each_challenge_once_in_either_style():
    items = about(POOL, POOL, challenges=CHALLENGES, tested=False)
    assert len({(i.target, i.question_type) for i in items}) == len(items)
    assert Counter(i.style for i in items)["short"] / len(items) == pytest.approx(0.5, abs=0.15)


def test_intra_class_takes_the_least_similar_of_the_class():
    pool, queries = embedded(POOL), embedded(UNSEEN, 1)
    for item in about(challenges=("intra_class",)):
        query = queries[UNSEEN.index[item.target]]
        own = [i for i in range(len(POOL)) if POOL.category(i) == item.category]
        own.sort(key=lambda i: cosine(pool[i], query))
        assert item.images[:-1] == tuple(POOL.keys[i] for i in own[:OTHERS])


def test_half_of_the_inter_class_prompts_to_train_on_show_the_company_of_another_image():
    items = about(POOL, POOL, challenges=("inter_class",), tested=False)
    pool, nearest, shown = embedded(POOL), {}, {}
    for item in items:
        target = POOL.index[item.target]
        others = [i for i in range(len(POOL)) if POOL.category(i) != item.category]
        others.sort(key=lambda i: -cosine(pool[i], pool[target]))
        nearest[item.target] = tuple(POOL.keys[i] for i in others[:OTHERS])
        shown[item.target] = item.images[:-1]
        assert item.category not in {POOL.category(POOL.index[key]) for key in shown[item.target]}
    assert set(shown.values()) <= set(nearest.values())
    own = sum(shown[key] == nearest[key] for key in shown)
    assert own / len(items) == pytest.approx(0.5, abs=0.2)


def test_groups_for_a_teacher_are_those_of_the_instructions():
    pair = embedded(UNSEEN, 1), embedded(POOL)
    lines = list(similar_groups(UNSEEN, POOL, pair, CHALLENGES[:2]))
    told = {(i.question_type, i.images) for i in about(challenges=CHALLENGES[:2])}
    assert {(line["kind"], tuple(line["images"])) for line in lines} == told
    assert len(lines) == 2 * len(UNSEEN)


def test_what_is_said_of_the_images_before_the_target_is_true_of_them():
    for item in about(challenges=("inter_class",)):
        if item.style == "detailed":
            said = re.search(r"^Unlike (.*?), it is ", item.answer)[1]
            categories = [POOL.category(POOL.index[key]) for key in item.images[:-1]]
            assert said.split(" and ") == list(dict.fromkeys(MATERIALS[c] for c in categories))


LOOKS = r"[Tt]he {} (?:has )?(.*?)(?: that are .*| and \w+ coverage)?\."
SIZES = r"[Ii]n the {}(?: they are)? (.*?)[.,]"


@pytest.mark.parametrize(
    ("kind", "pattern", "say"),
    [
        ("intra_class", LOOKS, lambda writer: writer.some("texture", "shape")),
        ("heterogeneity", SIZES, lambda writer: writer.say("uniformity")),
    ],
)
def test_so_is_what_is_said_of_their_looks_and_sizes(kind, pattern, say):
    count, wrong = 0, []
    for item in about(challenges=(kind,)):
        for word, key in zip(("first", "second"), item.images, strict=False):
            known = POOL.facts[POOL.index[key]]
            true = {say(Writer(known, random.Random(i))) for i in range(60)}
            said = re.findall(pattern.format(word), item.answer)
            count += len(said)
            wrong += [(text, true, item.answer) for text in said if text not in true]
    assert count > len(UNSEEN) and not wrong


def test_an_image_without_company_is_passed_over():
    alone = [i for i in range(len(POOL)) if POOL.labels[i] != 0 or i < 2]
    few = ImageSet(
        [POOL.keys[i] for i in alone], POOL.labels[alone], CATEGORIES, [BLANK] * len(alone),
        [POOL.facts[i] for i in alone], [POOL.records[i] for i in alone],
    )  # fmt: skip
    items = about(few, few, challenges=("intra_class",), tested=False)
    assert items and CATEGORIES[0] not in {i.category for i in items}


def test_the_same_seed_gives_the_same_instructions():
    assert about(shots=(2,), challenges=CHALLENGES) == about(shots=(2,), challenges=CHALLENGES)

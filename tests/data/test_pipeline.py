"""Batches are the same every time, on any number of hosts and after a resume."""

import dataclasses

import numpy as np
import pytest
from tiny_batches import (
    BUCKETS,
    CLASSES,
    FORM,
    IMAGES,
    SIZE,
    TOKENIZER,
    ask,
    equal,
    make_batches,
    make_data,
    make_images,
    make_instructions,
)  # fmt: skip

from slava_jax.data.assistant_batches import AssistantEvaluation
from slava_jax.data.assistant_data import AssistantData
from slava_jax.data.chat import encode_examples
from slava_jax.data.instructions import claims_hold
from slava_jax.data.pipeline import (
    Augmentation,
    ImageCache,
    PipelineError,
    Shard,
    iterate,
)


def test_shapes_and_types():
    batch = make_batches()[0]
    length, answer = batch["tokens"].shape[1], batch["weights"].shape[1]
    assert (length, answer, 1) in BUCKETS
    shapes = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
    assert shapes == {
        "images": ((8, 1, SIZE, SIZE, 1), "uint8"),
        "tokens": ((8, length), "int32"),
        "image_index": ((8, length), "int32"),
        "length": ((8,), "int32"),
        "answer_start": ((8,), "int32"),
        "weights": ((8, answer), "float32"),
        "mismatch_offset": ((8,), "int32"),
        "mismatch_weight": ((8,), "float32"),
        "target_image": ((8,), "int32"),
        "example_id": ((8,), "uint32"),
        "index": ((8,), "int32"),
        "row_weight": ((8,), "float32"),
    }
    assert batch["example_id"].tolist() == list(range(8))
    assert (batch["row_weight"] == 1).all()


def test_the_same_arguments_give_the_same_batches():
    first, again = make_batches(), make_batches(make_data(cache_mb=0))
    for i in reversed(range(len(first))):  # in any order, with or without the image cache
        equal(first[i], again[i])
    other = make_batches(seed=2)
    assert any(not np.array_equal(first[i]["index"], other[i]["index"]) for i in range(3))


def test_epochs_sample_every_image_and_differ():
    data, batches = make_data(), make_batches()
    assert batches.batches_per_epoch == IMAGES * 2 // 8
    epochs = []
    for epoch in range(2):
        steps = range(epoch * batches.batches_per_epoch, (epoch + 1) * batches.batches_per_epoch)
        index = np.concatenate([batches[i]["index"] for i in steps])
        assert len(set(index.tolist())) == len(index) == IMAGES * 2
        assert (np.bincount(data.targets[index]) == 2).all()
        kinds = [data.instructions[i].question_type for i in index]
        assert kinds.count("class") == IMAGES
        epochs.append(set(index.tolist()))
    assert epochs[0] != epochs[1]
    # With all instructions, each comes once, except for the rest that does not fill a batch.
    whole = make_batches(per_image=None, batch_size=20, pair_block=20)
    index = np.concatenate([whole[i]["index"] for i in range(whole.batches_per_epoch)])
    assert len(set(index.tolist())) == len(index) == 80


def test_batches_are_bucketed_by_length():
    data, batches = make_data(), make_batches(per_image=None)
    shapes = set()
    for i in range(batches.batches_per_epoch):
        batch = batches[i]
        shape = (batch["tokens"].shape[1], batch["weights"].shape[1], batch["images"].shape[1])
        shapes.add(shape)
        # The smallest bucket that fits the longest row.
        assert BUCKETS.index(shape) == data.bucket[batch["index"]].max()
    assert len(shapes) == 3
    for example, bucket in zip(data.examples, data.bucket, strict=True):
        needs = (len(example.ids), len(example.answer_ids) + 1)
        fits = [needs[0] <= t and needs[1] <= u for t, u, _ in BUCKETS]
        assert fits.index(True) == bucket


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_make_slices_of_the_global_batch(hosts):
    data = make_data()
    whole = make_batches(data, batch_size=16)
    parts = [make_batches(data, batch_size=16, shard=Shard(k, hosts)) for k in range(hosts)]
    for i in range(len(whole)):
        made = [part[i] for part in parts]
        equal(whole[i], {name: np.concatenate([m[name] for m in made]) for name in made[0]})


def test_hosts_share_each_microbatch():
    """The parts of hosts 0 and 1, concatenated, are the microbatch of a single host."""
    data, microbatches = make_data(), 2
    whole = make_batches(data, batch_size=16)
    parts = [make_batches(data, batch_size=16, shard=Shard(k, 2, microbatches)) for k in range(2)]
    for i in range(len(whole)):
        made = [part[i] for part in parts]
        for name, array in whole[i].items():
            rows = [m[name].reshape(microbatches, -1, *array.shape[1:]) for m in made]
            assert np.array_equal(np.concatenate(rows, axis=1).reshape(array.shape), array), name
    assert made[0]["example_id"].tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


def test_an_interrupted_epoch_resumes_where_it_stopped():
    whole = list(iterate(make_batches()))
    assert len(whole) == 18
    for stop in (1, 4, 6, 11):
        iterator = iterate(make_batches(), prefetch=3)
        for _ in range(stop):
            next(iterator)
        state = iterator.get_state()
        resumed = iterate(make_batches(make_data()), prefetch=2)
        resumed.set_state(state)
        for expected, batch in zip(whole[stop:], resumed, strict=True):
            equal(expected, batch)


@pytest.mark.parametrize("claims", [True, False])
def test_mismatched_pairs_are_false(claims):
    data = make_data(make_instructions(claims))
    batches = make_batches(data, per_image=None)
    weights = []
    for i in range(len(batches)):
        batch = batches[i]
        for row, index in enumerate(batch["index"]):
            block = row // 4 * 4
            other = row - block + batch["mismatch_offset"][row]
            item = data.instructions[index]
            images = [data.targets[k] for k in batch["index"][block : block + 4]]
            if item.claims:
                wrong = [not claims_hold(item.claims, data.images.facts[k]) for k in images]
            else:
                wrong = [differs(data, item, k) for k in images]
            assert 0 <= other < 4
            assert batch["mismatch_weight"][row] == any(wrong)
            assert wrong[other] or not any(wrong)
            weights.append(batch["mismatch_weight"][row])
    assert 0 < np.mean(weights) < 1


def differs(data, item, image):
    key = data.images.keys[image]
    same = [
        other.answer
        for other in data.instructions
        if other.target == key and other.question_type == item.question_type
    ]
    return CLASSES[image % 3] != item.category and item.answer not in same


def test_an_answer_to_another_question_is_not_a_mismatch():
    """Without claims and types, questions are equal if their words are."""

    def vqa(name, image, question, answer):
        item = ask(name, image, "vqa", answer)
        return dataclasses.replace(item, question=f"<image> {question}")

    items = [
        vqa("a", "k0", "Is it large?", "No."),
        vqa("b", "k1", "How is its edge?", "Round."),  # may be small as well
        vqa("c", "k2", "Is it large?", "Yes."),
    ]
    data = make_data(items)
    assert [data.pairs.is_mismatch(0, image) for image in (0, 1, 2)] == [False, False, True]


def test_a_question_after_others_is_another_question():
    """After a question about grains or about pores, 'How large?' means something else."""

    def vqa(name, image, first, answer):
        turns = ((f"<image> Are there {first}?", "Yes."),)
        item = ask(name, image, "vqa", answer)
        return dataclasses.replace(item, question="How large?", turns=turns)

    items = [
        vqa("a", "k0", "grains", "Small."),
        vqa("b", "k1", "pores", "Large."),
        vqa("c", "k2", "grains", "Large."),
    ]
    data = make_data(items)
    assert [data.pairs.is_mismatch(0, image) for image in (0, 1, 2)] == [False, False, True]


def test_mismatched_pairs_are_drawn_uniformly():
    data = make_data()
    rows = np.array([0, 4, 8, 12, 20, -1], np.int32)  # class questions of images 0 to 3, 5; padding
    shown = data.targets[rows]
    counts = np.zeros((6, 6), int)
    for seed in range(600):
        offset, weight = data.pairs.choose(rows, shown, np.random.default_rng(seed))
        counts[range(6), np.arange(6) + offset] += 1
        assert weight.tolist() == [1, 1, 1, 1, 1, 0]
    wrong = np.array([[a % 3 != b % 3 for b in (0, 1, 2, 3, 5)] for a in (0, 1, 2, 3, 5)])
    assert np.array_equal(counts[:5, :5] > 0, wrong) and not counts[:5, 5].any()
    expected = wrong * 600 / wrong.sum(1, keepdims=True)
    assert np.abs(counts[:5, :5] - expected).max() < 60  # five standard deviations


def test_images_of_directional_answers_stay_upright():
    data = make_data()
    batches = make_batches(data, per_image=None, augmentation=Augmentation(shift=0))
    changed = 0
    for i in range(len(batches)):
        batch = batches[i]
        upright = set()
        for row, index in enumerate(batch["index"]):
            if data.instructions[index].metadata["directional"]:
                upright.add(row)
                if batch["mismatch_weight"][row]:  # a turn could make the mismatched image match
                    upright.add(row + int(batch["mismatch_offset"][row]))
        for row, index in enumerate(batch["index"]):
            same = np.array_equal(batch["images"][row, 0], data.cache[data.targets[index]])
            assert same or row not in upright
            changed += not same
    assert changed > 20


def test_several_images_end_with_the_target():
    items = make_instructions()
    two = dataclasses.replace(items[4], images=("k5", "k1"), question="Is <image> like <image>?")
    data = make_data([two, *items[5:]], buckets=[(64, 40, 2)])
    assert data.image_rows[0].tolist() == [5, 1] and data.targets[0] == 1
    (batch,) = AssistantEvaluation(data, 96, 96, rows=[0, 1, 2])
    row = batch["index"].tolist().index(0)
    assert batch["target_image"].tolist()[:3] == [1 if r == row else 0 for r in range(3)]
    assert np.array_equal(batch["images"][row], np.stack([data.cache[5], data.cache[1]]))
    assert not batch["images"][(row + 1) % 3, 1].any()


def several(item, count):
    """Returns the item with `count` images; those before its target are images 20, 21, ..."""
    others = tuple(f"k{20 + i}" for i in range(count - 1))
    question = "<image> and " * (count - 1) + item.question
    return dataclasses.replace(item, images=(*others, *item.images), question=question)


def test_a_batch_uses_the_smallest_bucket_that_fits():
    """Each batch has the first shape that fits all its rows, whatever else is in the epoch."""
    buckets = [(32, 12, 1), (64, 12, 4), (64, 40, 1), (64, 40, 4)]
    items = [several(item, 1 + i % 2 * 3) for i, item in enumerate(make_instructions())]
    batches = make_batches(make_data(items, buckets=buckets), per_image=None)
    shapes = set()
    for i in range(batches.batches_per_epoch):
        batch = batches[i]
        held = [items[row] for row in batch["index"].tolist()]
        sizes = [
            (len(e.ids), len(e.answer_ids) + 1, len(e.spans))
            for e in encode_examples(held, TOKENIZER, FORM)
        ]
        first = next(b for b in buckets if (np.max(sizes, axis=0) <= b).all())
        assert (*batch["tokens"].shape[1:], *batch["weights"].shape[1:]) == first[:2]
        assert batch["images"].shape[1] == first[2]
        shapes.add(first)
    assert {images for _, _, images in shapes} == {1, 4}


def test_examples_may_be_training_images_and_targets_may_not():
    train, test = make_images(), make_images(6)
    test.keys = [f"t{i}" for i in range(6)]
    test.index = {key: i for i, key in enumerate(test.keys)}
    caches = [ImageCache(images, SIZE, 1, 1) for images in (test, train)]

    def data(*images):
        item = ask("x", "k0", "class", "Fibres")
        item = dataclasses.replace(
            item, images=images, question="<image>" * len(images) + "?", category="Fibres"
        )
        return AssistantData(
            [item], encode_examples([item], TOKENIZER, FORM), test, caches[0],
            FORM, [(64, 40, 3)], (train, caches[1]),
        )  # fmt: skip

    held = data("k4", "t3")
    (batch,) = AssistantEvaluation(held, 2, 2)
    assert np.array_equal(batch["images"][0, :2], np.stack([caches[1][4], caches[0][3]]))
    assert held.mismatched(0)[0] < 6  # an image of the split
    with pytest.raises(PipelineError, match="its target image 'k4' is not in image set but in the"):
        data("t3", "k4")


def test_evaluation_sees_every_instruction_once():
    data = make_data()
    batches = AssistantEvaluation(data, 20, 20)
    index = np.concatenate([b["index"] for b in batches])
    assert sorted(index.tolist()) == [-1] * 4 + list(range(96))
    for batch in batches:
        filling = batch["index"] < 0
        assert np.array_equal(batch["row_weight"], ~filling)
        assert not batch["weights"][filling].any()
        assert not batch["mismatch_weight"][filling].any()
        for row, i in enumerate(batch["index"]):
            if i >= 0:
                assert np.array_equal(batch["images"][row, 0], data.cache[data.targets[i]])
                partner = row + batch["mismatch_offset"][row]
                assert batch["mismatch_weight"][row] == 0 or batch["index"][partner] >= 0
    some = AssistantEvaluation(data, 4, 4, rows=[3, 50, 9])
    assert sorted(np.concatenate([b["index"] for b in some]).tolist()) == [-1, 3, 9, 50]


def test_mismatched_images_are_of_another_category():
    data = make_data()
    shown = data.mismatched(seed=3)
    assert (data.images.labels[shown] != data.images.labels[data.targets]).all()
    assert np.array_equal(shown, data.mismatched(seed=3))
    batches = AssistantEvaluation(data, 16, 16, shown=shown)
    for batch in batches:
        for row, i in enumerate(batch["index"]):
            assert np.array_equal(batch["images"][row, 0], data.cache[shown[i]])


def test_bad_instructions_are_named():
    items = make_instructions()
    for item, message in (
        (ask("x", "k99", "class", "Tips"), "'x': image 'k99' is not in"),
        (ask("x", "k0", "class", "very long " * 60), "'x': needs .* largest bucket"),
        (ask("x", "k0", "class", "Tips", {"category": "Tips"}), "'x': its claims .*'k0'"),
    ):
        with pytest.raises(PipelineError, match=message):
            make_data([*items, item])
    with pytest.raises(PipelineError, match="no instructions"):
        images = make_images()
        cache = ImageCache(images, SIZE, 1, 1)
        AssistantData([], [], images, cache, FORM, BUCKETS)
    with pytest.raises(PipelineError, match="must be the largest"):
        make_data(buckets=[(64, 10, 1), (32, 40, 1)])


def test_sizes_that_do_not_fit():
    with pytest.raises(PipelineError, match="batch size 8 is not a multiple"):
        make_batches(pair_block=3)
    with pytest.raises(PipelineError, match=r"1 host.s. x 2 device.s. x 2 microbatch.es. x 4 row"):
        make_batches(shard=Shard(microbatches=2, devices=2))  # a pair would span two devices
    with pytest.raises(PipelineError, match=r"48 row.s. do not fill one batch of 64"):
        make_batches(batch_size=64)
    with pytest.raises(PipelineError, match="host 2 of 2"):
        make_batches(shard=Shard(2, 2))
    with pytest.raises(PipelineError, match="no instruction"):
        AssistantEvaluation(make_data(), 8, 8, rows=[])
    with pytest.raises(IndexError):
        make_batches()[18]

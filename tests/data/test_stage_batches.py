"""Batches of the vision and language stages, and invalid image sets."""

import numpy as np
import pytest
from tiny_batches import SIZE, TOKENIZER, equal, make_data, make_images

from slava_jax.data.datasets.base import DataError, ImageSet
from slava_jax.data.fact_targets import FactTargets
from slava_jax.data.images import ImageError, encode_png
from slava_jax.data.pipeline import (
    Augmentation,
    ImageCache,
    LanguageBatches,
    PipelineError,
    Shard,
    VisionBatches,
    VisionEvaluation,
)


def test_bad_image_sets():
    with pytest.raises(DataError, match="empty"):
        ImageSet([], [], ["a"], [])
    with pytest.raises(DataError, match="key 'k'"):
        ImageSet(["k", "k"], [0, 0], ["a"], [b"", b""])
    with pytest.raises(DataError, match="labels must be in"):
        ImageSet(["k"], [1], ["a"], [b""])
    cache = ImageCache(ImageSet(["k"], [0], ["a"], [b"junk"], name="mine"), 8, 1, 1)
    with pytest.raises(ImageError, match="mine: image 'k'"):
        cache[0]


def test_vision_batches():
    images = make_images(26)
    cache = ImageCache(images, SIZE, 3, 1)
    batches = VisionBatches(images, cache, 8, seed=0, epochs=2)
    assert (len(batches), batches.batches_per_epoch) == (6, 3)
    index = np.concatenate([b["index"] for b in batches]).reshape(2, 24)
    assert all(len(set(epoch)) == 24 for epoch in index.tolist())
    assert not np.array_equal(*index)
    for i in range(6):
        batch = batches[i]
        assert np.array_equal(batch["labels"], images.labels[batch["index"]])
        assert np.array_equal(batch["images"], [cache[k] for k in batch["index"]])
        parts = [VisionBatches(images, cache, 8, 0, 2, shard=Shard(k, 2))[i] for k in range(2)]
        equal(batch, {name: np.concatenate([p[name] for p in parts]) for name in batch})
    turned = VisionBatches(images, cache, 8, 0, 2, Augmentation())
    again = VisionBatches(images, cache, 8, 0, 2, Augmentation())
    assert not np.array_equal(turned[0]["images"], batches[0]["images"])
    equal(turned[4], again[4])
    with pytest.raises(PipelineError, match="26 row"):
        VisionBatches(images, cache, 32, 0, 1)


def test_directions_are_those_of_the_images_as_shown():
    """Images with one bright row: horizontal as stored, vertical after a quarter turn."""
    lined = np.zeros((SIZE, SIZE), np.uint8)
    lined[SIZE // 2] = 255
    known = [{"direction": word} for word in ("horizontal", "vertical")] * 20
    stored = [encode_png(picture) for picture in (lined, lined.T)] * 20
    images = ImageSet([str(i) for i in range(40)], [0] * 40, ["a"], stored, facts=known)
    facts = FactTargets.of(known)
    (_, values), *_ = facts.words
    cache = ImageCache(images, SIZE, 1, 1)
    seen = set()
    for batch in VisionBatches(images, cache, 8, 0, 4, Augmentation(), facts=facts):
        for row, word in enumerate(batch["fact_words"][:, 0]):
            along_rows = batch["images"][row, ..., 0].max(axis=0).min() == 255
            assert values[word] == ("horizontal" if along_rows else "vertical")
            seen.add((values[word], known[batch["index"][row]]["direction"]))
    assert len(seen) == 4  # both, turned and not


def test_vision_evaluation():
    images = make_images(10)
    cache = ImageCache(images, SIZE, 1, 1)
    batches = list(VisionEvaluation(images, cache, 4))
    index = np.concatenate([b["index"] for b in batches])
    assert index.tolist() == [*range(10), -1, -1]
    weight = np.concatenate([b["row_weight"] for b in batches])
    assert np.array_equal(weight, index >= 0)
    pixels = np.concatenate([b["images"] for b in batches])[:10]
    assert np.array_equal(pixels, [cache[i] for i in range(10)])
    assert {b["images"].shape for b in batches} == {(4, SIZE, SIZE, 1)}


def test_language_batches():
    data = make_data()
    batches = LanguageBatches(data.examples, TOKENIZER.eos_token_id, 16, 4, seed=0, epochs=2)
    texts = ['<s>' + item.question.replace('<image>', '') + item.answer + '</s>'
             for item in data.instructions]  # fmt: skip
    first = [batches[i] for i in range(batches.batches_per_epoch)]
    stream = np.concatenate([b["tokens"].ravel() for b in first])
    seen = TOKENIZER.decode(stream).split("</s>")[:-1]
    assert set(t + "</s>" for t in seen) <= set(texts) and len(seen) > len(texts) - 10
    for i, batch in enumerate(first):
        flat = np.append(batch["tokens"].ravel()[1:], batch["targets"][-1, -1])
        assert np.array_equal(batch["targets"].ravel(), flat)
        assert (batch["target_weights"] == 1).all()
        assert (batch["order"] == np.arange(16)).all()
        parts = [LanguageBatches(data.examples, 3, 16, 4, 0, 2, Shard(k, 2))[i] for k in range(2)]
        equal(batch, {name: np.concatenate([p[name] for p in parts]) for name in batch})
    second = batches[batches.batches_per_epoch]
    assert not np.array_equal(second["tokens"], first[0]["tokens"])
    with pytest.raises(PipelineError, match="text of"):
        LanguageBatches(data.examples[:1], 3, 16, 4, 0, 2)

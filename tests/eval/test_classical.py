"""The classical baseline, and the difficulty of the procedural set measured with it."""

import json
from pathlib import Path

import numpy as np
import pytest

from slava_jax.eval import classical

RESULT = Path(__file__).parents[2] / "experiments" / "classical.json"


def textures(n, seed):
    """Three kinds of pictures (white noise, smooth noise, stripes) with random contrast."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = []
    for label in labels:
        picture = rng.standard_normal((64, 64))
        if label == 1:
            picture = sum(np.roll(picture, (i, j), (0, 1)) for i in range(6) for j in range(6)) / 6
        elif label == 2:
            picture = 0.2 * picture + np.sin(np.arange(64) * rng.uniform(0.5, 1.2))
        images.append(128 + rng.uniform(10, 35) * picture)
    return np.clip(images, 0, 255).astype(np.uint8), labels


def test_features_are_finite_and_of_one_length():
    images, _ = textures(4, 0)
    images[0] = 7  # a constant picture has no gradients, contrast or spectrum
    rows = classical.features(images)
    assert rows.shape[0] == 4 and rows.dtype == np.float32
    assert np.isfinite(rows).all()
    assert np.array_equal(classical.features(images[1:2])[0], rows[1])


def test_colour_channels_are_averaged():
    images, _ = textures(2, 0)
    assert np.allclose(
        classical.features(np.repeat(images[..., None], 3, 3)),
        classical.features(images),
        atol=1e-4,
    )


def test_power_of_a_wave_is_in_its_ring():
    x = np.arange(128)
    edges = np.geomspace(1 / 128, 0.5, classical.BANDS + 1)
    for ring in (3, 6, 9):
        frequency = np.sqrt(edges[ring] * edges[ring + 1])
        wave = np.tile(np.sin(2 * np.pi * frequency * x), (128, 1))
        assert np.argmax(classical._spectrum(wave)) == ring


def test_learns_textures_and_gives_probabilities():
    train, labels = textures(60, 1)
    test, truth = textures(30, 2)
    train, test = classical.features(train), classical.features(test)
    scores = classical.class_probabilities(train, labels, test, 3)
    assert (scores.argmax(1) == truth).mean() > 0.9
    assert scores.shape == (30, 3)
    assert np.allclose(scores.sum(1), 1)
    shuffled = np.random.default_rng(0).permutation(labels)
    scores = classical.class_probabilities(train, shuffled, test, 3)
    assert (scores.argmax(1) == truth).mean() < 0.7


def test_a_class_without_a_training_image_has_probability_0():
    """A rare class may be missing from the sample; the others keep their columns."""
    train, labels = textures(60, 1)
    test, truth = textures(30, 2)
    kept = labels != 1
    train, test = classical.features(train[kept]), classical.features(test)
    scores = classical.class_probabilities(train, labels[kept], test, 4)
    assert scores.shape == (30, 4) and not scores[:, [1, 3]].any()
    assert (np.argmax(scores, 1) == truth)[truth != 1].mean() > 0.9


def test_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        classical.features(np.zeros((4, 4), np.uint8))


def test_committed_result_keeps_the_promise():
    """The difficulty of the micrographs was fixed before any model was trained on them."""
    result = json.loads(RESULT.read_text())
    assert 0.55 <= result["top1"] <= 0.80
    assert result["bar_only_top1"] < 0.15
    assert result["train_images"] >= 2800 and result["test_images"] >= 800
    rate = result["images_per_second_per_core"]
    assert min(rate.values()) >= 30 and result["images_per_second_per_core_mean"] >= 80


@pytest.mark.slow
def test_difficulty_measured_again():
    from experiments import classical as experiment

    committed = json.loads(RESULT.read_text())
    result = experiment.measure(280, 80, 256, workers=2)
    assert experiment.BAND[0] <= result["top1"] <= experiment.BAND[1]
    assert result["bar_only_top1"] < experiment.BAR_LIMIT
    assert result["top1"] == pytest.approx(committed["top1"], abs=0.02)

"""Procedural micrographs: determinism, correct records, imaging independent of the category."""

import itertools

import numpy as np
import pytest

from slava_jax.eval import classical
from slava_jax.synthetic import detector
from slava_jax.synthetic.micrographs import draw
from slava_jax.synthetic.records import CATEGORIES, GroundTruth
from slava_jax.synthetic.scenes.geometry import (
    Canvas,
    Outline,
    arc_steps,
    curves,
    grains,
    mosaic,
    tubes,
)
from slava_jax.synthetic.scenes.measure import Scene, aggregation, axial, neighbours, roughen

SEEDS = range(12)
# Category, count, block means: drawn with numpy 2.4.6, scipy 1.17.1 on x86-64.
GOLDEN = [
    ("Biological", 2, [
        27.0, 23.2, 15.0, 3.9, 37.7, 34.6, 27.4, 14.3, 53.3, 43.9, 48.3, 34.5, 46.6, 45.1, 55.9,
        57.0,
    ]),
    ("Films_Coated_Surface", 41, [
        142.7, 138.2, 138.9, 135.4, 139.0, 142.8, 149.7, 137.1, 130.6, 141.3, 142.0, 137.0,
        102.5, 106.6, 99.3, 104.1,
    ]),
    ("MEMS_devices_and_electrodes", 2, [
        59.1, 104.3, 104.8, 59.2, 59.6, 59.6, 59.7, 59.7, 59.6, 74.8, 72.3, 59.2, 117.1,
        143.1, 144.9, 114.9,
    ]),
    ("Nanowires", 210, [
        134.7, 120.3, 118.0, 125.6, 130.8, 123.7, 112.2, 109.3, 122.7, 124.6, 123.0, 122.4, 84.1,
        94.7, 97.2, 95.2,
    ]),
    ("Powder", 243, [
        54.0, 54.1, 51.9, 48.0, 79.5, 80.4, 76.7, 69.5, 84.5, 94.1, 88.5, 78.6, 83.6, 82.1,
        83.6, 75.8,
    ]),
]  # fmt: skip


@pytest.fixture(scope="module")
def drawn():
    return {(c, s): draw(c, s) for c, s in itertools.product(CATEGORIES, SEEDS)}


def canvas(size=256, seed=0):
    return Canvas(np.random.default_rng(seed), size - detector.bar_height(size), size)


def test_same_arguments_same_micrograph(drawn):
    for category in CATEGORIES:
        again = draw(category, 3)
        assert np.array_equal(again.image, drawn[category, 3].image)
        assert again.truth == drawn[category, 3].truth
        assert not np.array_equal(again.image, drawn[category, 4].image)


def test_images_have_contrast(drawn):
    for micrograph in drawn.values():
        image = micrograph.image
        assert image.shape == (256, 256) and image.dtype == np.uint8
        scene = image[: -micrograph.bar_height]
        assert scene.std() > 4, "nothing to see"
        assert ((scene == 0) | (scene == 255)).mean() < 0.9, "burnt out"
        bar = image[-micrograph.bar_height :]
        assert len(np.unique(bar)) == 2, "the bar is ink and paper"


def test_record_is_consistent(drawn):
    for (category, _), micrograph in drawn.items():
        t = micrograph.truth
        assert t.category == category
        assert GroundTruth.from_json(t.to_json()) == t
        assert 0 <= t.coverage <= 1
        assert t.count is None or t.count >= 0
        if t.size_nm is not None:
            assert 0 < t.size_nm.minimum <= t.size_nm.mean <= t.size_nm.maximum
            assert t.size_nm.std >= 0
        if t.orientation_deg is not None:
            assert 0 <= t.orientation_deg < 180
        assert t.spacing_nm is None or t.spacing_nm > 0
        assert t.order in ("ordered", "partly ordered", "random")
        assert t.alignment in (None, "aligned", "partly aligned", "random")
        assert t.aggregation in ("isolated", "touching", "clustered", "continuous")
        assert t.texture in ("smooth", "grainy", "rough")
        assert t.composition in ("uniform", "bright second phase")
        assert set(t.artefacts) <= {"charging", "shading", "noise"}
        assert all(n > 0 for n in t.defects.values())


@pytest.mark.parametrize("category", ["Particles", "Powder", "Fibres", "Nanowires", "Tips"])
def test_countable_features_are_counted(drawn, category):
    for seed in SEEDS:
        truth = drawn[category, seed].truth
        assert truth.count >= 1 and truth.size_nm is not None
        assert truth.coverage > 0


def test_every_kind_of_scene_and_artefact_occurs(drawn):
    truths = [m.truth for m in drawn.values()]
    for category in CATEGORIES:
        shapes = {(t.feature, t.shape) for t in truths if t.category == category}
        assert len(shapes) >= (1 if category in ("Fibres", "Nanowires") else 2), category
    assert {a for t in truths for a in t.artefacts} == {"charging", "shading", "noise"}
    assert {t.texture for t in truths} == {"smooth", "grainy", "rough"}
    assert {t.order for t in truths} == {"ordered", "partly ordered", "random"}


@pytest.mark.parametrize("size", [64, 300, 512])
def test_field_of_view_is_the_same_at_every_size(size):
    for category in CATEGORIES:
        small, other = draw(category, 5), draw(category, 5, size)
        assert other.image.shape == (size, size)
        field = small.truth.nm_per_pixel * 256
        assert other.truth.nm_per_pixel * size == pytest.approx(field, rel=1e-3)
        assert other.truth.magnification == small.truth.magnification
        assert other.bar_height == detector.bar_height(size)
        if other.truth.size_nm is not None and other.truth.feature != "layer":
            assert other.truth.size_nm.maximum < 2 * field


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("Cats", 0), "Cats"), (("Tips", -1), "seed"), (("Tips", 0, 32), "size")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(*arguments)


# --- measurements agree with the drawing


def test_discs_cover_their_area_and_hide_each_other():
    c = canvas()
    centres, radii = (
        np.array([[60.0, 60], [160, 120]], np.float32),
        np.array([20.0, 30], np.float32),
    )
    height, ident = grains(c, centres, radii, radii, Outline(), c.zeros())
    area = (ident >= 0).sum()
    assert area == pytest.approx(np.pi * (20**2 + 30**2), rel=0.02)
    assert height.max() == pytest.approx(60, abs=0.1)
    assert ident[60, 60] == 0 and ident[120, 160] == 1 and ident[5, 5] == -1
    centres[1] = centres[0]
    _, ident = grains(c, centres, radii, radii, Outline(), c.zeros())
    assert not (ident == 0).any(), "the higher one hides the lower one"


def test_a_tube_covers_its_width_without_gaps():
    c = canvas(512)
    path = curves(c, np.array([[-20.0, 100]]), np.array([0.0]), 300, 0.0)
    painted = tubes(c, path, np.array([[8.0]]), np.zeros((1, 1)))
    column = painted.mask[:, 250]
    assert column.sum() / c.scale == pytest.approx(16, abs=1.5)
    rows = slice(int(95 * c.scale), int(105 * c.scale))
    assert painted.mask[rows].all(), "no holes"
    assert arc_steps(c, 300) == path.shape[1]


def test_mosaic_finds_the_nearest_seed():
    c = canvas()
    cells = mosaic(c.rng, c.x, c.y, 40.0, 0.5)
    at = np.array([c.x[0, 77], c.y[91, 0]])
    distance = np.sort(np.linalg.norm(cells.seeds - at, axis=1))
    assert cells.nearest[91, 77] == pytest.approx(distance[0], abs=1e-3)
    assert cells.second[91, 77] == pytest.approx(distance[1], abs=1e-3)


def test_noise_has_unit_variance():
    assert canvas().noise(4).std() == pytest.approx(1, abs=0.1)


def test_order_of_lattices_and_random_points():
    i, j = np.meshgrid(np.arange(12.0), np.arange(12.0))
    lattice = 10 * np.stack([i.ravel(), j.ravel()], 1)
    rng = np.random.default_rng(0)
    assert neighbours(lattice) == (10.0, "ordered")
    assert neighbours(lattice + rng.normal(0, 0.7, lattice.shape))[1] == "partly ordered"
    assert neighbours(rng.uniform(0, 120, (144, 2)))[1] == "random"
    assert neighbours(lattice[:1]) == (None, "random")


def test_aggregation_follows_contacts():
    line = np.stack([np.arange(8) * 10.0, np.zeros(8)], 1)
    assert aggregation(line, np.full(8, 2.0)) == "isolated"
    assert aggregation(line, np.full(8, 5.0)) == "clustered"
    pairs = np.array([[0.0, 0], [9, 0], [50, 0], [59, 0]])
    assert aggregation(pairs, np.full(4, 5.0)) == "touching"


def test_orientation_turns_counter_clockwise_with_y_down():
    assert axial(np.full(5, -np.pi / 4)) == (45.0, "aligned")
    assert axial(np.array([0.0, np.pi])) == (0.0, "aligned")
    assert axial(np.linspace(0, np.pi, 20, endpoint=False)) == (None, "random")


def test_edges_are_bright():
    c = canvas()
    height, ident = grains(
        c,
        np.array([[128.0, 116]], np.float32),
        np.array([40.0]),
        np.array([30.0]),
        Outline(),
        c.zeros(),
    )
    scene = Scene(height, c.zeros(), ident >= 0, "particle", "spherical")
    for seed in range(5):
        image = detector.shade(canvas(seed=seed), scene, "InLens")
        away = np.hypot(c.x - 128, c.y - 116)
        rim, middle = image[(away > 36) & (away < 40)].mean(), image[away < 12].mean()
        assert rim > middle


def test_only_wide_surfaces_are_textured():
    """A texture that no pixel shows must not be stated."""
    found = {}
    for name, wide in (("wide", 60), ("narrow", 6)):
        for seed in range(40):
            c = canvas(seed=seed)
            where = (c.x % (2 * wide)) < wide
            scene = Scene(c.zeros(), c.zeros(), where, "line", "rectangular")
            roughen(c, scene, where)
            assert (np.ptp(scene.height) > 0) == (scene.texture != "smooth")
            found.setdefault(name, set()).add(scene.texture)
    assert found == {"wide": {"smooth", "grainy", "rough"}, "narrow": {"smooth"}}


def test_drift_moves_the_mask_with_the_picture():
    c = canvas(seed=0)
    tall = np.zeros((c.rows, c.columns), np.float32)
    tall[:, 100:140] = 10
    moved = 0
    for seed in range(30):
        scene = Scene(tall, tall / 10, tall > 0, "line", "rectangular")
        image, artefacts = detector.expose(canvas(seed=seed), scene, "BSE")
        if not np.array_equal(scene.mask, tall > 0) and "charging" not in artefacts:
            moved += 1
            inside = scene.mask[:, :].astype(bool)
            assert image[inside].mean() != pytest.approx(image[~inside].mean(), abs=1)
    assert moved


# --- the instrument


def test_scale_bar_is_a_round_length():
    for field in (600.0, 12345.0, 399e3):
        length, text = detector.scale_bar(field)
        assert 0.09 * field < length <= 0.25 * field
        assert str(int(length)).strip("0") in ("1", "2", "5")
        value, unit = text.split()
        assert int(value) * (1 if unit == "nm" else 1000) == length


def test_scale_bar_has_the_stated_length():
    taken = detector.Acquisition(10_000.0, 5.0, 4.0, "SE2")
    for size in (256, 512, 1024):
        bar = detector.data_bar(taken, size, np.random.default_rng(0))
        factor = size // 256
        ink = bar[17 * factor] != bar[-1, -1]
        pixels = ink[: 82 * factor].sum()
        length, _ = detector.scale_bar(10_000.0)
        assert pixels / size * 10_000 == pytest.approx(length, rel=0.03)


def acquisition(category, seed):
    key = np.random.SeedSequence((seed, CATEGORIES.index(category)))
    return detector.draw_acquisition(np.random.default_rng(key))


def test_acquisition_is_independent_of_the_category(drawn):
    """Magnification, voltage and working distance have the same distribution in all categories."""
    for (category, seed), micrograph in drawn.items():
        taken, truth = acquisition(category, seed), micrograph.truth
        assert (truth.kv, truth.detector) == (taken.kv, taken.detector)
        assert truth.working_distance_mm == taken.working_distance_mm
        assert truth.magnification == taken.magnification
    taken = [[acquisition(c, s) for s in range(200)] for c in CATEGORIES]
    for value in ("field_nm", "kv", "working_distance_mm"):
        table = np.log([[getattr(t, value) for t in row] for row in taken])
        spread = table.std() / np.sqrt(table.shape[1])
        assert np.abs(table.mean(1) - table.mean()).max() < 3.5 * spread


@pytest.mark.slow
def test_the_bar_alone_does_not_reveal_the_category():
    """The limit is 0.15 on a full set; 0.165 is 3 standard deviations above chance (0.10) here."""
    bars, labels = [], []
    for seed, (k, category) in itertools.product(range(80), enumerate(CATEGORIES)):
        key = np.random.SeedSequence((seed, k))
        rng = np.random.default_rng(key)
        bars.append(detector.data_bar(detector.draw_acquisition(rng), 256, rng)[:, ::3].ravel())
        labels.append(k)
        if seed == 0:  # the micrograph's own bar
            micrograph = draw(category, seed)
            assert np.array_equal(micrograph.image[-micrograph.bar_height :, ::3].ravel(), bars[-1])
    rows, labels = np.array(bars, np.float32) / 255, np.array(labels)
    predicted, _ = classical.fit_predict_rows(rows[:600], labels[:600], rows[600:])
    assert (predicted == labels[600:]).mean() < 0.165


# --- the pictures themselves


@pytest.mark.parametrize(("category", "count", "blocks"), GOLDEN)
def test_the_pictures_have_not_changed(category, count, blocks):
    """Means of 4 x 4 blocks of seed 7 at 256 px, drawn when the difficulty was measured.

    A hash would not work, since the last bit of a sine depends on the processor. After changing the
    pictures, run `experiments/classical.py` again, then update these values.
    """
    micrograph = draw(category, 7)
    assert micrograph.truth.count == count
    means = micrograph.image.reshape(4, 64, 4, 64).mean((1, 3)).round(1)
    assert np.allclose(means.ravel(), blocks, atol=0.6)

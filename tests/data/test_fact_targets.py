"""Facts become targets as the picture shows them, and gaps stay gaps."""

import math

import numpy as np
import pytest

from slava_jax.data.fact_targets import FactTargets
from slava_jax.data.images import symmetric, symmetries
from slava_jax.synthetic.facts import DIRECTIONS


def known(size_nm, nm_per_pixel=2.0, **more):
    return {"pore_size_nm": size_nm, "nm_per_pixel": nm_per_pixel, "width_px": 100, **more}


def test_a_length_is_learned_as_a_share_of_the_width():
    """The same picture at another magnification has the same target."""
    facts = [known(size) for size in np.geomspace(2, 100, 30)]
    targets = FactTargets.of(facts)
    assert [name for name, *_ in targets.numbers] == ["pore_size_nm"] and not targets.words
    (_, mean, deviation) = targets.numbers[0]
    found = targets.arrays([known(20), known(200, 20.0), {"pore_size_nm": 20.0}])["fact_numbers"]
    assert found[0, 0] == pytest.approx((math.log(20 / 200) - mean) / deviation)
    assert found[1, 0] == pytest.approx(found[0, 0])
    assert np.isnan(found[2, 0])  # without a pixel size it is unknown


def test_targets_are_standardized_and_zeros_are_unknown():
    facts = [{"count": n} for n in [*range(1, 41), 0, 0]]
    found = FactTargets.of(facts).arrays(facts)["fact_numbers"][:, 0]
    assert np.isnan(found[-2:]).all()
    assert found[:-2].mean() == pytest.approx(0, abs=1e-5)
    assert found[:-2].std() == pytest.approx(1, abs=1e-5)


def test_all_values_of_a_word_weigh_the_same():
    facts = [{"drift": True}] * 20 + [{"drift": False}] * 60 + [{}] * 7
    targets = FactTargets.of(facts)
    assert targets.words == (("drift", ("False", "True")),) and targets.outputs == 2
    words = targets.arrays(facts)["fact_words"][:, 0]
    counts = np.bincount(words + 1)
    assert counts.tolist() == [7, 60, 20]
    assert np.multiply(targets.word_weights[0], counts[1:]).tolist() == pytest.approx([40, 40])


def test_rare_and_constant_facts_and_those_of_the_instrument_are_not_learned():
    facts = [{"kv": 1.0 + i, "category": str(i % 2), "sort": "a", "size": 3.0} for i in range(40)]
    facts[0]["flaw"] = "hole"
    targets = FactTargets.of(facts)
    assert targets.outputs == 0
    arrays = targets.arrays(facts)
    assert arrays["fact_numbers"].shape == arrays["fact_words"].shape == (40, 0)


def test_a_constant_number_is_not_learned_and_outliers_are_cut_off():
    facts = [{"x": 0.7, "y": 1.0 + i} for i in range(40)]
    targets = FactTargets.of(facts)
    assert targets.names == ("y",)
    assert targets.arrays([{"y": 1e300}])["fact_numbers"][0, 0] == 8


def test_directions_turn_with_the_image():
    """Every symmetry of the square, against the direction of a line in the turned picture."""
    facts = [{"direction": name} for name in DIRECTIONS] * 20
    targets = FactTargets.of(facts)
    (_, values), *_ = targets.words
    lines = {name: line(name) for name in DIRECTIONS}
    for symmetry in symmetries(True, 4):
        words = targets.arrays(facts[:4])["fact_words"]
        turned = targets.turned(words, [symmetry] * 4)
        for row, name in enumerate(DIRECTIONS):
            shown = symmetric(lines[name], *symmetry)
            assert np.array_equal(shown, lines[values[turned[row, 0]]]), (name, symmetry)


def line(name):
    """A line through the middle, uint8[9, 9, 1]; rows run down, so a rising one is antidiagonal."""
    picture = np.zeros((9, 9, 1), np.uint8)
    along = np.arange(9)
    rows = {"horizontal": 4, "rising": 8 - along, "vertical": along, "falling": along}[name]
    picture[rows, 4 if name == "vertical" else along] = 1
    return picture


def test_a_direction_without_a_turned_name_is_unknown():
    """If no training image is vertical, a turned horizontal one has no target."""
    facts = [{"direction": "horizontal"}, {"direction": "rising"}] * 20
    targets = FactTargets.of(facts)
    words = targets.arrays(facts[:2])["fact_words"]
    assert targets.turned(words, [(0, 1), (0, 2)])[:, 0].tolist() == [-1, words[1, 0]]
    assert not FactTargets.of([{"direction": name} for name in ("north", "south")] * 20).words

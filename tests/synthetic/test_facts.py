import dataclasses
import re

import pytest

from slava_jax.synthetic.facts import about, direction, facts, length_text, supplement
from slava_jax.synthetic.records import GroundTruth, SizeDistribution

RECORD = GroundTruth(
    category="Nanowires",
    width_px=224,
    nm_per_pixel=2.0,
    magnification=50_123,
    kv=5.0,
    working_distance_mm=4.0,
    detector="SE2",
    feature="wire",
    shape="cylindrical",
    count=33,
    size_nm=SizeDistribution("diameter", 42.0, 8.0, 20.0, 60.0),
    spacing_nm=90.0,
    order="random",
    orientation_deg=30.0,
    alignment="partly aligned",
    aggregation="touching",
    texture="rough",
    coverage=0.41,
    composition="uniform",
    defects={"crack": 2, "debris": 3},
    artefacts=("charging", "noise"),
)


def test_adjectives_depend_on_the_numbers():
    table = facts(RECORD)
    assert table["coverage_level"] == "moderate"
    assert table["uniformity"] == "varied"  # 8 / 42
    assert table["packing"] == "loose"  # 90 / 42
    assert table["mean_size_px"] == 21.0
    assert table["direction"] == "rising"
    assert table["main_defect"] == "debris"
    assert table["total_defects"] == 5
    assert table["artefact_noise"] and not table["artefact_shading"]
    assert "mean_size_nm" not in facts(dataclasses.replace(RECORD, size_nm=None))


@pytest.mark.parametrize(
    ("changes", "fact", "word"),
    [
        ({"coverage": 0.0}, "coverage_level", "low"),
        ({"coverage": 0.299}, "coverage_level", "low"),
        ({"coverage": 0.3}, "coverage_level", "moderate"),
        ({"coverage": 0.599}, "coverage_level", "moderate"),
        ({"coverage": 0.6}, "coverage_level", "high"),
        ({"coverage": 1.0}, "coverage_level", "high"),
        ({"std": 14.9}, "uniformity", "uniform"),
        ({"std": 15.0}, "uniformity", "varied"),
        ({"std": 35.0}, "uniformity", "broad"),
        ({"spacing_nm": 149.9}, "packing", "dense"),
        ({"spacing_nm": 150.0}, "packing", "loose"),
        ({"spacing_nm": 300.0}, "packing", "sparse"),
    ],
)
def test_adjective_boundaries(changes, fact, word):
    size = SizeDistribution("diameter", 100.0, 10.0, 50.0, 150.0)
    of_size = {name: value for name, value in changes.items() if name in ("mean", "std")}
    rest = {name: value for name, value in changes.items() if name not in of_size}
    truth = dataclasses.replace(RECORD, size_nm=dataclasses.replace(size, **of_size), **rest)
    assert facts(truth)[fact] == word


def test_the_supplement_gives_two_digits():
    coarse = dataclasses.replace(RECORD, nm_per_pixel=1234.0, magnification=87)
    assert supplement(coarse) == "Pixel size 1.2 µm, magnification 87x."


def test_directions_cover_45_degrees_each():
    said = [direction(degrees) for degrees in (0, 22, 23, 67, 68, 112, 113, 157, 158, 179)]
    assert said == [
        *("horizontal", "horizontal", "rising", "rising", "vertical", "vertical"),
        *("falling", "falling", "horizontal", "horizontal"),
    ]


@pytest.mark.parametrize(
    ("nm", "said"),
    [(0.9, "1 nm"), (42, "40 nm"), (57, "60 nm"), (995, "1 µm"), (1260, "1.2 µm"), (3e4, "30 µm")],
)
def test_lengths_are_rounded(nm, said):
    assert length_text(about(nm)) == said
    assert abs(about(nm) / nm - 1) < 0.17


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("nm_per_pixel", 0.0, "nm_per_pixel"),
        ("magnification", -5, "magnification"),
        ("coverage", 1.2, "coverage"),
        ("coverage", float("nan"), "coverage"),
        ("spacing_nm", 0.0, "spacing_nm"),
        ("size_nm", SizeDistribution("width", 0.0, 0.0, 0.0, 0.0), "size_nm.mean"),
        ("size_nm", SizeDistribution("width", 1.0, -1.0, 0.0, 0.0), "size_nm.std"),
        ("category", " ", "category"),
    ],
)
def test_an_invalid_record_names_the_field(field, value, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        facts(dataclasses.replace(RECORD, **{field: value}))

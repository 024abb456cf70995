"""Units of length are known in every spelling."""

import pytest

from slava_jax.data.lengths import NM, nm_per_unit


@pytest.mark.parametrize(
    ("nm", "spellings"),
    [
        (1e-3, "pm picometer picometres"),
        (0.1, "Å Å \\u00C5 \\u212b angstrom Angstroms ångström"),
        (1.0, "nm NM nanometer Nanometres ㎚"),
        (1e3, "um µm μm \\u00B5m \\u00b5m \\u03BCm \\u03bcm Âµm Î¼m ?m \ufffdm ㎛"),
        (1e3, "micron Microns micrometer micrometers micrometre MICROMETRES"),
        (1e6, "mm millimeter millimetres"),
        (1e7, "cm centimeter centimetres"),
        (1e9, "m meter metres"),
    ],
)
def test_spellings(nm, spellings):
    for unit in spellings.split():
        assert nm_per_unit(unit) == nm_per_unit(f" {unit} ") == nm, unit


@pytest.mark.parametrize("unit", ["", "pixel", "pixels", "inch", "sec", "µ", "nmm", "m" * 10**6])
def test_other_units(unit):
    assert nm_per_unit(unit) is None


def test_a_lone_m_is_no_unit_in_a_sentence():
    assert "m" not in NM and "nm" in NM

"""Units of length, in every spelling that people, instruments and programs write."""

import re
import unicodedata

# nm per unit, for running text. A lone "m" is not among them: it may be any abbreviation.
NM = {"pm": 1e-3, "nm": 1.0, "um": 1e3, "mm": 1e6, "cm": 1e7}
NM |= dict.fromkeys(("µm", "μm"), 1e3) | dict.fromkeys(("Å", "Å"), 0.1)  # two code points each
for _prefix, _nm in (("pico", 1e-3), ("nano", 1.0), ("micro", 1e3), ("milli", 1e6), ("centi", 1e7)):
    NM |= {f"{_prefix}{_name}": _nm for _name in ("meter", "metre", "meters", "metres")}
NM |= dict.fromkeys(("micron", "microns"), 1e3)
NM |= dict.fromkeys(("angstrom", "angstroms", "ångström", "ångströms"), 0.1)

_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
# A micro sign in UTF-8 that was read as Latin-1, and one that was lost.
_GARBLED = {"Âµ": "µ", "Î¼": "µ", "?": "µ", "\ufffd": "µ"}
_LONGEST = 32  # characters


def _plain(unit: str) -> str:
    """The unit in lower case, with one code point for each letter."""
    unit = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), unit.strip())
    for wrong, right in _GARBLED.items():
        unit = unit.replace(wrong, right)
    return unicodedata.normalize("NFKC", unit).lower()


_SPELT = {_plain(unit): nm for unit, nm in NM.items()}
_SPELT |= dict.fromkeys(("m", "meter", "metre", "meters", "metres"), 1e9)


def nm_per_unit(unit: str) -> float | None:
    r"""The length of a unit in nm; None if it is not a unit of length.

    Case, plural, British or American spelling make no difference, nor do the code point and
    encoding of the micro sign, nor escapes such as `\u00B5`.
    """
    return _SPELT.get(_plain(unit)) if len(unit) <= _LONGEST else None

"""Lengths as shares of the image's width: how text reads to the model, and back.

An image shows no nanometres, and a model cannot multiply. So the text that a model reads and writes
has lengths in percent of the width of the image, and the program converts: from units in training
data and questions, into units in answers. In the same way the magnification and the pixel size,
which only the user knows, are filled in by the program, and left out where they are unknown.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from slava_jax.data.instructions import Instruction
from slava_jax.data.lengths import NM
from slava_jax.synthetic import facts as fact_rules

# Bounded and possessive: a long list of digits would otherwise be read again from each of them.
_NUMBER = r"(\d[\d,]{0,24}+(?:\.\d{1,24}+)?+)"
# '20 to 50 nm', '40 ± 5 nm': the unit is that of both numbers.
_RANGE = rf"(?:{_NUMBER}( ?(?:[-–—±x×]|\bto\b|\band\b) ?))?"
_START = r"(?<![\w.])"
_DIGITS = 24  # a longer number is no length
_LENGTH = re.compile(rf"{_START}{_RANGE}{_NUMBER}[ \u00a0]?({'|'.join(NM)})\b(?![/^])")
_SHARE = re.compile(rf"{_START}{_RANGE}{_NUMBER} percent of the width\b")
_MAGNIFIED = re.compile(rf"\bmagnified {_NUMBER} times\b")
_GIVEN_MAGNIFICATION = "magnified as given"
_PIXEL = re.compile(rf"\bOne pixel of the image corresponds to {_NUMBER} ({'|'.join(NM)})\b")
_GIVEN_PIXEL = "One pixel of the image corresponds to the given length"
# As written by synthetic.facts.supplement_text.
_SUPPLEMENT = re.compile(
    rf"(?:Pixel size {_NUMBER} (?:nm|µm)(?:, magnification {_NUMBER}x)?|Magnification {_NUMBER}x)\."
)
# Two digits of a length leave 5 % open, within which the teacher's nearest step is meant.
_OPEN = 0.055


@dataclasses.dataclass(frozen=True)
class Scale:
    """What is known of an image's scale.

    Attributes:
      nm_per_pixel, width_px: of the recorded image, in the same pixels.
      magnification: as the instrument states it.
    """

    nm_per_pixel: float | None = None
    width_px: int | None = None
    magnification: float | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Scale":
        """The scale among the facts of an image."""
        return cls(*(facts.get(f.name) for f in dataclasses.fields(cls)))

    @property
    def width_nm(self) -> float | None:
        """The width of the image in nm, if known."""
        if self.nm_per_pixel is None or self.width_px is None:
            return None
        return self.nm_per_pixel * self.width_px


def to_shares(text: str, scale: Scale) -> str:
    """Replaces lengths, magnification and pixel size by what the model can see.

    Without a pixel size lengths stay as they are.
    """
    if scale.magnification is not None:
        text = _MAGNIFIED.sub(_GIVEN_MAGNIFICATION, text)
    width = scale.width_nm
    if width is None:
        return text
    text = _PIXEL.sub(_GIVEN_PIXEL, text)

    def share(match: re.Match) -> str:
        first, between, last, unit = match.groups()
        if _endless(first, last):
            return match[0]
        said = _percent(_value(last) * NM[unit] / width)
        if first is not None:
            said = f"{_percent(_value(first) * NM[unit] / width)}{between}{said}"
        return f"{said} percent of the width"

    return _LENGTH.sub(share, text)


def to_units(text: str, scale: Scale) -> str:
    """Puts units into an answer; the inverse of `to_shares`, to two digits.

    Without a pixel size a length stays a share of the width. A magnification or pixel size that is
    not known is left out of the sentence.
    """
    if scale.magnification is not None:
        given = f"magnified {fact_rules.round_digits(scale.magnification):,.0f} times"
        text = text.replace(_GIVEN_MAGNIFICATION, given)
    else:
        text = re.sub(rf",? {_GIVEN_MAGNIFICATION}\b", "", text)
    width = scale.width_nm
    if width is None:
        return re.sub(rf" ?{_GIVEN_PIXEL}\.", "", text).strip()
    text = text.replace(
        _GIVEN_PIXEL, f"One pixel of the image corresponds to {_length_text(scale.nm_per_pixel)}"
    )

    def length(match: re.Match) -> str:
        first, between, last = match.groups()
        if _endless(first, last):
            return match[0]
        said = _length_text(_value(last) / 100 * width)
        if first is None:
            return said
        value, unit = said.split()
        start = fact_rules.round_digits(_value(first) / 100 * width / NM[unit])
        return f"{start:.12g}{between}{value} {unit}"

    return _SHARE.sub(length, text)


def lengths_nm(text: str) -> list[tuple[float, tuple[int, int]]]:
    """The lengths with units in a text, in nm, and where they stand; of a range, its upper end."""
    found = (match for match in _LENGTH.finditer(text) if not _endless(match[3]))
    return [(_value(match[3]) * NM[match[4]], match.span()) for match in found]


def in_shares(item: Instruction, scale: Scale) -> Instruction:
    """The instruction as the model reads it; the scale leaves the supplement."""
    supplement = item.metadata["supplement"]
    if scale.width_nm is not None or scale.magnification is not None:
        supplement = _SUPPLEMENT.sub("", supplement).strip()
    return item.reworded(lambda text: to_shares(text, scale), to_shares(supplement, scale))


def _length_text(nm: float) -> str:
    return fact_rules.length_text(fact_rules.round_digits(nm))


def _endless(*numbers: str | None) -> bool:
    return any(number is not None and len(number) > _DIGITS for number in numbers)


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def _percent(share: float) -> str:
    percent = 100 * share
    if percent > 0:
        step = fact_rules.about(percent)
        near = abs(math.log(percent / step)) < _OPEN
        percent = step if near else fact_rules.round_digits(percent)
    return np.format_float_positional(float(f"{percent:.6g}"), trim="-")

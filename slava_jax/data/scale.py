"""Reads pixel size and magnification from an image file or the instrument's accompanying text."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from PIL.TiffImagePlugin import IFDRational

_ZEISS, _FEI = 34118, (34680, 34682)  # private TIFF tags with text
_DESCRIPTION, _X_RESOLUTION, _RESOLUTION_UNIT = 270, 282, 296
_TIFF_UNITS = {2: 25.4e6, 3: 1e7}  # nm: inch and centimetre
_FINEST_PRINT = 2000.0  # nm; coarser TIFF resolutions are those of screens, printers and scanners
_PIXELS = (1e-3, 1e6)  # nm; plausible range of a microscope's pixel size

_NUMBER = r"([0-9.]+(?:[eE][+-]?[0-9]+)?)"
# The micro sign has two code points and may be garbled.
_LENGTH = _NUMBER + r"\s*(pm|nm|[uµμ?\ufffd]m|mm|m)\b"
_UNITS = {"pm": 1e-3, "nm": 1.0, "mm": 1e6, "m": 1e9}  # nm; anything else is micrometres
# Matched by key, since FIB and others have values with the same label.
_ZEISS_PIXEL = re.compile(r"\bAP_(?:IMAGE_)?PIXEL_SIZE\s+[^=\n]*=\s*" + _LENGTH)
_ZEISS_ZOOM = re.compile(r"\bAP_MAG\s+[^=\n]*=\s*" + _NUMBER + r"\s*([KM]?) ?X", re.IGNORECASE)
_FEI_PIXEL = re.compile(r"\[[EI]?Scan\][^\[]*?\bPixelWidth\s*=\s*" + _NUMBER)
_JEOL_ZOOM = re.compile(r"\$CM_MAG\s+" + _NUMBER)
_JEOL_BAR = re.compile(r"\$SM_MICRON_BAR\s+" + _NUMBER)
_JEOL_MARKER = re.compile(r"\$SM_MICRON_MARKER\s+" + _LENGTH)
_IMAGEJ_UNIT = re.compile(r"^unit=(\S+)", re.MULTILINE)
_IMAGEJ_UNITS = {"nm": 1.0, "micron": 1e3, "um": 1e3, "µm": 1e3, r"\u00B5m": 1e3, "mm": 1e6}


def read_scale(path: Path) -> dict[str, float]:
    """Reads the scale of an image file, as far as it is known.

    Zeiss and FEI write it to private TIFF tags, JEOL to a text file with the image's name, ImageJ
    to the TIFF description. A plain TIFF resolution is used only if it is finer than any print,
    below 2 µm per pixel.

    Returns:
      `nm_per_pixel` (horizontal, in the file's pixels) and `magnification`, each if known.
    """
    known = {}
    for name, value in _said(path):
        low, high = _PIXELS if name == "nm_per_pixel" else (1.0, 1e9)
        if low <= value <= high:
            known.setdefault(name, value)
    return known


def _said(path: Path) -> Iterator[tuple[str, float]]:
    """Yields names and values, the most reliable first."""
    tags = {}
    if path.suffix.lower() in (".tif", ".tiff"):
        with Image.open(path) as image:
            tags = dict(getattr(image, "tag_v2", {}))  # empty if the suffix is wrong
    yield from _zeiss(_text(tags.get(_ZEISS, "")))
    for tag in _FEI:
        if found := _FEI_PIXEL.search(_text(tags.get(tag, ""))):
            yield "nm_per_pixel", _float(found[1]) * 1e9
    beside = path.with_suffix(".txt")
    if beside.is_file():
        yield from _jeol(beside.read_text(encoding="utf-8", errors="replace"))
    yield from _resolution(tags)


def _zeiss(text: str) -> Iterator[tuple[str, float]]:
    found = sorted(_ZEISS_PIXEL.finditer(text), key=lambda match: "_IMAGE_" not in match[0])
    if found:
        yield "nm_per_pixel", _nm(found[0])
    if zoom := _ZEISS_ZOOM.search(text):
        yield "magnification", _float(zoom[1]) * {"": 1, "K": 1e3, "M": 1e6}[zoom[2].upper()]


def _jeol(text: str) -> Iterator[tuple[str, float]]:
    bar, marker, zoom = (p.search(text) for p in (_JEOL_BAR, _JEOL_MARKER, _JEOL_ZOOM))
    if bar and marker and _float(bar[1]) > 0:
        yield "nm_per_pixel", _nm(marker) / _float(bar[1])
    if zoom:
        yield "magnification", _float(zoom[1])


def _resolution(tags: dict) -> Iterator[tuple[str, float]]:
    across = tags.get(_X_RESOLUTION)
    if not isinstance(across, int | float | IFDRational) or not across > 0:
        return
    description = _text(tags.get(_DESCRIPTION, ""))
    unit = _IMAGEJ_UNIT.search(description) if description.startswith("ImageJ") else None
    if unit and unit[1] in _IMAGEJ_UNITS:
        yield "nm_per_pixel", _IMAGEJ_UNITS[unit[1]] / float(across)
    elif tags.get(_RESOLUTION_UNIT) in _TIFF_UNITS:
        pixel = _TIFF_UNITS[tags[_RESOLUTION_UNIT]] / float(across)
        if pixel < _FINEST_PRINT:
            yield "nm_per_pixel", pixel


def _nm(length: re.Match) -> float:
    return _float(length[1]) * _UNITS.get(length[2], 1e3)


def _float(number: str) -> float:
    try:
        return float(number)
    except ValueError:  # such as '1.2.3'
        return math.nan


def _text(value) -> str:
    value = value[0] if isinstance(value, tuple) and value else value
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)

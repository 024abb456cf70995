"""Reads pixel size and magnification from an image file or the instrument's accompanying text.

Each instrument's function takes the whole text and the size of the image as stored, and yields what
it says. Texts come from outside: they are cut into lines, and only short pieces are matched.
"""

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from slava_jax.data import tiff
from slava_jax.data.decoding import errors_named, is_tiff, read_header
from slava_jax.data.lengths import nm_per_unit
from slava_jax.errors import UserError

_ZEISS, _FEI, _PHENOM = 34118, (34680, 34682), 34683  # private TIFF tags with text
_DESCRIPTION, _X_RESOLUTION, _RESOLUTION_UNIT = 270, 282, 296
_TIFF_UNITS = {2: 25.4e6, 3: 1e7}  # nm: inch and centimetre
_FINEST_PRINT = 2000.0  # nm; coarser TIFF resolutions are those of screens, printers and scanners
_PLAUSIBLE = {"nm_per_pixel": (1e-3, 1e6), "magnification": (1.0, 1e9)}  # of any microscope
_ZEISS_SCREEN = 1024  # pixels across, to which AP_PIXEL_SIZE belongs at any store resolution
_LONGEST_SIDE_FILE, _LONGEST_XML = 4 << 20, 1 << 18  # bytes that are read
_SHORT = 64  # characters of a value

_NUMBER = r"([0-9.,]+(?:[eE][+-]?[0-9]+)?)"
_LENGTH = re.compile(_NUMBER + r"\s*(\S+)")
_BETWEEN = "[ ,'\u00a0\u2009\u202f]"  # thousands
_GROUPED = re.compile(rf"[1-9][0-9]{{0,2}}({_BETWEEN})[0-9]{{3}}(?:\1[0-9]{{3}})*(?:\.[0-9]+)?")
_SIZE = re.compile(r"([0-9]{1,7})\s*[*x ]\s*([0-9]{1,7})")
_ZOOM = re.compile(_NUMBER + r"\s*([KM]?) ?X", re.IGNORECASE)

Size = tuple[int, int]  # width and height, pixels


class ScaleError(UserError, ValueError):
    """A scale that no microscope has."""


def check_scale(fact: str, value: float, name: str) -> float:
    """Checks a scale that a user gives.

    Args:
      fact: nm_per_pixel or magnification.
      name: where it was given, for the message.

    Raises:
      ScaleError: not finite, or outside what microscopes have.
    """
    low, high = _PLAUSIBLE[fact]
    if not low <= value <= high:
        unit = " (nm)" if fact == "nm_per_pixel" else ""
        raise ScaleError(
            f"{name} must be a number above 0 that a microscope can have, from {low:g} to "
            f"{high:,.0f}{unit}, is {value!r}; correct it or leave it out"
        )
    return value


def read_scale(path: Path) -> dict[str, float]:
    """Reads the scale of an image file, as far as it is known.

    Zeiss, FEI and Phenom write it to private TIFF tags, JEOL to a text file with the image's name,
    ImageJ to the TIFF description. A plain TIFF resolution is used only if it is finer than any
    print, below 2 µm per pixel. An instrument's pixel size is converted if the image is stored at
    another size than the scan, and is unknown if it may be cropped as well. Values that are
    implausible or ambiguous count as unknown.

    Returns:
      `nm_per_pixel` (horizontal, in the file's pixels) and `magnification`, each if known.

    Raises:
      ImageError: the file cannot be read; names it.
    """
    known = {}
    for name, value in _said(path):
        low, high = _PLAUSIBLE[name]
        if low <= value <= high:
            known.setdefault(name, value)
    return known


def _said(path: Path) -> Iterator[tuple[str, float]]:
    """Yields names and values, the most reliable first; NaN for what cannot be understood."""
    resolution = []
    with errors_named(str(path)):
        if is_tiff(path):
            with tiff.opened(path) as page:
                yield from _zeiss(_text(page.raw(_ZEISS)), page.size)
                for tag in _FEI:
                    yield from _fei(_text(page.raw(tag)), page.size)
                yield from _phenom(page.raw(_PHENOM))
                resolution = list(_resolution(page))
        beside = _side_file(path)
        if beside:
            with open(beside, "rb") as file:
                text = _text(file.read(_LONGEST_SIDE_FILE))
            yield from _jeol(text, path)
    yield from resolution


def _zeiss(text: str, size: Size) -> Iterator[tuple[str, float]]:
    """A line with a key and one with a label and the value, `Image Pixel Size = 2.791 nm`.

    Matched by key, since FIB and others have values with the same label.
    """
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    said = {}
    for key, line in itertools.pairwise(lines):
        if key.startswith(("AP_", "DP_")):
            said.setdefault(key, line.partition("=")[2].strip()[:_SHORT])
    scan = _SIZE.match(said.get("DP_IMAGE_STORE", ""))
    scan = (int(scan[1]), int(scan[2])) if scan else None
    nm = _length(said.get("AP_IMAGE_PIXEL_SIZE", ""))
    if "AP_IMAGE_PIXEL_SIZE" not in text:  # not merely damaged
        nm = _length(said.get("AP_PIXEL_SIZE", ""))
        if scan and scan[0]:
            nm *= _ZEISS_SCREEN / scan[0]
        elif size[0] % (_ZEISS_SCREEN // 2) == 0:  # as the instrument stores images
            nm *= _ZEISS_SCREEN / size[0]
    yield "nm_per_pixel", _stored(nm, scan, size)
    if zoom := _ZOOM.match(said.get("AP_MAG", "")):
        yield "magnification", _float(zoom[1]) * {"": 1, "K": 1e3, "M": 1e6}[zoom[2].upper()]


def _fei(text: str, size: Size) -> Iterator[tuple[str, float]]:
    """Sections with a name in brackets and lines of `key=value`."""
    sections: dict[str, dict[str, str]] = {}
    section: dict[str, str] = {}
    for line in re.split(r"[\r\n]+", text):
        line = line.strip()
        if line.startswith("["):
            section = sections.setdefault(line[1:_SHORT].partition("]")[0], {})
        else:
            key, _, value = line.partition("=")
            section.setdefault(key.strip(), value.strip()[:_SHORT])
    image, private = sections.get("Image", {}), sections.get("PrivateFei", {})
    wide, high, bar = (
        _float(value)
        for value in (image.get("ResolutionX", ""), image.get("ResolutionY", ""),
                      private.get("DatabarHeight", "0"))
    )  # fmt: skip
    scan = (wide, high) if wide > 0 and high > 0 else None
    for name, values in sections.items():
        if name in ("Scan", "EScan", "IScan") and "PixelWidth" in values:
            nm = _float(values["PixelWidth"]) * 1e9
            yield "nm_per_pixel", _stored(nm, scan, size, bar if bar > 0 else 0)


def _phenom(raw: bytes) -> Iterator[tuple[str, float]]:
    """XML with `<pixelWidth unit="nm">29.7</pixelWidth>` below its root."""
    raw = raw.strip(b"\0 \t\r\n")
    if not 0 < len(raw) <= _LONGEST_XML:
        return
    try:
        found = ElementTree.fromstring(raw).find("pixelWidth")
    except (ElementTree.ParseError, LookupError, ValueError):  # another program's tag, or damaged
        return
    if found is not None:
        unit = nm_per_unit(found.get("unit", "nm"))
        value = _float((found.text or "").strip()[:_SHORT])
        yield "nm_per_pixel", math.nan if unit is None else value * unit


def _jeol(text: str, path: Path) -> Iterator[tuple[str, float]]:
    """Lines such as `$CM_MAG 5000`; a bar of SM_MICRON_BAR pixels is SM_MICRON_MARKER long."""
    said = {}
    for line in re.split(r"[\r\n]+", text):
        if line.startswith("$"):
            key, _, value = line.lstrip("$").replace("\t", " ").partition(" ")
            said.setdefault(key, value.strip()[:_SHORT])
    bar = _float(said.get("SM_MICRON_BAR", ""), grouped=True)
    marker = _length(said.get("SM_MICRON_MARKER", ""), grouped=True)
    if bar > 0 and marker > 0:
        full = _SIZE.match(said.get("CM_FULL_SIZE", ""))
        scan = (int(full[1]), int(full[2])) if full else None
        # The image may have a bar of text below, a fifteenth of the scan's height.
        size = read_header(path).size if scan else (0, 0)
        yield "nm_per_pixel", _stored(marker / bar, scan, size, scan[1] / 15 if scan else 0)
    zoom = said.get("CM_MAG", "").strip("xX× ")
    yield "magnification", _float(zoom, grouped=True)


def _resolution(page: tiff.Page) -> Iterator[tuple[str, float]]:
    across = page.value(_X_RESOLUTION)
    if across is None or not 0 < across < math.inf:
        return
    text = _text(page.raw(_DESCRIPTION))
    if text.startswith("ImageJ"):
        for line in text.splitlines():
            if line.startswith("unit=") and (unit := nm_per_unit(line[len("unit=") :])):
                yield "nm_per_pixel", unit / across
    unit = _TIFF_UNITS.get(page.value(_RESOLUTION_UNIT))
    if unit and unit / across < _FINEST_PRINT:
        yield "nm_per_pixel", unit / across


def _stored(nm: float, scan: tuple[float, float] | None, size: Size, bar: float = 0) -> float:
    """nm per pixel of an image that may be stored at another size than it was scanned at.

    An image of another shape may be cropped, which leaves the pixel size; then it is unknown (NaN).

    Args:
      nm: of the scan's pixels.
      scan: its width and height; None if they are not known, and `nm` is the image's.
      bar: rows that the instrument may have added to the scan.
    """
    if scan is None or scan[0] == size[0]:
        return nm
    factor = size[0] / scan[0] if scan[0] else math.inf
    resized = any(abs(size[1] - height * factor) <= 1 for height in (scan[1], scan[1] + bar))
    return nm / factor if resized else math.nan


def _side_file(path: Path) -> Path | None:
    """The text file with the image's name; instruments and copies write it in any case."""
    stems = dict.fromkeys((path.stem, path.stem.lower(), path.stem.upper()))
    for stem in stems:
        for suffix in map("".join, itertools.product("tT", "xX", "tT")):
            found = path.with_name(f"{stem}.{suffix}")
            if found.is_file():
                return found
    return None


def _length(text: str, grouped: bool = False) -> float:
    """The nm of a length such as '5um', NaN if it is none."""
    match = _LENGTH.match(text)
    unit = nm_per_unit(match[2]) if match else None
    return math.nan if unit is None else _float(match[1], grouped) * unit


def _float(number: str, grouped: bool = False) -> float:
    """A number, NaN if it is none.

    A single comma is a decimal one, as some languages write it. Where three digits follow it, it
    may also group thousands: then the number is not known, unless `grouped` says that it does.
    """
    if _GROUPED.fullmatch(number):
        if not grouped:
            return math.nan
        number = re.sub(r"[^0-9.]", "", number)
    elif number.count(",") == 1 and "." not in number:
        number = number.replace(",", ".")
    try:
        return float(number)
    except ValueError:  # such as '1.2.3'
        return math.nan


def _text(raw: bytes) -> str:
    """The text of a tag or file in UTF-8, UTF-16 with a mark, or Latin-1."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")

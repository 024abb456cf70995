"""Reads TIFF files with tifffile: which page, its samples as a picture, its text tags.

Everything that tifffile would return without the conversion it needs (to RGB, from a palette,
from premultiplied or unknown channels) is converted here or refused.
"""

import contextlib
import dataclasses
import io
import logging
import os
import re
import struct
from collections.abc import Iterator

import numpy as np
import tifffile
from PIL import Image

from slava_jax.data.picture import (
    MAX_BYTES,
    ArrayPicture,
    ImageError,
    Picture,
    check_size,
)
from slava_jax.data.scans import check_scans

# It logs what it makes of odd tags; what matters to the pixels is checked here.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF of both byte orders
_COMPRESSIONS = {
    1: "none", 2: "CCITT RLE", 3: "CCITT G3", 4: "CCITT G4", 5: "LZW", 7: "JPEG", 8: "Deflate",
    32773: "PackBits", 32946: "Deflate", 34925: "LZMA", 50000: "Zstandard",
}  # fmt: skip
_JPEG = 7
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}  # photometric interpretation -> channels
_WHITE_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 2, 3, 5, 6
_PREMULTIPLIED, _ALPHA = 1, 2  # kinds of extra channels; 0 is unknown
_PHOTOMETRIC, _DESCRIPTION, _ORIENTATION, _INKS, _CMYK_INKS = 262, 270, 274, 332, 1
_TEXT = (1, 2, 7)  # types of tags whose values are bytes
_LONGEST_TEXT = 4 << 20  # bytes of a tag that are read
_THUMBNAILS = 100  # most pages that are passed over
_MOST_PAGES = 100_000  # are counted
_IMAGEJ_PAGES = re.compile(r"^images=(\d{1,9})\s*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Page:
    """A page of an open file.

    Attributes:
      page: as tifffile reads it.
      number, count: its number, from 1, and that of all pages.
    """

    page: tifffile.TiffPage
    number: int
    count: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as stored."""
        return int(self.page.imagewidth), int(self.page.imagelength)

    @property
    def orientation(self) -> int:
        """1 to 8, as in EXIF."""
        value = self.page.tags.valueof(_ORIENTATION, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1

    def raw(self, tag: int) -> bytes:
        """The value of a tag with text, at most 4 MiB of it; empty if there is none."""
        found = self.page.tags.get(tag)
        if found is None or found.dtype not in _TEXT:
            return b""
        file = self.page.parent.filehandle
        file.seek(found.valueoffset)
        return file.read(min(found.count, _LONGEST_TEXT))

    def value(self, tag: int) -> float | None:
        """The value of a tag with one number, None if there is none."""
        found = self.page.tags.get(tag)
        value = None if found is None else found.value
        if found is not None and found.count == 1 and isinstance(value, tuple) and len(value) == 2:
            return value[0] / value[1] if value[1] else None  # a fraction
        return float(value) if isinstance(value, int | float) else None


def is_tiff(start: bytes) -> bool:
    """Whether a file that starts so is a TIFF file."""
    return start[:4] in _MAGIC


@contextlib.contextmanager
def opened(source: str | os.PathLike | bytes) -> Iterator[Page]:
    """Opens a TIFF file at the first page that is neither a thumbnail nor a mask.

    Raises:
      Exception: of any kind, for a damaged file.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    # Other programs' formats with TIFF's header are read like any TIFF file.
    plain = {"is_lsm": False, "is_scanimage": False, "is_ndpi": False}
    with tifffile.TiffFile(file, **plain) as tif:
        page, number = tif.pages[0], 1
        for i in range(_THUMBNAILS):
            try:
                other = tif.pages[i]
            except IndexError:
                break
            if not other.subfiletype & 0b101:
                page, number = other, i + 1
                break
        stack = _IMAGEJ_PAGES.search(_description(page)[:4096])
        count = max(_page_count(tif), int(stack[1]) if stack else 1)
        yield Page(page, number, count)


def _description(page: tifffile.TiffPage) -> str:
    return page.description if page.description.startswith("ImageJ=") else ""


def _page_count(tif: tifffile.TiffFile) -> int:
    """Number of pages; tifffile's own count does not end where pages follow in a circle."""
    form, file = tif.tiff, tif.filehandle
    offset, seen = tif.pages[0].offset, set()
    while offset and offset not in seen and len(seen) < _MOST_PAGES:
        file.seek(offset)
        try:
            tags = struct.unpack(form.tagnoformat, file.read(form.tagnosize))[0]
            file.seek(offset + form.tagnosize + tags * form.tagsize)
            seen.add(offset)
            offset = struct.unpack(form.offsetformat, file.read(form.offsetsize))[0]
        except struct.error:  # the file ends
            break
    return max(1, len(seen))


def read(found: Page, name: str) -> Picture:
    """Decodes a page.

    Args:
      name: of the file, for messages.

    Raises:
      ImageError: too large, or stored in a way that cannot be shown rightly.
      Exception: of any kind, for a damaged file.
    """
    page = found.page
    _check(page, name)
    samples = page.asarray(maxworkers=1)
    if samples.ndim == 3 and page.planarconfig == 2:
        samples = np.moveaxis(samples, 0, -1)
    if samples.dtype == bool or page.bitspersample < 8:
        full = (1 << page.bitspersample) - 1
        levels = np.arange(full + 1, dtype=np.uint8)
        if page.photometric != _PALETTE:
            levels = np.rint(levels * (255 / full)).astype(np.uint8)
        samples = levels[samples.astype(np.uint8)]
    opacity, opaque = None, 1.0
    if _ALPHA in page.extrasamples:
        opacity = samples[..., _COLOURS[int(page.photometric)] + page.extrasamples.index(_ALPHA)]
        if not np.isfinite(opacity).all():
            raise ImageError(f"{name}: has opacities that are not finite; save it without")
        if samples.dtype.kind == "u":  # fewer bits than 8 were scaled to 8
            opaque = (1 << max(8, page.bitspersample)) - 1
    return ArrayPicture(
        name,
        _coloured(page, samples, name),
        opacity,
        opaque,
        white_is_zero=page.photometric == _WHITE_IS_ZERO,
        orientation=found.orientation,
    )


def _check(page: tifffile.TiffPage, name: str) -> None:
    """Raises ImageError for a page that `read` cannot show rightly or that is too large."""
    width, height = int(page.imagewidth), int(page.imagelength)
    bits, channels = page.bitspersample, page.samplesperpixel
    check_size(name, width, height)
    kind = _unsupported(page)
    if kind:
        raise ImageError(f"{name}: holds {kind}, which cannot be read; save it as 8 or 16 bit grey")
    check_size(name, width, height, channels * page.dtype.itemsize)
    if int(np.prod(page.chunks, dtype=object)) * page.dtype.itemsize > MAX_BYTES:
        raise ImageError(f"{name}: states tiles of {page.chunks} pixels; save it again")
    if bits % 8 and page.predictor != 1:
        raise ImageError(f"{name}: has a predictor for {bits} bits; save it without one")
    _check_segments(page, name)


def _unsupported(page: tifffile.TiffPage) -> str:
    """What about a page is not supported; '' if nothing is."""
    colours = _COLOURS.get(int(page.photometric))
    extra = page.samplesperpixel - (colours or 0)
    if page.compression not in _COMPRESSIONS:
        return f"data compressed by method {int(page.compression)}"
    if page.dtype is None or page.dtype.kind not in "buif" or not _ordered(page):
        return f"samples of {page.bitspersample} bits in format {int(page.sampleformat)}"
    if page.imagedepth != 1 or page.is_ndpi or not colours or extra < 0:
        return f"{page.samplesperpixel} channels of photometric kind {int(page.photometric)}"
    if colours == 1 and extra and tuple(page.extrasamples) not in ((_ALPHA,), (_PREMULTIPLIED,)):
        return f"{page.samplesperpixel} channels whose colours are not stated"
    if page.extrasamples and len(page.extrasamples) != extra:
        return f"{page.samplesperpixel} channels, of which {len(page.extrasamples)} are extra ones"
    if _ALPHA in page.extrasamples and page.dtype.kind not in "uf":
        return "signed samples with transparency"
    jpeg, eight = page.compression == _JPEG, page.dtype == np.uint8
    if _PHOTOMETRIC not in page.tags:
        return "samples of which it does not say whether 0 is black or white"
    if page.photometric == _CMYK and page.tags.valueof(_INKS, _CMYK_INKS) != _CMYK_INKS:
        return "four inks other than CMYK"
    if page.photometric == _YCBCR and not (jpeg and eight and not extra):
        return "YCbCr colours that are not JPEG"
    if page.photometric == _CMYK and (jpeg or not eight or page.bitspersample != 8):
        return "CMYK colours that are not plain 8 bit"
    if page.photometric == _PALETTE and (extra or page.dtype.kind not in "bu"):
        return "a palette with further channels"
    if jpeg and page.dtype.itemsize > 1:
        return "JPEG data of more than 8 bits"
    return ""


def _ordered(page: tifffile.TiffPage) -> bool:
    """Whether the order of a sample's bits is known; that of integers of 17 to 31 bits is not."""
    bits = page.bitspersample
    if not isinstance(bits, int):
        return False  # one number for each channel
    return bits <= 16 or bits in (32, 64) or page.dtype.kind == "f"


def _check_segments(page: tifffile.TiffPage, name: str) -> None:
    """Checks that all strips or tiles lie in the file; tifffile leaves those black that do not."""
    file = page.parent.filehandle
    offsets, counts = page.dataoffsets, page.databytecounts
    wanted = int(np.prod(page.chunked, dtype=object))
    whole = len(offsets) >= wanted and len(counts) >= wanted
    if page.is_contiguous and offsets:
        whole = offsets[0] + page.nbytes <= file.size and sum(counts) >= page.nbytes
    elif whole:
        ends = zip(offsets, counts, strict=False)
        whole = all(start > 0 and size > 0 and start + size <= file.size for start, size in ends)
    if not whole:
        raise ImageError(f"{name}: is truncated or damaged (its data lie outside the file)")
    if sum(counts) > 2 * MAX_BYTES:  # compressed data are hardly larger than the picture
        raise ImageError(f"{name}: states {sum(counts):,} bytes of data; save it again")
    if page.compression != _JPEG:
        return
    rows, columns = page.chunks[:2]
    for start, size in zip(offsets, counts, strict=False):
        file.seek(start)
        content = file.read(size)
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as part:
            check_scans(name, content, *part.size)
            if part.width > columns or part.height > rows:
                raise ImageError(f"{name}: holds JPEG data larger than its tiles; save it again")


def _coloured(page: tifffile.TiffPage, samples: np.ndarray, name: str) -> np.ndarray:
    """Grey [rows, columns] or RGB [rows, columns, 3] of a page's samples."""
    if page.photometric == _PALETTE:
        return _through_palette(page, samples, name)
    if page.photometric == _CMYK:
        rgb = np.empty((*samples.shape[:2], 3), np.uint8)
        for row, line in zip(rgb, samples, strict=True):
            inks = Image.fromarray(np.ascontiguousarray(line[None, :, :4]), "CMYK")
            row[:] = np.asarray(inks.convert("RGB"))[0]
        return rgb
    if samples.ndim == 2:
        return samples
    return samples[..., :3] if page.photometric in (_RGB, _YCBCR) else samples[..., 0]


def _through_palette(page: tifffile.TiffPage, samples: np.ndarray, name: str) -> np.ndarray:
    palette = page.colormap
    if palette is None or np.ndim(palette) != 2 or len(palette) != 3:
        raise ImageError(f"{name}: has no palette; save it as grey or RGB")
    if int(samples.max()) >= palette.shape[1]:
        raise ImageError(f"{name}: has colours beyond its palette; save it as grey or RGB")
    # Entries have 16 bits, but some programs write 8.
    return (palette >> 8 if palette.max() > 255 else palette).astype(np.uint8).T[
        samples.astype(np.uint16)
    ]

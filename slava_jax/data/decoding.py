"""Turns image files into pictures. Every image file is opened here, and only in known formats.

Pillow has dozens of readers; one starts an interpreter for PostScript, and most are never needed.
"""

import contextlib
import dataclasses
import io
import mmap
import os
from collections.abc import Iterator

import imagecodecs
from PIL import Image, UnidentifiedImageError

from slava_jax.data import tiff
from slava_jax.data.picture import (
    MAX_PIXELS,
    ArrayPicture,
    ImageError,
    Picture,
    PillowPicture,
    check_size,
)
from slava_jax.data.png_rows import has_all_rows
from slava_jax.data.scans import check_scans

_PILLOW = ("BMP", "JPEG", "PNG")  # TIFF is read by tiff.py
_STARTS = (b"BM", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # of those formats
_PNG_DEPTH = 24  # place of the bit depth in a PNG file
_ORIENTATION = 0x0112  # EXIF


@dataclasses.dataclass(frozen=True)
class Header:
    """What an image file says before its pixels are decoded.

    Attributes:
      size: width and height in pixels, as stored.
      orientation: 1 to 8, as in EXIF; 5 and above show the rows as columns.
      page, pages: the page that is read, from 1, and the number of all.
    """

    size: tuple[int, int]
    orientation: int
    page: int = 1
    pages: int = 1

    @property
    def width(self) -> int:
        """The width as shown."""
        return self.size[1 if self.orientation >= 5 else 0]

    @property
    def note(self) -> str:
        """What a user should know of the pages; '' if there is one."""
        return f"page {self.page} of {self.pages} is used" if self.pages > 1 else ""


def read_header(path: str | os.PathLike) -> Header:
    """Reads size, orientation and pages of an image file.

    Raises:
      ImageError: not an image, empty or too large; names the file.
    """
    name = os.fspath(path)
    with errors_named(name):
        if tiff.is_tiff(_start(path, name)):
            with tiff.opened(path) as found:
                check_size(name, *found.size)
                return Header(found.size, found.orientation, found.number, found.count)
        with _pillow(path, name) as image:
            pages = getattr(image, "n_frames", 1)
            return Header(image.size, image.getexif().get(_ORIENTATION, 1), 1, pages)


def is_tiff(path: str | os.PathLike) -> bool:
    """Whether a file is TIFF by its content. Raises ImageError if it is empty."""
    return tiff.is_tiff(_start(path, os.fspath(path)))


def read_picture(
    source: str | os.PathLike | bytes, name: str, draft: tuple[str, tuple[int, int]] | None = None
) -> Picture:
    """Decodes a BMP, JPEG, PNG or TIFF file; the format is that of its content, not of its suffix.

    Of several pages the first is taken that is neither a thumbnail nor a mask.

    Args:
      source: the file, or its bytes.
      name: the image's name in error messages.
      draft: mode and least size for which a JPEG file is decoded, since it can be decoded smaller.

    Raises:
      ImageError: another format, truncated, empty, too large, or stored in a way that cannot be
        shown rightly; names the file.
    """
    with errors_named(name):
        start = _start(source, name)
        if tiff.is_tiff(start):
            with tiff.opened(source) as found:
                return tiff.read(found, name)
        with _pillow(source, name) as image:
            if image.format != "PNG" or start[_PNG_DEPTH] != 16:
                return _with_pillow(image, source, name, start[_PNG_DEPTH], draft)
            check_size(name, *image.size, 2 * _png_channels(image))
            orientation = image.getexif().get(_ORIENTATION, 1)
        del image  # it may hold the pixels, which are about to be decoded again
        return _wide_png(source, name, orientation)


@contextlib.contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Turns the errors of decoders into ImageErrors that name the file.

    Decoders raise errors of any class for damaged files.
    """
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: there is no such file; check the path") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name}: is a folder; give an image file in it") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: more pixels than the limit of {MAX_PIXELS:,}; cut it into tiles or shrink it "
            "first"
        ) from error
    except MemoryError as error:
        raise ImageError(
            f"{name}: takes more memory than is free; shrink it or cut it into tiles first"
        ) from error
    except UnidentifiedImageError as error:  # its text may be the address of a buffer
        raise ImageError(
            f"{name}: cannot be decoded (its header is damaged, or of a variant that is not "
            "supported); replace it or save it again as PNG"
        ) from error
    except Exception as error:
        raise ImageError(
            f"{name}: cannot be decoded ({_short(error)}); it is truncated, damaged or in an "
            "unsupported format: replace it or save it again as PNG"
        ) from error


def _short(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) < 200 else f"{text[:200]}..."


def _start(source: str | os.PathLike | bytes, name: str) -> bytes:
    """The first bytes of a file."""
    if isinstance(source, bytes):
        start = source[:32]
    else:
        # Only what has a size is opened: a pipe would be waited for.
        start = b""
        if os.path.getsize(source):
            with open(source, "rb") as file:
                start = file.read(32)
    if not start:
        raise ImageError(f"{name}: is empty (0 bytes); copy it again or remove it")
    return start.ljust(32, b"\0")


@contextlib.contextmanager
def _pillow(source: str | os.PathLike | bytes, name: str) -> Iterator[Image.Image]:
    """Opens a file of the other formats; its pixels are not decoded yet."""
    start = _start(source, name)
    if not start.startswith(_STARTS):
        raise ImageError(
            f"{name}: cannot be decoded (it is not a BMP, JPEG, PNG or TIFF file); save it as PNG"
        )
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with Image.open(file, formats=_PILLOW) as image:
        check_size(name, *image.size)
        yield image


@contextlib.contextmanager
def _content(source: str | os.PathLike | bytes) -> Iterator[bytes | mmap.mmap]:
    """The bytes of a file that is not empty."""
    if isinstance(source, bytes):
        yield source
    else:
        with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            yield data


def _with_pillow(image: Image.Image, source, name: str, depth: int, draft) -> Picture:
    """Decodes an opened file of at most 8 bits per sample; `depth` is that of a PNG file."""
    if image.format == "JPEG":
        with _content(source) as data:
            check_scans(name, data, *image.size)
        if draft:
            image.draft(*draft)
    image.load()
    if image.format == "PNG":
        clear = image.info.get("transparency")
        if isinstance(clear, int) and image.mode == "L" and depth < 8:
            # Pillow widens the samples to 8 bits, but not the one that is transparent.
            image.info["transparency"] = clear * 255 // ((1 << depth) - 1)
        _check_png_rows(image, source)
    return PillowPicture(name, image, orientation=image.getexif().get(_ORIENTATION, 1))


def _check_png_rows(image: Image.Image, source) -> None:
    """Raises ValueError if Pillow left rows black that the data of a PNG file do not reach."""
    # Of an interlaced file the last but one may be the last in the data.
    ends = [row for row in (image.height - 1, image.height - 2) if row >= 0]
    rows = [image.crop((0, row, image.width, row + 1)) for row in ends]
    if any(row.getbbox(alpha_only=False) is None for row in rows):
        with _content(source) as data:
            if not has_all_rows(data):
                raise ValueError("Not enough image data")


def _png_channels(image: Image.Image) -> int:
    return len(image.getbands()) + ("transparency" in image.info)


def _wide_png(source: str | os.PathLike | bytes, name: str, orientation: int) -> Picture:
    """A PNG file with 16 bits per sample, of which Pillow keeps 8 unless it is grey."""
    with _content(source) as data:
        samples = imagecodecs.png_decode(data)
    opacity = None
    if samples.ndim == 3:
        colours = 3 if samples.shape[2] >= 3 else 1
        opacity = samples[..., colours] if samples.shape[2] > colours else None
        samples = samples[..., :colours] if colours == 3 else samples[..., 0]
    return ArrayPicture(name, samples, opacity, 65535, orientation=orientation)

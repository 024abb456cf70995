"""Loads image files as square uint8 arrays; the cheap augmentations of the training pipeline."""

import contextlib
import io
import itertools
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from slava_jax.data.bar import picture_rows
from slava_jax.errors import UserError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")
# Image formats that are recognised but not supported.
UNREAD_SUFFIXES = (".dm3", ".dm4", ".gif", ".jp2", ".ser", ".webp")

# Pillow rejects images above 179 million pixels as possible decompression bombs. A stitched
# overview of 20,000 x 20,000 pixels is legitimate, so the limit is raised to just above that.
# PNG and TIFF files are decoded whole, at up to four bytes per pixel.
MAX_PIXELS = 450_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
# Large images are converted in strips of about this many pixels.
_STRIP_PIXELS = 4_000_000
# The data bar is detected at this resolution (columns, rows), which is enough to show text.
_BAR_PIXELS = (1024, 1536)
_ORIENTATION, _PHOTOMETRIC = 0x0112, 0x0106  # EXIF and TIFF tags

Symmetry = tuple[int, int]  # mirrored (0 or 1), then quarter turns (0 to 3)
UPRIGHT = (0, 0)


class ImageError(UserError, ValueError):
    """An unusable image; the message names the file and says what to do."""


def list_images(folder: str | os.PathLike) -> list[Path]:
    """Lists the image files directly inside `folder` (selected by suffix), sorted by name.

    Raises:
      ImageError: the folder does not exist or contains no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder}: is not a folder; give the folder that holds the images")
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    for path in found:
        try:
            path.name.encode()
        except UnicodeEncodeError as error:
            raise ImageError(
                f"{folder}: the name {path.name!r} is not UTF-8; rename the file"
            ) from error
    if not found:
        raise ImageError(f"{folder}: contains no images ({', '.join(SUFFIXES)}); add some")
    return found


def read_image(
    source: str | os.PathLike | bytes,
    size: int,
    channels: int,
    name: str | None = None,
    crop_bar: bool = False,
) -> np.ndarray:
    """Decodes an image and stretches it to a square (the aspect ratio is not kept).

    Downscaling averages over areas, upscaling is bilinear. Transparent pixels are composited on
    black, palettes and CMYK are converted to colours, and of a multi-image file the first image is
    used. Samples wider than 8 bits are scaled to 0..255. For 16-bit images that reach the upper
    half of their range the full range is used; otherwise (12-bit cameras, height maps, floats) the
    image's own minimum and maximum.

    Args:
      source: a jpg, png, tif or bmp file, or the bytes of one.
      size: side length of the result, pixels.
      channels: 1 for grey, 3 for RGB.
      name: the image's name in error messages; the path by default.
      crop_bar: crop the instrument's data bar, if one is found (bar.py), before the picture is
        stretched and scaled.

    Returns:
      uint8[size, size, channels].

    Raises:
      ImageError: not an image, truncated, empty, or larger than MAX_PIXELS; names the file.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, is {channels}")
    if name is None:
        name = "image bytes" if isinstance(source, bytes) else os.fspath(source)
    with _errors_named(name), _opened(source, name) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"{name}: {width} x {height} pixels exceed the limit of {MAX_PIXELS:,}; "
                "cut it into tiles or shrink it first"
            )
        # Only JPEG can be decoded at a fraction of its size.
        image.draft("RGB" if channels == 3 else "L", (4 * size, 4 * size))
        image.load()
        white_is_zero = _white_is_zero(image)
        orientation = image.getexif().get(_ORIENTATION, 1)
        if crop_bar:
            image = _without_bar(image, name)
        grey = channels == 1
        convert = _plain
        if image.mode in _WIDE_MODES:
            convert = _wide_converter(image, name, white_is_zero)
        square = _squared(image, size, lambda part: convert(part).convert("L" if grey else "RGB"))
        square.getexif()[_ORIENTATION] = orientation
        pixels = np.asarray(ImageOps.exif_transpose(square))
    return pixels.reshape(size, size, channels)


def read_width(path: str | os.PathLike) -> int:
    """The width of an image file in pixels, as it is shown.

    Raises:
      ImageError: not an image; names the file.
    """
    name = os.fspath(path)
    with _errors_named(name), _opened(path, name) as image:
        turned = image.getexif().get(_ORIENTATION, 1) >= 5  # EXIF: a quarter turn
        return image.size[1 if turned else 0]


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8[height, width] or uint8[height, width, 1 or 3] as PNG bytes."""
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    buffer = io.BytesIO()
    # Level 1: noisy micrographs barely shrink further, and level 6 takes several times as long.
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def draw_symmetry(rng: np.random.Generator, flips: bool, turns: int) -> Symmetry:
    """Draws a random symmetry of the square.

    Args:
      rng: two numbers are drawn from it, regardless of `flips` and `turns`.
      flips: mirror left to right with probability 1/2.
      turns: 4 for any number of quarter turns, 2 for half turns only, 1 for none.
    """
    mirrored, quarters = int(rng.integers(2)), int(rng.integers(4))
    return (mirrored if flips else 0), quarters % turns * (4 // turns)


def symmetric(image: np.ndarray, mirrored: int, quarters: int) -> np.ndarray:
    """Applies a symmetry of the square to the image [P, P, ch]; returns a view."""
    return np.rot90(image[:, ::-1] if mirrored else image, quarters)


def symmetries(flips: bool, turns: int) -> list[Symmetry]:
    """Lists all symmetries that `draw_symmetry` may draw, the identity first."""
    mirrored = (0, 1) if flips else (0,)
    return list(itertools.product(mirrored, range(0, 4, 4 // turns)))


def augment(
    image: np.ndarray, rng: np.random.Generator, flips: bool, turns: int, shift: int
) -> np.ndarray:
    """Applies a random symmetry of the square, then a random shift with reflection padding.

    Args:
      image: uint8[P, P, ch].
      rng: draws the flip, the turn and the shift, always in this order and number.
      flips, turns: see draw_symmetry.
      shift: largest shift along each axis, pixels; less than P.

    Returns:
      uint8[P, P, ch], a view of `image` if it is not shifted.
    """
    image = symmetric(image, *draw_symmetry(rng, flips, turns))
    for axis, step in enumerate(rng.integers(-shift, shift + 1, 2).tolist()):
        if step:
            image = _shifted(image, step, axis)
    return image


def _shifted(image: np.ndarray, step: int, axis: int) -> np.ndarray:
    """Shifts the image by `step` along an axis and fills the gap by reflection (no repeated row).

    Uses slices, since gathering rows by index takes several times as long.
    """
    image = image.swapaxes(0, axis)
    if step > 0:
        parts = image[step:0:-1], image[:-step]
    else:
        parts = image[-step:], image[-2 : step - 2 : -1]
    return np.concatenate(parts).swapaxes(0, axis)


@contextlib.contextmanager
def _errors_named(name: str):
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: there is no such file; check the path") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: more pixels than the limit of {MAX_PIXELS:,}; cut it into tiles or shrink "
            "it first"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, zlib.error) as error:
        raise ImageError(
            f"{name}: cannot be decoded ({error}); it is truncated, damaged or in an unsupported "
            "format: replace it or save it again as PNG"
        ) from error


def _opened(source: str | os.PathLike | bytes, name: str) -> Image.Image:
    if isinstance(source, bytes):
        empty = not source
        file = io.BytesIO(source)
    else:
        empty = os.path.getsize(source) == 0
        file = source
    if empty:
        raise ImageError(f"{name}: is empty (0 bytes); copy it again or remove it")
    return Image.open(file)


def _without_bar(image: Image.Image, name: str) -> Image.Image:
    """Crops the data bar; rows are those of the file, before any EXIF rotation."""
    small = image
    if image.width > _BAR_PIXELS[0] or image.height > _BAR_PIXELS[1]:
        sides = tuple(map(min, image.size, _BAR_PIXELS))
        small = image.resize(sides, Image.Resampling.NEAREST)
    convert = _wide_converter(small, name) if image.mode in _WIDE_MODES else _plain
    top, bottom = picture_rows(np.asarray(convert(small).convert("L")))
    if (top, bottom) == (0, small.height):
        return image
    rows = [round(row * image.height / small.height) for row in (top, bottom)]
    return image.crop((0, rows[0], image.width, rows[1]))


def _strips(image: Image.Image, rows: int) -> Iterator[Image.Image]:
    """Yields the image in full-width strips of `rows` pixels; the last one may be shorter."""
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(image.height, top + rows)))


def _squared(
    image: Image.Image, size: int, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Converts the image and stretches it to size x size.

    A much larger image is converted and averaged in whole blocks, strip by strip, so that no second
    full-size copy is held in memory.
    """
    across, down = (max(1, side // (4 * size)) for side in image.size)
    rows = max(1, _STRIP_PIXELS // (image.width * down)) * down
    parts = [convert(strip).reduce((across, down)) for strip in _strips(image, rows)]
    small = Image.new(parts[0].mode, (parts[0].width, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        small.paste(part, (0, top))
        top += part.height
    # The last block of a row or column may cover fewer pixels than the others.
    width, height = image.width / across, image.height / down
    small = small.resize((size, small.height), _filter(width, size), (0, 0, width, small.height))
    return small.resize((size, size), _filter(height, size), (0, 0, size, height))


def _filter(side: float, size: int) -> Image.Resampling:
    return Image.Resampling.BOX if side >= size else Image.Resampling.BILINEAR


def _plain(image: Image.Image) -> Image.Image:
    """Converts an 8-bit image of any mode to L or RGB, with transparency on black."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        black = Image.new("RGBA", layer.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, layer).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")


def _white_is_zero(image: Image.Image) -> bool:
    """Returns whether 0 is white in a TIFF; Pillow inverts only 8-bit images in that case."""
    return getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0


def _wide_converter(
    image: Image.Image, name: str, white_is_zero: bool = False
) -> Callable[[Image.Image], Image.Image]:
    """Returns a function that scales a 16-bit, 32-bit or float image to 8 bits."""
    rows = max(1, _STRIP_PIXELS // image.width)
    ranges = [(part.min(), part.max()) for part in map(np.asarray, _strips(image, rows))]
    low, high = float(min(low for low, _ in ranges)), float(max(high for _, high in ranges))
    if not np.isfinite([[float(x) for x in pair] for pair in ranges]).all():
        raise ImageError(f"{name}: has pixels that are not finite; replace them and save it again")
    if image.mode != "F" and low >= 0 and high <= 65535 and (high > 32767 or high == low):
        low, high = 0.0, 65535.0
    scale = 255.0 / (high - low) if high > low else 0.0

    def convert(part: Image.Image) -> Image.Image:
        values = (np.asarray(part, np.float64) - low) * scale
        if white_is_zero:
            values = 255 - values
        return Image.fromarray(np.rint(values).astype(np.uint8))

    return convert

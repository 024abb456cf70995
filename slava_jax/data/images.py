"""Loads image files as square uint8 arrays; the cheap augmentations of the training pipeline."""

import io
import itertools
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from slava_jax.data.bar import picture_rows
from slava_jax.data.decoding import errors_named, read_header, read_picture
from slava_jax.data.picture import MAX_PIXELS as MAX_PIXELS
from slava_jax.data.picture import ImageError, Picture

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")
# Image formats that are recognised but not supported.
UNREAD_SUFFIXES = (".dm3", ".dm4", ".gif", ".jp2", ".ser", ".webp")

# The data bar is detected at this resolution (columns, rows), which is enough to show text.
_BAR_PIXELS = (1024, 1536)
_ORIENTATION = 0x0112  # EXIF tag

Symmetry = tuple[int, int]  # mirrored (0 or 1), then quarter turns (0 to 3)
UPRIGHT = (0, 0)


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
    black, palettes and CMYK are converted to colours, and of several pages the first is used that
    is neither a thumbnail nor a mask (decoding.read_header says which). Samples wider than 8 bits
    are scaled to 0..255. For 16-bit images that reach the upper half of their range the full range
    is used; otherwise (12-bit cameras, height maps, floats) the image's own minimum and maximum,
    of all colours together.

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
    grey = "L" if channels == 1 else "RGB"
    picture = read_picture(source, name, (grey, (4 * size, 4 * size)))
    with errors_named(name):
        if crop_bar:
            picture = _without_bar(picture)
        square = _squared(picture, size, grey)
        square.getexif()[_ORIENTATION] = picture.orientation
        pixels = np.asarray(ImageOps.exif_transpose(square))
    return pixels.reshape(size, size, channels)


def read_width(path: str | os.PathLike) -> int:
    """The width of an image file in pixels, as it is shown.

    Raises:
      ImageError: not an image; names the file.
    """
    return read_header(path).width


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


def _without_bar(picture: Picture) -> Picture:
    """Crops the data bar; rows are those of the file, before any EXIF rotation."""
    width, height = map(min, picture.size, _BAR_PIXELS)
    small = picture.sampled(width, height)
    (grey,) = small.strips(height)
    top, bottom = picture_rows(np.asarray(grey.convert("L")))
    if (top, bottom) == (0, height):
        return picture
    top, bottom = (round(row * picture.size[1] / height) for row in (top, bottom))
    return picture.cropped(top, bottom)


def _squared(picture: Picture, size: int, mode: str) -> Image.Image:
    """Stretches a picture to size x size, in mode L or RGB.

    A much larger picture is averaged in whole blocks, strip by strip, so that no second full-size
    copy is held in memory.
    """
    across, down = (max(1, side // (4 * size)) for side in picture.size)
    rows = picture.strip_rows(down)
    parts = [strip.convert(mode).reduce((across, down)) for strip in picture.strips(rows)]
    small = Image.new(mode, (parts[0].width, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        small.paste(part, (0, top))
        top += part.height
    # The last block of a row or column may cover fewer pixels than the others.
    width, height = picture.size[0] / across, picture.size[1] / down
    small = small.resize((size, small.height), _filter(width, size), (0, 0, width, small.height))
    return small.resize((size, size), _filter(height, size), (0, 0, size, height))


def _filter(side: float, size: int) -> Image.Resampling:
    return Image.Resampling.BOX if side >= size else Image.Resampling.BILINEAR

"""Image files to square uint8 arrays, and the cheap augmentations of the training pipeline."""

import contextlib
import io
import os
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff')

# Pillow refuses images beyond 179 million pixels as possible decompression bombs. A stitched
# overview of 20,000 x 20,000 pixels is honest work, so the limit is raised to just above that
# and no further: PNG and TIFF files are decoded whole, at up to four bytes a pixel.
MAX_PIXELS = 450_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

_WIDE_MODES = ('I', 'I;16', 'I;16B', 'I;16L', 'I;16N', 'F')
# A strip of this many pixels at a time is turned into float64 when a wide image is shrunk.
_STRIP_PIXELS = 4_000_000


class ImageError(ValueError):
    """An image that cannot be used; the message names the file and says what to do."""


def list_images(folder: str | os.PathLike) -> list[Path]:
    """Image files directly inside `folder`, by suffix, in the order of their names.

    Raises:
      ImageError: there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f'{folder}: is not a folder; give the folder that holds the images')
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith('.') and path.is_file()
    )
    if not found:
        raise ImageError(f'{folder}: holds no image ({", ".join(SUFFIXES)}); put images there')
    return found


def read_image(
    source: str | os.PathLike | bytes, size: int, channels: int, name: str | None = None
) -> np.ndarray:
    """Decodes an image and stretches it to a square (the aspect ratio is not kept).

    Shrinking averages over areas, growing is bilinear. Transparency is laid on black, palettes
    and CMYK become colours, a file of several pictures gives its first. Samples wider than 8 bits
    are scaled to 0..255: 16-bit ones by their full range where the picture reaches its upper
    half, otherwise (12-bit cameras, height maps, floats) by their own minimum and maximum.

    Args:
      source: a jpg, png, tif or bmp file, or the bytes of one.
      size: side of the result, pixels.
      channels: 1 for grey, 3 for RGB.
      name: what errors call the image; the path by default.

    Returns:
      uint8[size, size, channels].

    Raises:
      ImageError: not an image, cut off, empty, or of more than MAX_PIXELS pixels; names the file.
    """
    if channels not in (1, 3):
        raise ValueError(f'channels must be 1 or 3, is {channels}')
    if name is None:
        name = 'image bytes' if isinstance(source, bytes) else os.fspath(source)
    with _errors_named(name), _opened(source, name) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(
                f'{name}: {width} x {height} pixels are more than the {MAX_PIXELS:,} that are '
                'read at once; cut it into tiles or shrink it first'
            )
        # JPEG alone can be decoded at a fraction of its size.
        image.draft('RGB' if channels == 3 else 'L', (2 * size, 2 * size))
        if image.mode in _WIDE_MODES:
            grey = Image.fromarray(_eight_bits(image, size, name))
        else:
            grey = _plain(_reduced(image, size))
        grey = ImageOps.exif_transpose(grey)
        pixels = np.asarray(_resized(grey.convert('L' if channels == 1 else 'RGB'), size))
    return pixels.reshape(size, size, channels)


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8[height, width] or uint8[height, width, 1 or 3] -> the bytes of a PNG file."""
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    buffer = io.BytesIO()
    # Level 1: noisy micrographs barely shrink further, and level 6 takes several times as long.
    Image.fromarray(pixels).save(buffer, 'PNG', compress_level=1)
    return buffer.getvalue()


def augment(
    image: np.ndarray, rng: np.random.Generator, flips: bool, turns: bool, shift: int
) -> np.ndarray:
    """A random member of the square's symmetries, then a random shift by reflection.

    Args:
      image: uint8[S, S, ch].
      rng: draws the flip, the turn and the shift, always in this order and number.
      flips: mirror left to right, one time in two.
      turns: a random number of quarter turns.
      shift: furthest shift along each axis, pixels; less than S.

    Returns:
      uint8[S, S, ch], a new array unless nothing is to be done.
    """
    size = image.shape[0]
    flip, quarters = int(rng.integers(2)), int(rng.integers(4))
    down, right = (int(step) for step in rng.integers(-shift, shift + 1, 2))
    if flips and flip:
        image = image[:, ::-1]
    if turns and quarters:
        image = np.rot90(image, quarters)
    if down:
        image = image[_reflected(size, down)]
    if right:
        image = image[:, _reflected(size, right)]
    return image


def _reflected(size: int, step: int) -> np.ndarray:
    """Indices 0..size-1 moved by `step` and reflected at the ends without repeating them."""
    index = np.abs(np.arange(size) - step)
    return np.where(index < size, index, 2 * (size - 1) - index)


@contextlib.contextmanager
def _errors_named(name: str):
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f'{name}: there is no such file; check the path') from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f'{name}: more than the {MAX_PIXELS:,} pixels that are read at once; cut it into '
            'tiles or shrink it first'
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, zlib.error) as error:
        raise ImageError(
            f'{name}: cannot be decoded ({error}); it is cut off, damaged or not an image of a '
            'supported kind: replace it, or save it anew as PNG'
        ) from error


def _opened(source: str | os.PathLike | bytes, name: str) -> Image.Image:
    if isinstance(source, bytes):
        empty = not source
        file = io.BytesIO(source)
    else:
        empty = os.path.getsize(source) == 0
        file = source
    if empty:
        raise ImageError(f'{name}: is empty (0 bytes); copy it anew or remove it')
    return Image.open(file)


def _reduced(image: Image.Image, size: int) -> Image.Image:
    """Averages whole blocks of a much larger image, so that conversions stay small."""
    factors = tuple(max(1, side // (2 * size)) for side in image.size)
    if factors == (1, 1) or image.mode not in ('L', 'RGB', 'RGBX', 'CMYK', 'YCbCr'):
        return image
    reduced = image.reduce(factors)
    reduced.info.update(image.info)
    return reduced


def _plain(image: Image.Image) -> Image.Image:
    """An 8-bit image of any kind as L or RGB, transparency on black."""
    if image.mode in ('RGBA', 'LA', 'PA', 'La', 'RGBa') or 'transparency' in image.info:
        layer = image.convert('RGBA')
        black = Image.new('RGBA', layer.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, layer).convert('RGB')
    return image if image.mode == 'L' else image.convert('RGB')


def _eight_bits(image: Image.Image, size: int, name: str) -> np.ndarray:
    """uint8[height, width] of a 16- or 32-bit or float image, block-averaged where it is large."""
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f'{name}: holds pixels that are not finite; replace them and save it anew')
    low, high = float(low), float(high)
    sixteen = image.mode != 'F' and low >= 0 and high <= 65535
    if sixteen and (high > 32767 or high == low):
        low, high = 0.0, 65535.0
    across, down = (max(1, side // (2 * size)) for side in image.size)
    height, width = (pixels.shape[0] // down, pixels.shape[1] // across)
    result = np.empty((height, width), np.uint8)
    rows = max(1, _STRIP_PIXELS // (pixels.shape[1] * down))
    for start in range(0, height, rows):
        stop = min(height, start + rows)
        strip = pixels[start * down : stop * down, : width * across].astype(np.float64)
        means = strip.reshape(stop - start, down, width, across).mean((1, 3))
        scaled = (means - low) * (255.0 / (high - low if high > low else 1.0))
        result[start:stop] = np.rint(np.clip(scaled, 0, 255))
    return result


def _resized(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    shrinks = image.size[0] >= size and image.size[1] >= size
    resample = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return image.resize((size, size), resample)

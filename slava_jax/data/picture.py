"""A decoded picture of any bit depth, read as 8-bit strips; how large a picture may be."""

import abc
import dataclasses
from collections.abc import Iterator

import numpy as np
from PIL import Image

from slava_jax.errors import UserError

# A stitched overview of 20,000 x 20,000 pixels is legitimate. Files are decoded whole, and Pillow
# stores up to four bytes per pixel.
MAX_PIXELS = 450_000_000
MAX_BYTES = 4 * MAX_PIXELS
MAX_SIDE = 1_000_000
# Pillow's own limit for decompression bombs is below the one above.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

_STRIP_PIXELS = 4_000_000  # large pictures are converted in strips of about this many pixels
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


class ImageError(UserError, ValueError):
    """An unusable image; the message names the file and says what to do."""


def check_size(name: str, width: int, height: int, sample_bytes: int = 1) -> None:
    """Checks a size that a file states, before its pixels are decoded.

    Args:
      name: of the file, for the message.
      sample_bytes: all samples of one pixel, decoded.

    Raises:
      ImageError: no pixels, or more pixels or bytes than the limits.
    """
    if width < 1 or height < 1:
        raise ImageError(f"{name}: states a size of {width} x {height} pixels; replace the file")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{name}: {width} x {height} pixels exceed the limit of {MAX_PIXELS:,} (and "
            f"{MAX_SIDE:,} on a side); cut it into tiles or shrink it first"
        )
    if width * height * sample_bytes > MAX_BYTES:
        raise ImageError(
            f"{name}: {width} x {height} pixels of {sample_bytes} bytes exceed the limit of "
            f"{MAX_BYTES:,} bytes; save it with 8 or 16 bits, or cut it into tiles first"
        )


@dataclasses.dataclass(frozen=True)
class Picture(abc.ABC):
    """A picture in memory.

    Attributes:
      name: the file's, for error messages.
      orientation: the value of the EXIF or TIFF tag, 1 to 8; the rows are still those of the file.
    """

    name: str
    orientation: int = dataclasses.field(default=1, kw_only=True)

    @property
    @abc.abstractmethod
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as stored."""

    @abc.abstractmethod
    def cropped(self, top: int, bottom: int) -> "Picture":
        """The rows [top, bottom)."""

    @abc.abstractmethod
    def sampled(self, width: int, height: int) -> "Picture":
        """The picture at another size, each pixel the nearest of this picture."""

    @abc.abstractmethod
    def strips(self, rows: int) -> Iterator[Image.Image]:
        """Yields 8-bit images (L or RGB) of `rows` rows each; the last may be shorter.

        Transparent pixels are on black. Samples wider than 8 bits are scaled to 0..255. Integers
        within 0..65535 that reach its upper half are scaled by the whole of that range, others by
        the picture's own minimum and maximum.

        Raises:
          ImageError: samples that are not finite.
        """

    def strip_rows(self, multiple: int) -> int:
        """Rows of a strip of the usual size, a multiple of `multiple`."""
        return max(1, _STRIP_PIXELS // (self.size[0] * multiple)) * multiple


@dataclasses.dataclass(frozen=True)
class PillowPicture(Picture):
    """A picture with 8 bits per sample, of any of Pillow's modes."""

    image: Image.Image

    @property
    def size(self) -> tuple[int, int]:
        return self.image.size

    def cropped(self, top: int, bottom: int) -> Picture:
        image = self.image.crop((0, top, self.image.width, bottom))
        return dataclasses.replace(self, image=image)

    def sampled(self, width: int, height: int) -> Picture:
        image = self.image.resize((width, height), Image.Resampling.NEAREST)
        return dataclasses.replace(self, image=image)

    def strips(self, rows: int) -> Iterator[Image.Image]:
        width, height = self.size
        for top in range(0, height, rows):
            yield _plain(self.image.crop((0, top, width, min(height, top + rows))))


@dataclasses.dataclass(frozen=True)
class ArrayPicture(Picture):
    """A picture as an array.

    Attributes:
      samples: [rows, columns] or [rows, columns, 3 (RGB)], integers or floats of up to 64 bits.
        uint8 is shown as it is.
      opacity: [rows, columns], not multiplied into the samples yet; None if all is opaque.
      opaque: the largest opacity that its type can have.
      white_is_zero: the lowest value is white.
    """

    samples: np.ndarray
    opacity: np.ndarray | None = None
    opaque: float = 1.0
    white_is_zero: bool = False

    @property
    def size(self) -> tuple[int, int]:
        return self.samples.shape[1], self.samples.shape[0]

    def cropped(self, top: int, bottom: int) -> Picture:
        return self._at(slice(top, bottom))

    def sampled(self, width: int, height: int) -> Picture:
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(int)
            for new, old in ((height, self.size[1]), (width, self.size[0]))
        )
        return self._at((rows[:, None], columns))

    def _at(self, place) -> Picture:
        opacity = None if self.opacity is None else self.opacity[place]
        return dataclasses.replace(self, samples=self.samples[place], opacity=opacity)

    def strips(self, rows: int) -> Iterator[Image.Image]:
        low, high = (0, 255) if self.samples.dtype == np.uint8 else self._range()
        opaque = self.opaque
        if self.opacity is not None and (low, high) != (0, opaque) and opaque > 255:
            # Where samples are of fewer bits than their type has, so is the opacity.
            most = float(self.opacity.max())
            opaque = most if 0 < most <= opaque / 2 else opaque
        for top in range(0, len(self.samples), rows):
            part = self.samples[top : top + rows]
            part = part if part.dtype == np.uint8 else _scaled(part, low, high)
            part = 255 - part if self.white_is_zero else part
            if self.opacity is not None:
                seen = np.clip(self.opacity[top : top + rows] / np.float64(opaque), 0, 1)
                seen = seen[..., None] if part.ndim == 3 else seen
                part = np.rint(part * seen).astype(np.uint8)
            yield Image.fromarray(np.ascontiguousarray(part))

    def _range(self) -> tuple:
        """The values that become 0 and 255, of the samples' own type."""
        rows, ranges = self.strip_rows(1), []
        for top in range(0, len(self.samples), rows):
            part = self.samples[top : top + rows]
            ranges.append((part.min(), part.max()))
        low, high = min(least for least, _ in ranges), max(most for _, most in ranges)
        if not np.isfinite(np.array(ranges)).all():
            raise ImageError(
                f"{self.name}: has pixels that are not finite; replace them and save it again"
            )
        whole = self.samples.dtype.kind in "iu" and low >= 0 and high <= 65535
        return (0, 65535) if whole and (high > 32767 or high == low) else (low, high)


def _scaled(part: np.ndarray, low, high) -> np.ndarray:
    """Maps [low, high] to 0..255, uint8."""
    if low == high:
        return np.zeros(part.shape, np.uint8)
    if part.dtype.kind in "iu":
        # The difference of two integers of 64 bits is exact as uint64 (modulo 2^64), unlike as
        # float64.
        values = (part.astype(np.uint64) - np.array(low).astype(np.uint64)).astype(np.float64)
        values *= 255.0 / (int(high) - int(low))
    else:
        # The range of float64 may be larger than float64: halved, it is not.
        half = 0.5 * float(high) - 0.5 * float(low)
        if half == 0:
            return np.zeros(part.shape, np.uint8)
        values = (part * np.float64(0.5) - 0.5 * float(low)) / half * 255.0
    return np.rint(values).astype(np.uint8)


def _plain(image: Image.Image) -> Image.Image:
    """Converts an 8-bit image of any mode to L or RGB, with transparency on black."""
    if image.mode in _WIDE_MODES:
        raise ValueError(f"mode {image.mode} has more than 8 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        black = Image.new("RGBA", layer.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, layer).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")

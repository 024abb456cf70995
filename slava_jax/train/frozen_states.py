"""States of the vision encoder's frozen layers, computed once and cached on disk.

There is one file per image and symmetry of the square, named by the image's content, written
atomically, and ending with its CRC-32. Any later run or split reuses it, also after an
interruption.
"""

import hashlib
import io
import itertools
import os
import zlib
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from slava_jax.checkpoint import content_hash
from slava_jax.data.datasets.base import DataError, ImageSet
from slava_jax.data.images import Symmetry, draw_symmetry, symmetric, symmetries
from slava_jax.data.pipeline import Augmentation, ImageCache
from slava_jax.models.vit import VitConfig, VitStem

UNCHANGED = Augmentation(flips=False, turns=1)
_BATCH = 16  # images per forward pass


class FrozenStates:
    """The counterpart of ImageCache: float16[N, D] for each image, N tokens of width D."""

    dtype = np.float16

    def __init__(
        self, place: Path, config: VitConfig, stem: dict, images: ImageSet, pixels: ImageCache
    ):
        """Computes nothing yet.

        Args:
          place: the cache folder; it has a subfolder for each set of weights.
          stem: weights of VitStem. pixels: of the same images.
        """
        self.shape = (config.tokens, config.width)
        self._config, self._stem = config, stem
        self._images, self._pixels = images, pixels
        # "crc": files of older versions, which had none, are not taken for these.
        name = hashlib.sha256(f"{content_hash(stem)} {config} crc".encode()).hexdigest()
        self._folder = Path(place) / name[:16]
        contents = (images.encoded(i) for i in range(len(images)))
        self._names = [hashlib.sha256(content).hexdigest()[:24] for content in contents]

    def __getitem__(self, i: int) -> np.ndarray:
        """float16[N, D] of the i-th image, not augmented."""
        return self.under(i, (0, 0))

    def augmented(self, i: int, rng: np.random.Generator, change: Augmentation) -> np.ndarray:
        """The states of the image under a random symmetry."""
        return self.under(i, draw_symmetry(rng, change.flips, change.turns))

    def compute(self, change: Augmentation) -> None:
        """Computes the missing states of all images under all symmetries of `change`.

        Raises:
          DataError: a state is too large for float16, or cannot be written. ImageError: an image
            cannot be read.
        """
        wanted = itertools.product(range(len(self._images)), symmetries(change.flips, change.turns))
        missing = [(i, s) for i, s in wanted if not self._path(i, s).exists()]
        if not missing:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"image.states: cannot create {self._folder}: {error}") from error
        run = jax.jit(VitStem(self._config).apply)
        with tqdm(total=len(missing), desc="frozen layers", unit="img", mininterval=1) as bar:
            for start in range(0, len(missing), _BATCH):
                part = missing[start : start + _BATCH]
                shown = [symmetric(self._pixels[i], *s) for i, s in part]
                filled = np.stack(shown + shown[:1] * (_BATCH - len(part)))  # fixed shape
                states = np.asarray(run({"params": self._stem}, filled))
                for (i, s), of_one in zip(part, states, strict=False):
                    self._write(i, s, of_one)
                bar.update(len(part))

    def _write(self, i: int, symmetry: Symmetry, states: np.ndarray) -> None:
        if not np.abs(states).max() <= np.finfo(self.dtype).max:  # also true for NaN
            raise DataError(
                f"{self._images.name}: image {self._images.keys[i]!r}: states of the frozen layers "
                "are too large for float16; set vit.frozen_layers to 0"
            )
        path = self._path(i, symmetry)
        unfinished = path.with_suffix(f".{os.getpid()}")
        try:
            content = io.BytesIO()
            np.save(content, states.astype(self.dtype))
            unfinished.write_bytes(content.getvalue() + _check_sum(content.getvalue()))
            os.replace(unfinished, path)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error}") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def under(self, i: int, symmetry: Symmetry) -> np.ndarray:
        """The states of the image under this symmetry, which must have been computed.

        Raises:
          DataError: their file is missing or damaged.
        """
        path = self._path(i, symmetry)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}; start the run again") from error
        content, check_sum = content[:-4], content[-4:]
        if _check_sum(content) != check_sum:
            raise DataError(f"{path}: damaged; delete it, and the next start computes it again")
        return np.load(io.BytesIO(content))

    def _path(self, i: int, symmetry: Symmetry) -> Path:
        return self._folder / f"{self._names[i]}-{symmetry[0]}{symmetry[1]}.npy"


def _check_sum(content: bytes) -> bytes:
    """Of every state that a batch reads, so a fast one; it notices any flipped bit."""
    return zlib.crc32(content).to_bytes(4, "big")

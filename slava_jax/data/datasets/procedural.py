"""The procedural micrographs as a data set: drawn once, in several processes, then read back."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slava_jax.data.datasets.drawing import draw_all
from slava_jax.data.datasets.store import SHARES, Entry, ImageBuilder
from slava_jax.synthetic.records import CATEGORIES

# Below this many images the processes take longer to start than the drawing lasts.
_WORTH_PROCESSES = 100


class Procedural(ImageBuilder):
    """`images_per_category` micrographs of each of the ten categories.

    Image i of a category depends on (seed, i) alone: a larger set holds the smaller one. Facts
    are left to the teacher (ImageSet.with_facts), records are complete.
    """

    def __init__(
        self,
        data_dir: Path | str,
        images_per_category: int,
        size: int = 256,
        seed: int = 0,
        workers: int | None = None,
        shares: tuple[float, float] = SHARES,
    ):
        """Sets the builder up.

        Args:
          size: side of a picture, pixels.
          seed: of the pictures and the split.
          workers: processes that draw; None for one a core.
        """
        self._count, self._size = images_per_category, size
        self._workers = workers or len(os.sched_getaffinity(0))
        variant = f"n{images_per_category}-size{size}-seed{seed}"
        super().__init__(data_dir, variant, CATEGORIES, 1, seed, shares)

    def _entries(self) -> list[Entry]:
        return [
            Entry(
                f"{category}/{i:05d}", label, {}, (category, image_seed(self.seed, i), self._size)
            )
            for label, category in enumerate(CATEGORIES)
            for i in range(self._count)
        ]

    def _load(self, entries: list[Entry]) -> Iterator[tuple[bytes, str]]:
        workers = self._workers if len(entries) >= _WORTH_PROCESSES else 1
        return draw_all([entry.source for entry in entries], workers)


def image_seed(seed: int, i: int) -> int:
    """Seed of image i of every category (which the drawing mixes in), in 0..2**63-1."""
    return int(np.random.SeedSequence((seed, i)).generate_state(1, np.uint64)[0] >> np.uint64(1))

"""The data set of procedural micrographs, drawn once in several processes and then read back."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slava_jax.data.datasets.drawing import draw_all
from slava_jax.data.datasets.store import SHARES, Entry, ImageBuilder
from slava_jax.synthetic.records import CATEGORIES

# For fewer images, starting processes takes longer than drawing.
_WORTH_PROCESSES = 100


class Procedural(ImageBuilder):
    """`images_per_category` micrographs of each of the ten categories.

    Image i of a category depends only on (seed, i), so a larger set contains the smaller one. The
    records are complete; the teacher adds the facts (ImageSet.with_facts).
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
        """Sets up the builder.

        Args:
          size: side length of a picture, pixels.
          seed: seed of the pictures and the split.
          workers: number of drawing processes; None for one per core.
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
    """Returns the seed of image i, in 0..2**63-1; drawing mixes in the category."""
    return int(np.random.SeedSequence((seed, i)).generate_state(1, np.uint64)[0] >> np.uint64(1))

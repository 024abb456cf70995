"""The in-memory image data set: keys, labels, facts, and encoded images loaded on request."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from slava_jax.errors import UserError
from slava_jax.synthetic.records import GroundTruth


class DataError(UserError, ValueError):
    """An unusable data set; the message names it and says what to do."""


class ImageSet:
    """One split of an image data set. Images stay encoded, and on disk unless given as a list.

    Attributes:
      keys: n unique image keys.
      labels: int32[n], indices into class_names.
      class_names: the classes of the whole data set; a split may lack some.
      facts: n flat dicts, fact name -> value ({} if nothing is known).
      records: n dicts with the fields of a GroundTruth, or None for images that were not drawn.
      hashes: n hashes of all that is known of an image, its pixels included; None if they were not
        computed when it was read.
    """

    def __init__(
        self,
        keys: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str],
        images: Sequence[bytes] | Callable[[int], bytes],
        facts: Sequence[Mapping[str, Any]] | None = None,
        records: Sequence[dict | None] | None = None,
        name: str = "image set",
        hashes: Sequence[str] | None = None,
    ):
        """Builds a set.

        Args:
          images: the encoded files, or a function that reads the i-th one.
          name: the name of this set in error messages.

        Raises:
          DataError: the set is empty, a key is repeated, lengths differ or a label is out of range.
        """
        self.keys = list(keys)
        self.labels = np.asarray(labels, np.int32)
        self.class_names = list(class_names)
        self.facts = [dict(f) for f in facts] if facts is not None else [{} for _ in self.keys]
        self.records = list(records) if records is not None else [None] * len(self.keys)
        self.name, self.hashes = name, hashes
        self._images = images
        if not self.keys:
            raise DataError(f"{name}: is empty; add images")
        self.index = {key: i for i, key in enumerate(self.keys)}
        if len(self.index) < len(self.keys):
            twice = next(key for i, key in enumerate(self.keys) if self.index[key] != i)
            raise DataError(f"{name}: two images have the key {twice!r}; rename one")
        for what in (self.labels, self.facts, self.records):
            if len(what) != len(self.keys):
                raise DataError(
                    f"{name}: {len(self.keys)} keys, but {len(what)} labels, facts or records"
                )
        if self.labels.min() < 0 or self.labels.max() >= len(self.class_names):
            raise DataError(f"{name}: labels must be in 0..{len(self.class_names) - 1}")

    def __len__(self) -> int:
        return len(self.keys)

    def encoded(self, i: int) -> bytes:
        """Returns the i-th image as the bytes of an image file."""
        return self._images(i) if callable(self._images) else self._images[i]

    def category(self, i: int) -> str:
        """Returns the class name of the i-th image."""
        return self.class_names[self.labels[i]]

    def with_facts(self, facts_of: Callable[[GroundTruth], Mapping[str, Any]]) -> "ImageSet":
        """Returns a copy of the set in which facts are computed from the records, if any."""
        facts = [
            known if record is None else facts_of(GroundTruth.from_json(json.dumps(record)))
            for known, record in zip(self.facts, self.records, strict=True)
        ]
        return ImageSet(
            self.keys, self.labels, self.class_names, self._images, facts, self.records, self.name,
            self.hashes,
        )  # fmt: skip


def joined(first: ImageSet, second: ImageSet) -> ImageSet:
    """Concatenates two sets that have the same classes.

    Raises:
      DataError: both sets contain the same image key.
    """
    return ImageSet(
        first.keys + second.keys,
        np.concatenate([first.labels, second.labels]),
        first.class_names,
        lambda i: first.encoded(i) if i < len(first) else second.encoded(i - len(first)),
        first.facts + second.facts,
        first.records + second.records,
        f"{first.name} and {second.name}",
    )

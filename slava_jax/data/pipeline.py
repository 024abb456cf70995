"""Batches for the training stages: deterministic, sharded by host, resumable through Grain.

Every source here is a sequence of batches. Batch i depends only on the source's arguments and i, so
a run interrupted in the middle of an epoch resumes with exactly the batches it would have seen. The
plan of an epoch (which rows, in which order) is a seeded permutation, made on first use. `iterate`
prefetches a source for the training loop. For the assistant stage see assistant_batches.py.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import grain
import numpy as np

from slava_jax.data.chat import Example
from slava_jax.data.datasets.base import ImageSet
from slava_jax.data.fact_targets import FactTargets
from slava_jax.data.images import Symmetry, augment, draw_symmetry, read_image, symmetric
from slava_jax.errors import UserError, too_small

# The purposes of random streams; part of the seed, so that no two streams coincide.
STREAM_PLAN, STREAM_PAIRS, STREAM_PIXELS, STREAM_MISMATCH, STREAM_TURNS = range(5)


class PipelineError(UserError, ValueError):
    """Data that cannot be batched as requested; the message says which and what to do."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """The rows of a global batch that one host loads: an equal contiguous part of each microbatch.

    Rank and dropout are drawn per microbatch, so a microbatch must hold the same examples for any
    number of hosts.
    """

    index: int = 0  # index of this host (jax.process_index())
    count: int = 1  # number of hosts (jax.process_count())
    microbatches: int = 1  # microbatches per batch
    devices: int = 1  # devices of this host, each with its own rows of a microbatch

    def rows(self, batch_size: int, multiple: int = 1) -> np.ndarray:
        """Returns int32[B], this host's rows of the global batch, microbatch by microbatch.

        Raises:
          PipelineError: the rows cannot be divided equally among devices in blocks of `multiple`.
        """
        if not 0 <= self.index < self.count:
            raise PipelineError(f"host {self.index} of {self.count}: indices start at 0")
        if batch_size % (self.count * self.devices * self.microbatches * multiple):
            raise PipelineError(
                f"batch size {batch_size} is not a multiple of {self.count} host(s) x "
                f"{self.devices} device(s) x {self.microbatches} microbatch(es) x {multiple} "
                "row(s) per pair block; change batch_size, microbatches or pair_block"
            )
        rows = np.arange(batch_size, dtype=np.int32)
        return rows.reshape(self.microbatches, self.count, -1)[:, self.index].reshape(-1)


ONE_HOST = Shard()


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random augmentation of a training image; see images.augment."""

    flips: bool = True
    turns: int = 4
    shift: int = 0  # pixels, along each axis


def augmentation_problems(settings: Mapping, side: int) -> Iterator[str]:
    """Yields problems with the augmentation settings for images of `side` pixels."""
    if not 0 <= settings["shift"] < side:
        yield f"shift: must be 0 or more and below vit.image_size, {side}"
    if settings["turns"] not in (1, 2, 4):
        yield f"turns: must be 1, 2 or 4, is {settings['turns']}"


def text_problems(stage: Mapping) -> Iterator[str]:
    """Yields problems with the batch settings of a stage that trains only on text."""
    yield from too_small(stage, 1, "length", "validation_batches")


class ImageCache:
    """Decoded and resized images of a set, kept in memory if all of them fit.

    Batches are built from it; train/frozen_states.py has a class with the same interface.
    """

    dtype = np.uint8

    def __init__(self, images: ImageSet, size: int, channels: int, cache_mb: int):
        self.shape = (size, size, channels)
        self._images = images
        fits = len(images) * size * size * channels <= cache_mb * 2**20
        self._pixels = np.empty((len(images), *self.shape), np.uint8) if fits else None
        self._done = np.zeros(len(images), bool)

    def __getitem__(self, i: int) -> np.ndarray:
        """Returns uint8[P, P, ch], read-only. Raises ImageError, naming set and image."""
        if self._pixels is not None and self._done[i]:
            return self._pixels[i]
        name = f"{self._images.name}: image {self._images.keys[i]!r}"
        pixels = read_image(self._images.encoded(i), self.shape[0], self.shape[2], name)
        if self._pixels is not None:
            self._pixels[i] = pixels
            self._done[i] = True
        return pixels

    def under(self, i: int, symmetry: Symmetry) -> np.ndarray:
        """Returns image i under a symmetry of the square, as a view."""
        return symmetric(self[i], *symmetry)

    def augmented(self, i: int, rng: np.random.Generator, change: Augmentation) -> np.ndarray:
        """Returns image i with random augmentation."""
        return augment(self[i], rng, change.flips, change.turns, change.shift)


class SymmetricView:
    """A view of a cache with one symmetry applied to all images."""

    def __init__(self, cache, symmetry: Symmetry):
        self.shape, self.dtype = cache.shape, cache.dtype
        self._cache, self._symmetry = cache, symmetry

    def __getitem__(self, i: int) -> np.ndarray:
        return self._cache.under(i, self._symmetry)


class JoinedCache:
    """Concatenates two caches, as `joined` concatenates their image sets."""

    def __init__(self, first, length: int, second):
        """`length`: number of images in `first`."""
        self.shape, self.dtype = first.shape, first.dtype
        self._first, self._length, self._second = first, length, second

    def _of(self, i: int) -> tuple:
        return (self._first, i) if i < self._length else (self._second, i - self._length)

    def __getitem__(self, i: int) -> np.ndarray:
        cache, i = self._of(i)
        return cache[i]

    def under(self, i: int, symmetry: Symmetry) -> np.ndarray:
        """See ImageCache.under."""
        cache, i = self._of(i)
        return cache.under(i, symmetry)

    def augmented(self, i: int, rng: np.random.Generator, change: Augmentation) -> np.ndarray:
        """See ImageCache.augmented."""
        cache, i = self._of(i)
        return cache.augmented(i, rng, change)


class EpochPlans:
    """Thread-safe cache of epoch plans, each made once; keeps only the last two."""

    def __init__(self, make: Callable[[int], np.ndarray]):
        self._make = make
        self._plans: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __getitem__(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._plans:
                while len(self._plans) > 1:
                    del self._plans[min(self._plans)]
                self._plans[epoch] = self._make(epoch)
            return self._plans[epoch]


def stream(seed: int, *numbers: int) -> np.random.Generator:
    """Returns the random generator seeded with these non-negative numbers."""
    return np.random.default_rng((seed, *numbers))


def iterate(batches: Sequence[dict[str, np.ndarray]], prefetch: int = 8) -> grain.DatasetIterator:
    """Reads a batch source in order through a prefetching Grain iterator.

    `set_state()` resumes after the last batch taken, from the state returned by `get_state()`.
    """
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.source(batches).to_iter_dataset(options))


class VisionBatches:
    """Images and labels in a new order every epoch; rows after the last full batch are dropped.

    Fields of a batch of this host's B rows: images uint8[B, P, P, ch], labels int32[B], example_id
    uint32[B] (row of the global batch), index int32[B] (row of the image set), and the arrays of
    `facts`, turned with the images.
    """

    def __init__(
        self,
        images: ImageSet,
        cache: ImageCache,
        batch_size: int,
        seed: int,
        epochs: int,
        augmentation: Augmentation | None = None,
        shard: Shard = ONE_HOST,
        facts: FactTargets | None = None,
    ):
        """Plans the batches. Raises PipelineError if there is not one full batch."""
        self.batches_per_epoch = whole_batches(len(images), batch_size, images.name)
        self._facts = facts or FactTargets()
        self._targets = self._facts.arrays(images.facts)
        self._images, self._cache, self._seed, self._epochs = images, cache, seed, epochs
        self._batch_size, self._augmentation = batch_size, augmentation
        self._rows = shard.rows(batch_size)
        self._plans = EpochPlans(self._plan)

    def _plan(self, epoch: int) -> np.ndarray:
        order = stream(self._seed, STREAM_PLAN, epoch).permutation(len(self._images))
        return order[: self.batches_per_epoch * self._batch_size].reshape(-1, self._batch_size)

    def __len__(self) -> int:
        return self._epochs * self.batches_per_epoch

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        epoch, step = split_position(self, i, self.batches_per_epoch)
        index = self._plans[epoch][step][self._rows].astype(np.int32)
        pixels = np.empty((len(index), *self._cache.shape), self._cache.dtype)
        targets = {name: rows[index] for name, rows in self._targets.items()}
        if self._augmentation is None:
            for row, image in enumerate(index.tolist()):
                pixels[row] = self._cache[image]
        else:
            change, streams = self._augmentation, (self._seed, STREAM_PIXELS, epoch)
            for row, image in enumerate(index.tolist()):
                pixels[row] = self._cache.augmented(image, stream(*streams, image), change)
            # The symmetry is the first that `augment` draws.
            turns = [
                draw_symmetry(stream(*streams, image), change.flips, change.turns)
                for image in index.tolist()
            ]
            targets["fact_words"] = self._facts.turned(targets["fact_words"], turns)
        return {
            "images": pixels,
            "labels": self._images.labels[index],
            "example_id": self._rows.astype(np.uint32),
            "index": index,
            **targets,
        }


class VisionEvaluation:
    """Every image once, in order; the last batch is padded with its first row, index -1.

    A batch has the fields of VisionBatches and row_weight float32[B], 0 on padding rows.
    """

    def __init__(
        self,
        images: ImageSet,
        cache: ImageCache,
        batch_size: int,
        facts: FactTargets | None = None,
    ):
        self._images, self._cache = images, cache
        self._targets = (facts or FactTargets()).arrays(images.facts)
        self._plan = padded_plan(np.arange(len(images)), batch_size)

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        split_position(self, i, len(self))
        index = self._plan[i]
        shown = np.where(index < 0, self._plan[i][0], index)
        return {
            "images": np.stack([self._cache[image] for image in shown.tolist()]),
            "labels": self._images.labels[shown],
            "example_id": np.arange(len(index), dtype=np.uint32),
            "index": index,
            "row_weight": (index >= 0).astype(np.float32),
            **{name: rows[shown] for name, rows in self._targets.items()},
        }


class LanguageBatches:
    """The text of instructions as one stream of tokens, cut into rows of equal length.

    A text consists of bos, supplement and question without images, answer, and the tokenizer's eos.
    Texts are concatenated in a new order every epoch; a row may start in the middle of a text.
    Fields of a batch: tokens, order, targets int32[B, T] (targets are the next tokens),
    target_weights float32[B, T] (all 1), example_id uint32[B].
    """

    def __init__(
        self,
        examples: Sequence[Example],
        eos_id: int,
        length: int,
        batch_size: int,
        seed: int,
        epochs: int,
        shard: Shard = ONE_HOST,
    ):
        """Plans the batches. Raises PipelineError if there is not one full batch of text."""
        self._texts = [_plain_text(example, eos_id) for example in examples]
        tokens = sum(len(text) for text in self._texts)
        self.batches_per_epoch = whole_batches(
            (tokens - 1) // length, batch_size, f"a text of {tokens} tokens in rows of {length}"
        )
        self._length, self._batch_size, self._seed = length, batch_size, seed
        self._epochs, self._rows = epochs, shard.rows(batch_size)
        self._plans = EpochPlans(self._plan)

    def _plan(self, epoch: int) -> np.ndarray:
        order = stream(self._seed, STREAM_PLAN, epoch).permutation(len(self._texts))
        return np.concatenate([self._texts[i] for i in order.tolist()]).astype(np.int32)

    def __len__(self) -> int:
        return self._epochs * self.batches_per_epoch

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        epoch, step = split_position(self, i, self.batches_per_epoch)
        starts = (step * self._batch_size + self._rows)[:, None] * self._length
        position = np.arange(self._length, dtype=np.int32)
        text = self._plans[epoch]
        shape = (len(self._rows), self._length)
        return {
            "tokens": text[starts + position],
            "order": np.broadcast_to(position, shape).copy(),
            "targets": text[starts + position + 1],
            "target_weights": np.ones(shape, np.float32),
            "example_id": self._rows.astype(np.uint32),
        }


def _plain_text(example: Example, eos_id: int) -> np.ndarray:
    """Returns the token ids without images, with every answer ending in `eos_id`."""
    ids = example.ids.copy()
    ids[example.answers[:, 1] - 1] = eos_id
    return ids[example.image_index < 0]


def whole_batches(rows: int, batch_size: int, name: str) -> int:
    """Returns the number of full batches in `rows`. Raises PipelineError if there is none."""
    if rows < batch_size:
        raise PipelineError(
            f"{name}: {rows} row(s) do not fill one batch of {batch_size}; add data or lower "
            "the stage's batch size (--config.STAGE.batch_size=N)"
        )
    return rows // batch_size


def split_position(batches: Sequence, i: int, per_epoch: int) -> tuple[int, int]:
    """Returns epoch and step of batch i. Raises IndexError past the end, which ends a for loop."""
    if not 0 <= i < len(batches):
        raise IndexError(f"batch {i} of {len(batches)}")
    return divmod(int(i), per_epoch)


def padded_plan(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns int32[batches, batch_size], the rows in order, padded with -1."""
    batches = -(-len(rows) // batch_size)
    plan = np.full(batches * batch_size, -1, np.int32)
    plan[: len(rows)] = rows
    return plan.reshape(batches, batch_size)

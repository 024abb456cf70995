"""The instructions of the assistant stage with their token ids and the images they speak of."""

from collections.abc import Iterator, Sequence

import numpy as np

from slava_jax.data.chat import Example, TextForm
from slava_jax.data.collate import answer_window
from slava_jax.data.datasets.base import ImageSet, joined
from slava_jax.data.instructions import Instruction, claims_hold
from slava_jax.data.pairs import PairChooser
from slava_jax.data.pipeline import (
    STREAM_EXCHANGE,
    ImageCache,
    JoinedCache,
    PipelineError,
    stream,
)


def bucket_problems(buckets: Sequence) -> Iterator[str]:
    """What is wrong with the sizes that a batch may have."""
    if not all(_is_bucket(sizes) for sizes in buckets):
        yield "buckets: must be triples of whole numbers, ((48, 16, 1), ...)"


def _is_bucket(sizes) -> bool:
    return (
        isinstance(sizes, tuple | list)
        and len(sizes) == 3
        and all(type(n) is int and n > 0 for n in sizes)
    )


class AssistantData:
    """The instructions of one split with their token ids and the images they speak of.

    Attributes:
      instructions: n of them.
      examples: their token ids.
      images: those of the split, and behind them those that only stand before a target image.
      image_rows: int32[n, I], rows of `images` of each instruction, the target image last, filled
        up with -1 to the largest number of images I.
      targets: int32[n], row of the target image.
      form: how the model wants its text. every_answer: it learns all answers of a conversation.
      buckets: (T, U, I) triples, in which an image counts as one of the T tokens; the last one has
        room for every instruction.
      bucket: int32[n], the first bucket each instruction fits.
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        examples: Sequence[Example],
        images: ImageSet,
        cache: ImageCache,
        form: TextForm,
        buckets: Sequence[tuple[int, int, int]],
        before: tuple[ImageSet, ImageCache] | None = None,
        every_answer: bool = False,
    ):
        """Checks everything, so that no error waits in the middle of a run.

        Args:
          examples: the token ids of each instruction (chat.encode_examples).
          images, cache: of the split, which every target image is of.
          form: with which they were made.
          before: the training split's images and cache, where `images` is another split: the
            examples that stand before a target image may be of it.

        Raises:
          PipelineError: no instructions; one names an unknown image, is longer than the last
            bucket, or claims what is false of its own image; the last bucket is not the largest.
        """
        if not instructions:
            raise PipelineError(f"{images.name}: no instructions; write or generate some")
        self._split = images
        if before is not None:
            images, cache = joined(images, before[0]), JoinedCache(cache, len(images), before[1])
        self.instructions, self.images, self.cache = list(instructions), images, cache
        self.form, self.examples, self.every_answer = form, examples, every_answer
        self.buckets = _checked_buckets(buckets)
        self.bucket = self._first_buckets()
        self.image_rows = self._find_images()
        counts = (self.image_rows >= 0).sum(1)
        self.targets = self.image_rows[np.arange(len(counts)), counts - 1]
        self._check_targets()
        self._check_claims()
        self.pairs = PairChooser(self.instructions, self.targets, images.facts)

    def __len__(self) -> int:
        return len(self.instructions)

    def exchanged(self, seed: int) -> np.ndarray:
        """int32[n]: for each instruction the row of a random image of another category.

        Raises:
          PipelineError: all images are of one category.
        """
        rng = stream(seed, STREAM_EXCHANGE)
        labels = self._split.labels
        others = {label: np.flatnonzero(labels != label) for label in set(labels.tolist())}
        if len(others) < 2:
            raise PipelineError(f"{self.images.name}: all images are of one category")
        choices = [rng.choice(others[label]) for label in labels[self.targets].tolist()]
        return np.asarray(choices, np.int32)

    def shape(self, rows: np.ndarray) -> tuple[int, int, int]:
        """The first bucket that all these instructions fit."""
        wanted = self._sizes(rows).max(0)
        return next(bucket for bucket in self.buckets if (wanted <= bucket).all())

    def _sizes(self, rows) -> np.ndarray:
        """int[rows, 3]: the T, U and I that each needs."""
        return np.asarray([self._size(self.examples[row]) for row in rows])

    def _size(self, example: Example) -> tuple[int, int, int]:
        start, stop = answer_window(example, self.every_answer)
        count = len(example.spans)
        return len(example.ids) - count * (self.form.image_tokens - 1), stop - start, count

    def array_shape(self, bucket: tuple[int, int, int]) -> tuple[int, int]:
        """T and U of the arrays of a bucket, in which every image takes its M positions."""
        tokens, predicted, count = bucket
        return tokens + count * (self.form.image_tokens - 1), predicted

    def _first_buckets(self) -> np.ndarray:
        sizes = self._sizes(range(len(self)))
        fits = (sizes[:, None] <= np.asarray(self.buckets)).all(-1)
        if not fits.any(1).all():
            worst = int(np.argmin(fits.any(1)))
            tokens, answer, images = sizes[worst]
            raise PipelineError(
                f"instruction {self.instructions[worst].id!r}: needs {tokens} tokens, {answer} for "
                f"the answer and {images} image(s), more than the largest bucket "
                f"{self.buckets[-1]}; shorten it or add a larger bucket"
            )
        return fits.argmax(1).astype(np.int32)

    def _find_images(self) -> np.ndarray:
        most = max(len(item.images) for item in self.instructions)
        rows = np.full((len(self), most), -1, np.int32)
        for row, item in zip(rows, self.instructions, strict=True):
            for slot, key in enumerate(item.images):
                if key not in self.images.index:
                    raise PipelineError(
                        f"instruction {item.id!r}: image {key!r} is not in {self.images.name}; "
                        "correct the key or leave the instruction out"
                    )
                row[slot] = self.images.index[key]
        return rows

    def _check_targets(self) -> None:
        for item, image in zip(self.instructions, self.targets.tolist(), strict=True):
            if image >= len(self._split):
                raise PipelineError(
                    f"instruction {item.id!r}: its target image {item.target!r} is not of "
                    f"{self._split.name}, but of the training split; only examples may be"
                )

    def _check_claims(self) -> None:
        for item, image in zip(self.instructions, self.targets.tolist(), strict=True):
            if not claims_hold(item.claims, self.images.facts[image]):
                raise PipelineError(
                    f"instruction {item.id!r}: its claims {item.claims} are not true of the facts "
                    f"of its own image {item.target!r}; correct the claims, or give the image set "
                    "its facts (ImageSet.with_facts)"
                )


def _checked_buckets(buckets: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    triples = [(int(tokens), int(answer), int(images)) for tokens, answer, images in buckets]
    if not triples or (np.asarray(triples) > triples[-1]).any():
        raise PipelineError(
            f"buckets {triples}: list (T, U, I) triples, at least one; the last one must be the "
            "largest in all three numbers"
        )
    return triples

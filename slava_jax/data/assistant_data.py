"""The instructions of the assistant stage, with their token ids and images."""

from collections.abc import Iterator, Sequence

import numpy as np

from slava_jax.data.chat import Example, TextForm
from slava_jax.data.collate import answer_window
from slava_jax.data.datasets.base import ImageSet, joined
from slava_jax.data.instructions import Instruction, claims_hold
from slava_jax.data.pairs import PairChooser
from slava_jax.data.pipeline import (
    STREAM_MISMATCH,
    ImageCache,
    JoinedCache,
    PipelineError,
    stream,
)


def bucket_problems(buckets: Sequence) -> Iterator[str]:
    """Yields problems with the batch sizes."""
    if not buckets or not all(_is_bucket(sizes) for sizes in buckets):
        yield "buckets: must be triples of whole numbers, ((48, 16, 1), ...)"
    elif (np.asarray(buckets) > np.asarray(buckets[-1])).any():
        yield "buckets: the last one must be the largest in all three numbers"


def _is_bucket(sizes) -> bool:
    return (
        isinstance(sizes, tuple | list)
        and len(sizes) == 3
        and all(type(n) is int and n > 0 for n in sizes)
    )


class AssistantData:
    """The instructions of one split, with their token ids and images.

    Attributes:
      instructions: the n instructions.
      examples: their token ids.
      images: the images of the split, followed by those only used before a target image.
      image_rows: int32[n, I], each instruction's rows of `images`, the target image last, padded
        with -1 to the largest number of images I.
      targets: int32[n], row of the target image.
      form: the text format that the model expects.
      every_answer: whether the model is trained on all answers of a conversation.
      buckets: (T, U, I) triples, in which an image counts as one of the T tokens; every instruction
        fits in the last one.
      bucket: int32[n], the first bucket that fits each instruction.
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
        """Checks everything up front, so that no error comes up in the middle of a run.

        Args:
          examples: the token ids of each instruction (chat.encode_examples).
          images, cache: those of the split; every target image must be among them.
          form: the format of `examples`.
          before: the training split's images and cache if `images` is another split; the example
            images before a target image may come from it.

        Raises:
          PipelineError: there are no instructions; one of them uses an unknown image, exceeds the
            last bucket or makes claims that are false for its own image; or the last bucket is
            not the largest.
        """
        if not instructions:
            raise PipelineError(f"{images.name}: no instructions; write or generate some")
        self._split = images
        if before is not None:
            images, cache = joined(images, before[0]), JoinedCache(cache, len(images), before[1])
        self.instructions, self.images, self.cache = list(instructions), images, cache
        self.form, self.examples, self.every_answer = form, examples, every_answer
        self.buckets = _checked_buckets(buckets)
        # Images inside an answer window, of a later turn, take room there as well.
        self._inner = max(self._images_within(example) for example in examples)
        self.bucket = self._first_buckets()
        self.image_rows = self._find_images()
        counts = (self.image_rows >= 0).sum(1)
        self.targets = self.image_rows[np.arange(len(counts)), counts - 1]
        self._check_targets()
        self._check_claims()
        self.pairs = PairChooser(self.instructions, self.targets, images.facts)

    def __len__(self) -> int:
        return len(self.instructions)

    def mismatched(self, seed: int) -> np.ndarray:
        """Returns int32[n], a random image of another category (its row) for each instruction.

        Raises:
          PipelineError: all images are of one category.
        """
        rng = stream(seed, STREAM_MISMATCH)
        labels = self._split.labels
        others = {label: np.flatnonzero(labels != label) for label in set(labels.tolist())}
        if len(others) < 2:
            raise PipelineError(f"{self.images.name}: all images are of one category; add another")
        choices = [rng.choice(others[label]) for label in labels[self.targets].tolist()]
        return np.asarray(choices, np.int32)

    def shape(self, rows: np.ndarray) -> tuple[int, int, int]:
        """Returns the first bucket that fits all these instructions."""
        wanted = self._sizes(rows).max(0)
        return next(bucket for bucket in self.buckets if (wanted <= bucket).all())

    def _sizes(self, rows) -> np.ndarray:
        """Returns int[rows, 3], the T, U and I that each row needs."""
        return np.asarray([self._size(self.examples[row]) for row in rows])

    def _size(self, example: Example) -> tuple[int, int, int]:
        start, stop = answer_window(example, self.every_answer)
        count, more = len(example.spans), self.form.image_tokens - 1
        predicted = stop - start - self._images_within(example) * more
        return len(example.ids) - count * more, predicted, count

    def _images_within(self, example: Example) -> int:
        """Returns the number of images that a later turn shows within the answer window."""
        start, _ = answer_window(example, self.every_answer)
        return int((example.spans[:, 0] >= start).sum())

    def array_shape(self, bucket: tuple[int, int, int]) -> tuple[int, int]:
        """Returns T and U of a bucket's arrays, in which every image takes M positions."""
        (tokens, predicted, count), more = bucket, self.form.image_tokens - 1
        return tokens + count * more, predicted + min(count, self._inner) * more

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
                        "correct the key or remove the instruction"
                    )
                row[slot] = self.images.index[key]
        return rows

    def _check_targets(self) -> None:
        for item, image in zip(self.instructions, self.targets.tolist(), strict=True):
            if image >= len(self._split):
                raise PipelineError(
                    f"instruction {item.id!r}: its target image {item.target!r} is not in "
                    f"{self._split.name} but in the training split; only earlier images may be"
                )

    def _check_claims(self) -> None:
        for item, image in zip(self.instructions, self.targets.tolist(), strict=True):
            if not claims_hold(item.claims, self.images.facts[image]):
                raise PipelineError(
                    f"instruction {item.id!r}: its claims {item.claims} contradict the facts of "
                    f"its own image {item.target!r}; correct the claims or add the facts to the "
                    "image set (ImageSet.with_facts)"
                )


def _checked_buckets(buckets: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    if problems := list(bucket_problems(buckets)):
        raise PipelineError(problems[0])
    return [tuple(sizes) for sizes in buckets]

"""Batches for the assistant stage: instructions, their images and mismatched pairs among the rows.

Rows are bucketed by size. AssistantData.buckets lists the few shapes (T tokens, U answer tokens, I
images) that a batch may have, which limits the number of compilations. Each epoch samples the
instructions, sorts them by bucket and cuts them into batches, each padded to the first bucket that
fits all its rows. The number of batches is the same in every epoch.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from slava_jax.data.assistant_data import AssistantData
from slava_jax.data.collate import assistant_fields
from slava_jax.data.instructions import TASKS
from slava_jax.data.pipeline import (
    ONE_HOST,
    STREAM_PAIRS,
    STREAM_PIXELS,
    STREAM_PLAN,
    Augmentation,
    EpochPlans,
    PipelineError,
    Shard,
    padded_plan,
    split_position,
    stream,
    whole_batches,
)
from slava_jax.data.sampling import sampling_weights
from slava_jax.errors import too_small


def pair_problems(settings: Mapping) -> Iterator[str]:
    """Yields problems with the block of rows in which mismatched pairs are chosen."""
    if settings["pair_block"] < 2 or settings["batch_size"] % settings["pair_block"]:
        yield "pair_block: must be 2 or more and divide batch_size"


def setting_problems(stage: Mapping) -> Iterator[str]:
    """Yields problems with the batch settings of a stage that trains on instructions."""
    yield from too_small(stage, 1, "per_image", "turns", "validation_batches")
    if not 1e-3 <= stage["asked_weight"] <= 1e3:
        yield f"asked_weight: must be 0.001 to 1000, is {stage['asked_weight']}"
    yield from pair_problems(stage)
    if not all(task in TASKS for task in stage["tasks"]):
        yield f"tasks: must be some of {', '.join(TASKS)}, is {stage['tasks']}"


class AssistantBatches:
    """Training batches, with a new sample of the instructions in a new order every epoch.

    Fields of a batch of this host's B rows, with I images per example: images
    uint8[B, I, P, P, ch]; tokens, image_index int32[B, T]; length, answer_start int32[B]; weights
    float32[B, U] (collate.assistant_fields); mismatch_offset int32[B], the offset, within the pair
    block, of the row whose target image makes the mismatched pair; mismatch_weight float32[B], 1 if
    there is such a row; target_image int32[B], slot of the target image; example_id uint32[B], row
    of the global batch; index int32[B], the instruction; row_weight float32[B], 1.
    """

    def __init__(
        self,
        data: AssistantData,
        batch_size: int,
        pair_block: int,
        seed: int,
        epochs: int,
        per_image: int | None = None,
        always: tuple[str, ...] = (),
        augmentation: Augmentation | None = None,
        shard: Shard = ONE_HOST,
        asked_weight: float = 1.0,
    ):
        """Plans the batches.

        Args:
          batch_size: rows of the global batch, a multiple of pair_block x hosts x devices x
            microbatches (see Shard).
          pair_block: rows among which mismatched pairs are chosen, all in one device's microbatch.
          per_image: instructions per target image and epoch; None takes all.
          always: question types taken first, and all of them, even if more than per_image.
          augmentation: flips and turns are not applied to directional instructions.
          asked_weight: see sampling.sampling_weights.

        Raises:
          PipelineError: an epoch has no full batch, or batch_size is not divisible.
        """
        self._data, self._batch_size, self._block = data, batch_size, pair_block
        self._seed, self._epochs, self._augmentation = seed, epochs, augmentation
        self._shard_rows = shard.rows(batch_size, pair_block)
        self._fixed, self._drawn = _sampling(data, per_image, always, asked_weight)
        rows = len(self._fixed) + sum(count for _, _, count in self._drawn)
        self.batches_per_epoch = whole_batches(rows, batch_size, data.images.name)
        self._plans = EpochPlans(self._plan)

    def _plan(self, epoch: int) -> np.ndarray:
        """Returns int32[batches, batch_size], the instructions of each batch."""
        rng = stream(self._seed, STREAM_PLAN, epoch)
        drawn = [rng.choice(rows, n, replace=False, p=p) for rows, p, n in self._drawn]
        rows = rng.permutation(np.concatenate([self._fixed, *drawn]))
        rows = rows[: self.batches_per_epoch * self._batch_size]
        plan = _by_bucket(rows, self._data.bucket).reshape(-1, self._batch_size)
        return rng.permutation(plan).astype(np.int32)

    def __len__(self) -> int:
        return self._epochs * self.batches_per_epoch

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        epoch, step = split_position(self, i, self.batches_per_epoch)
        return _assemble(
            self._data,
            self._plans[epoch][step],
            self._shard_rows,
            self._block,
            (self._seed, epoch, step),
            self._augmentation,
            self._data.targets,
        )


class AssistantEvaluation:
    """Every chosen instruction once, without augmentation; batches as in AssistantBatches.

    Rows are sorted by bucket and shuffled within one, so that a pair block holds different images;
    `index` gives the instruction of each row. The last batch is padded with copies that have index
    -1 and row_weight, weights and mismatch_weight 0.
    """

    def __init__(
        self,
        data: AssistantData,
        batch_size: int,
        pair_block: int,
        seed: int = 0,
        rows: Sequence[int] | np.ndarray | None = None,
        shown: np.ndarray | None = None,
    ):
        """Plans the batches.

        Args:
          rows: the instructions to evaluate; None for all.
          shown: int32[n], the image to show for each instruction of `data` instead of its target
            image (AssistantData.mismatched); None for the target image itself.

        Raises:
          PipelineError: there are no rows, or batch_size is not divisible.
        """
        self._data, self._block, self._seed = data, pair_block, seed
        self._shown = data.targets if shown is None else np.asarray(shown, np.int32)
        self._every_row = ONE_HOST.rows(batch_size, pair_block)
        rows = np.arange(len(data)) if rows is None else np.asarray(rows, np.int32)
        if not len(rows):
            raise PipelineError(f"{data.images.name}: no instructions left to evaluate")
        rows = stream(seed, STREAM_PLAN, 0).permutation(rows)
        self._plan = padded_plan(_by_bucket(rows, data.bucket), batch_size)

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        split_position(self, i, len(self))
        return _assemble(
            self._data,
            self._plan[i],
            self._every_row,
            self._block,
            (self._seed, 0, i),
            None,
            self._shown,
        )


def _assemble(
    data: AssistantData,
    plan: np.ndarray,
    shard_rows: np.ndarray,
    block: int,
    position: tuple[int, int, int],
    augmentation: Augmentation | None,
    shown: np.ndarray,
) -> dict[str, np.ndarray]:
    """Builds one host's rows of the batch `plan` int32[global batch] at (seed, epoch, step)."""
    index = plan[shard_rows]
    rows = np.where(index < 0, plan[0], index)
    real = index >= 0
    mismatch_offset, mismatch_weight = [], []
    for start in range(0, len(index), block):
        number = int(shard_rows[start]) // block
        rng = stream(position[0], STREAM_PAIRS, *position[1:], number)
        part = slice(start, start + block)
        chosen = data.pairs.choose(index[part], shown[rows[part]], rng)
        mismatch_offset.append(chosen[0])
        mismatch_weight.append(chosen[1])
    mismatch_offset = np.concatenate(mismatch_offset)
    mismatch_weight = np.concatenate(mismatch_weight)
    # The shape depends on all rows of the global batch, so that every host uses the same one.
    bucket = data.shape(plan[plan >= 0])
    slots = bucket[-1]
    examples = [data.examples[row] for row in rows.tolist()]
    fields = assistant_fields(examples, data.array_shape(bucket), data.every_answer)
    fields["weights"] *= real[:, None]
    upright = _upright(data, rows, mismatch_offset, mismatch_weight)
    return {
        "images": _pixels(data, (rows, slots), upright, position[:2], augmentation, shown),
        **fields,
        "mismatch_offset": mismatch_offset,
        "mismatch_weight": mismatch_weight,
        "target_image": ((data.image_rows[rows] >= 0).sum(1) - 1).astype(np.int32),
        "example_id": shard_rows.astype(np.uint32),
        "index": index,
        "row_weight": real.astype(np.float32),
    }


def _upright(
    data: AssistantData,
    rows: np.ndarray,
    mismatch_offset: np.ndarray,
    mismatch_weight: np.ndarray,
) -> np.ndarray:
    """Returns bool[B], the rows that must not be mirrored or turned.

    These are the rows whose answer refers to directions, and the rows whose image is the mismatch
    for such an answer, since a turn could make the answer true.
    """
    directional = np.asarray(
        [data.instructions[row].metadata["directional"] for row in rows.tolist()], bool
    )
    upright = directional.copy()
    partner = np.arange(len(rows)) + mismatch_offset
    upright[partner[directional & (mismatch_weight > 0)]] = True
    return upright


def _pixels(
    data: AssistantData,
    place: tuple[np.ndarray, int],
    upright: np.ndarray,
    seeds: tuple[int, int],
    augmentation: Augmentation | None,
    shown: np.ndarray,
) -> np.ndarray:
    """Returns uint8[B, I, P, P, ch]; slots are black if an example has fewer than I images.

    `place` holds the instruction of each row, and I.
    """
    (rows, slots), (seed, epoch) = place, seeds
    pixels = np.zeros((len(rows), slots, *data.cache.shape), data.cache.dtype)
    for out, row, straight in zip(pixels, rows.tolist(), upright.tolist(), strict=True):
        images = [image for image in data.image_rows[row].tolist() if image >= 0]
        images[-1] = int(shown[row])
        for slot, image in enumerate(images):
            if augmentation is None:
                out[slot] = data.cache[image]
            else:
                rng = stream(seed, STREAM_PIXELS, epoch, row, slot)
                out[slot] = data.cache.augmented(image, rng, _kept_upright(augmentation, straight))
    return pixels


def _kept_upright(augmentation: Augmentation, straight: bool) -> Augmentation:
    return dataclasses.replace(augmentation, flips=False, turns=1) if straight else augmentation


def _by_bucket(rows: np.ndarray, bucket: np.ndarray) -> np.ndarray:
    """Sorts the rows by bucket (stable)."""
    return rows[np.argsort(bucket[rows], kind="stable")]


def _sampling(
    data: AssistantData, per_image: int | None, always: tuple[str, ...], asked_weight: float
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray, int]]]:
    """Returns the instructions of every epoch and, per image, those to sample from, with what
    probabilities, and how many.
    """
    if per_image is None:
        return np.arange(len(data)), []
    weights = sampling_weights(data.instructions, asked_weight)
    by_image: dict[int, list[int]] = {}
    for row, image in enumerate(data.targets.tolist()):
        by_image.setdefault(image, []).append(row)
    fixed, drawn = [], []
    for rows in by_image.values():
        first = [row for row in rows if data.instructions[row].question_type in always]
        rest = [row for row in rows if data.instructions[row].question_type not in always]
        fixed += first
        count = min(len(rest), max(0, per_image - len(first)))
        if count:
            share = weights[rest] / weights[rest].sum()
            drawn.append((np.asarray(rest, int), share, count))
    return np.asarray(fixed, int), drawn

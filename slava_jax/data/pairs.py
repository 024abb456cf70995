"""Mismatched image-text pairs for the matching loss, without false negatives.

Most answers are true of many images, so an image only counts as mismatched if its facts contradict
the answer's claims. For an instruction without claims (real data), it must be of another category
and have different answers to that question in that style.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slava_jax.data.instructions import Instruction, shown_false


class PairChooser:
    """Chooses mismatched images for instructions, within blocks of batch rows."""

    def __init__(
        self,
        instructions: Sequence[Instruction],
        targets: np.ndarray,
        facts: Sequence[Mapping[str, Any]],
    ):
        """Prepares the lookup tables.

        Args:
          targets: int32[n], index of each instruction's target image.
          facts: the facts of every image.
        """
        self._instructions = instructions
        self._facts = facts
        self._answers: dict[tuple, set[str]] = {}
        self._categories: dict[int, str] = {}
        for item, image in zip(instructions, targets.tolist(), strict=True):
            answers = self._answers.setdefault((image, *_asked(item)), set())
            answers.add(item.answer)
            self._categories.setdefault(image, item.category)

    def is_mismatch(self, instruction: int, image: int) -> bool:
        """Returns whether the instruction's answer is known to be false for the image."""
        item = self._instructions[instruction]
        if item.claims:
            return shown_false(item, self._facts[image])
        answers = self._answers.get((image, *_asked(item)))
        if answers is None or self._categories[image] == item.category:
            return False
        return item.answer not in answers

    def choose(
        self, rows: np.ndarray, shown: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws a mismatched partner for every row of one block, uniformly from all candidates.

        Args:
          rows: int32[rows], instruction of each row; negative for padding.
          shown: int32[rows], index of the target image that each row shows.

        Returns:
          mismatch_offset int32[rows], the offset (negative is up) to the row whose target image
          makes the mismatched pair, 0 if there is none; mismatch_weight float32[rows], 1 if there
          is one, else 0.
        """
        count = len(rows)
        mismatch_offset = np.zeros(count, np.int32)
        weight = np.zeros(count, np.float32)
        orders = np.argsort(rng.random((count, count)), axis=1)
        instructions, images = rows.tolist(), shown.tolist()
        for row, order in enumerate(orders.tolist()):
            if instructions[row] < 0:
                continue
            for other in order:
                if instructions[other] >= 0 and self.is_mismatch(instructions[row], images[other]):
                    mismatch_offset[row] = other - row
                    weight[row] = 1
                    break
        return mismatch_offset, weight


def _asked(item: Instruction) -> tuple:
    """Returns the identity of a question: its type or, for 'vqa', its words and earlier questions;
    and its style.
    """
    plain = item.question_type == "vqa"
    return (item.questions if plain else item.question_type), item.style

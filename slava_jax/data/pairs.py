"""Wrong image-text pairs for the matching loss: only such as are wrong (design: four parts).

Most answers are true of many images, so a wrong image is one whose facts contradict what the
answer claims. Where an instruction makes no claims (real data), it is one of another category
whose own answers to that question in that style differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slava_jax.data.instructions import Instruction, shown_false


class PairChooser:
    """Chooses wrong images for instructions, within blocks of batch rows."""

    def __init__(
        self,
        instructions: Sequence[Instruction],
        targets: np.ndarray,
        facts: Sequence[Mapping[str, Any]],
    ):
        """Keeps what is needed to tell a wrong image.

        Args:
          targets: int32[n], index of each instruction's target image.
          facts: of every image.
        """
        self._instructions = instructions
        self._facts = facts
        self._answers: dict[tuple, set[str]] = {}
        self._categories: dict[int, str] = {}
        for item, image in zip(instructions, targets.tolist(), strict=True):
            answers = self._answers.setdefault((image, *_asked(item)), set())
            answers.add(item.answer)
            self._categories.setdefault(image, item.category)

    def is_wrong(self, instruction: int, image: int) -> bool:
        """Whether the instruction's answer is known to be false of the image."""
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
        """A wrong partner for every row of one block, drawn evenly from all there are.

        Args:
          rows: int32[rows], instruction of each row; negative for padding.
          shown: int32[rows], index of the target image each row shows.

        Returns:
          wrong_offset int32[rows], how many rows further down (or up, if negative) the row stands
          whose target image makes the wrong pair, 0 where there is none; and wrong_weight
          float32[rows], 0 where there is none, else 1.
        """
        count = len(rows)
        wrong_offset = np.zeros(count, np.int32)
        weight = np.zeros(count, np.float32)
        orders = np.argsort(rng.random((count, count)), axis=1)
        instructions, images = rows.tolist(), shown.tolist()
        for row, order in enumerate(orders.tolist()):
            if instructions[row] < 0:
                continue
            for other in order:
                if instructions[other] >= 0 and self.is_wrong(instructions[row], images[other]):
                    wrong_offset[row] = other - row
                    weight[row] = 1
                    break
        return wrong_offset, weight


def _asked(item: Instruction) -> tuple:
    """What makes two questions the same: their type; else their words and those before them."""
    plain = item.question_type == "vqa"
    return (item.questions if plain else item.question_type), item.style

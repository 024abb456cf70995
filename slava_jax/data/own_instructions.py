"""Assigns the user's own instructions to the splits of their images."""

import dataclasses
from collections.abc import Mapping, Sequence

from slava_jax.data.datasets.base import DataError, ImageSet
from slava_jax.data.instructions import Instruction

# Question types asked about every image, so that every run has per-class scores (section 4.8).
ALWAYS = ("class", "caption")


def by_split(
    items: Sequence[Instruction], images: Mapping[str, ImageSet], source: str
) -> tuple[dict[str, list[Instruction]], list[Instruction]]:
    """Sorts instructions by the split of their target image and fills in empty categories.

    The images before the target may also come from the training split.

    Args:
      images: split -> its image set.
      source: name of the instructions in error messages.

    Returns:
      split -> its instructions, in order; and the instructions that fit no split because they would
      show it images of another one.

    Raises:
      DataError: an image is in no split.
    """
    split_of = {key: split for split, of in images.items() for key in of.keys}
    sorted_items: dict[str, list[Instruction]] = {split: [] for split in images}
    apart = []
    for item in items:
        unknown = [key for key in item.images if key not in split_of]
        if unknown:
            raise DataError(
                f"{source}: instruction {item.id!r}: image {unknown[0]!r} is not in the image set "
                f"(keys look like {next(iter(split_of))!r}; copies of other images are left out); "
                "correct it (docs/formats.md)"
            )
        split = split_of[item.target]
        if {split_of[key] for key in item.images} - {split, "train"}:
            apart.append(item)
            continue
        of = images[split]
        category = item.category or of.category(of.index[item.target])
        sorted_items[split].append(dataclasses.replace(item, category=category))
    return sorted_items, apart


def completed(own: Sequence[Instruction], taught: Sequence[Instruction]) -> list[Instruction]:
    """Adds the teacher's instructions of the question types ALWAYS to the user's instructions.

    A type is not added for images for which the user's instructions already ask it.
    """
    asked = {(item.target, item.question_type) for item in own}
    return [
        *own,
        *(
            item
            for item in taught
            if item.question_type in ALWAYS and (item.target, item.question_type) not in asked
        ),
    ]

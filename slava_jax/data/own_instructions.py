"""Instructions of the user's own, brought to the splits of their images."""

import dataclasses
from collections.abc import Mapping, Sequence

from slava_jax.data.datasets.base import DataError, ImageSet
from slava_jax.data.instructions import Instruction

# What every image is asked, so that every run has scores of its classes (section 4.8).
ALWAYS = ("class", "caption")


def by_split(
    items: Sequence[Instruction], images: Mapping[str, ImageSet], source: str
) -> tuple[dict[str, list[Instruction]], list[Instruction]]:
    """Sorts instructions by the split of their target image; an empty category is filled in.

    The images before the target may be of the training split, too.

    Args:
      images: split -> its image set.
      source: what errors call the instructions.

    Returns:
      split -> its instructions, in their order; and those that no split can have, because it
      would see images of another one.

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
                f"{source}: instruction {item.id!r}: image {unknown[0]!r} is not in the image set, "
                f"whose keys are like {next(iter(split_of))!r} (a copy of another image is left "
                "out of it); correct it (docs/formats.md)"
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
    """The user's instructions, and of the teacher's the question types ALWAYS.

    A type is left out for an image that the user's instructions ask that type of.
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

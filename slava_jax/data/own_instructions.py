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
    """Sorts instructions by the split of their images; an empty category is filled in.

    Args:
      images: split -> its image set.
      source: what errors call the instructions.

    Returns:
      split -> its instructions, in their order; and those whose images lie in different splits,
      which none can have: one would see another's images.

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
                f"whose keys are like {next(iter(split_of))!r}; correct it (docs/formats.md)"
            )
        splits = {split_of[key] for key in item.images}
        if len(splits) > 1:
            apart.append(item)
            continue
        (split,) = splits
        of = images[split]
        category = item.category or of.category(of.index[item.target])
        sorted_items[split].append(dataclasses.replace(item, category=category))
    return sorted_items, apart


def completed(
    own: Sequence[Instruction], taught: Sequence[Instruction]
) -> list[Instruction]:
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

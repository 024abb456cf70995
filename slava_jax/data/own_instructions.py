"""Assigns the user's own instructions to the splits of their images."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from slava_jax.data.datasets.base import DataError, ImageSet
from slava_jax.data.instructions import Instruction, claims_hold
from slava_jax.data.names import spoken

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
      DataError: an image is in no split, or an instruction contradicts it.
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
        check_agreement([item], of, source)
        category = of.category(of.index[item.target])
        sorted_items[split].append(dataclasses.replace(item, category=category))
    return sorted_items, apart


def check_agreement(items: Sequence[Instruction], images: ImageSet, source: str) -> None:
    """Checks what instructions say about the class and the known facts of their target images.

    Whatever contradicts them would be learned, and would make false pairs of image and answer of
    true ones. Images that are not in the set are skipped.

    Args:
      source: name of the instructions in error messages.

    Raises:
      DataError: names the instruction, the field, and what is known of the image.
    """
    for item in items:
        turns = item.each_turn() if item.turns and item.task == "classification" else [item]
        for turn in turns:
            row = images.index.get(turn.target)
            if row is not None and (said := _contradiction(turn, images, row)):
                raise DataError(f"{source}: instruction {item.id!r}: {said}; correct it")


def _contradiction(item: Instruction, images: ImageSet, row: int) -> str:
    category, facts = images.category(row), images.facts[row]
    if item.category not in ("", category) and spoken(item.category) != spoken(category):
        return f"category is {item.category!r}, but {item.target!r} is of the class {category!r}"
    other = _other_class(item, category, images.class_names)
    if other:
        return (
            f"answers {other!r}, but {item.target!r} is of the class {category!r}; if the question "
            "is not about the class, give it another metadata.question_type"
        )
    for field in ("claims", "seen_claims"):
        for name, claim in item.metadata.get(field, {}).items():
            if name in facts and not claims_hold({name: claim}, facts):
                return (
                    f"metadata.{field}.{name} is {claim!r}, but of {item.target!r} it is "
                    f"{facts[name]!r}"
                )
    return ""


def _other_class(item: Instruction, category: str, class_names: Sequence[str]) -> str:
    """The class with which a question about the class is answered instead of the right one."""
    if item.question_type not in ("class", "classification"):
        return ""
    own, said = spoken(category), spoken(item.answer).rstrip(".")
    others = {spoken(name): name for name in class_names if spoken(name) != own}
    if said in others or item.question_type != "class":
        return others.get(said, "")
    # In a sentence, longer names first: "iron oxide" does not name the class "iron".
    names = sorted({own, *others}, key=len, reverse=True)
    named = re.findall(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", said)
    return "" if own in named or not named else others[named[0]]


def completed(own: Sequence[Instruction], taught: Sequence[Instruction]) -> list[Instruction]:
    """Adds the teacher's instructions of the question types ALWAYS to the user's instructions.

    A type is not added for images for which the user's instructions already ask it. An id that the
    user has given to another instruction gets a suffix.
    """
    asked = {(item.target, item.question_type) for item in own}
    ids = {item.id for item in own}
    added = []
    for item in taught:
        if item.question_type in ALWAYS and (item.target, item.question_type) not in asked:
            named = item.id
            while named in ids:
                named += "#"
            ids.add(named)
            added.append(item if named == item.id else dataclasses.replace(item, id=named))
    return [*own, *added]

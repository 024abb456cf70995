"""How true answers can be where there is no ground truth: can it be, does it agree?

Checked are lengths that an image cannot hold, numbers that another answer about the same image
contradicts, and the agreement of numbers and of yes or no with the reference answers.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from slava_jax.data.units import lengths_nm

_CLOSE = 1.25  # numbers agree within 25 %, as in truth.py
_FIELDS = 2**0.5  # no length exceeds the diagonal of a square image, in widths
_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_COUNT = re.compile(r"\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?")
_NOUN = re.compile(r"[a-z]{3,}")
_LONGEST = 4000  # characters of an answer that are read; no assistant writes more
_MEASURES = (
    "diameter", "size", "spacing", "pitch", "width", "thickness", "distance", "radius",
    "height", "depth",
)  # fmt: skip
_LENGTHS = (*_MEASURES, "length")
LABELS = {
    "yes_no": "Yes or no as in the reference",
    "numbers": "Number within 25 % of the reference's",
    "impossible": "Lengths larger than the image",
    "contradicted": "Numbers contradicted by another answer",
}


def consistency(
    answers: Sequence[str],
    references: Sequence[str],
    images: Sequence[int],
    widths_nm: Sequence[float | None],
) -> dict[str, float]:
    """Shares by the names of `LABELS`, each with its `_n`; without those of nothing to check.

    Args:
      references: the reference answers to the same questions. images: which image each is about.
      widths_nm: the width of each image, None if unknown.
    """
    checks = {
        "yes_no": _same_yes_no(answers, references),
        "numbers": _near_numbers(answers, references),
        "impossible": _impossible(answers, widths_nm),
        "contradicted": _contradicted(answers, images),
    }
    found = {}
    for name, outcomes in checks.items():
        outcomes = [*outcomes]
        if outcomes:
            found |= {name: float(np.mean(outcomes)), f"{name}_n": float(len(outcomes))}
    return found


def consistency_rows(metrics: Mapping[str, float], controls: Sequence[str]) -> list[dict]:
    """A row for each check: label, n, and the share of each control ('' for the assistant)."""
    return [
        {
            "label": label,
            "n": int(metrics[f"consistency.{name}_n"]),
            "cells": [metrics.get(f"consistency{control}.{name}") for control in controls],
        }
        for name, label in LABELS.items()
        if f"consistency.{name}" in metrics
    ]


def _same_yes_no(answers, references) -> Iterator[bool]:
    for answer, reference in zip(answers, references, strict=True):
        if wanted := _YES_NO.match(reference):
            said = _YES_NO.match(answer)
            yield said is not None and said[1].lower() == wanted[1].lower()


def _near_numbers(answers, references) -> Iterator[bool]:
    """Of references with a single number: an answer without one, or with others, disagrees."""
    for answer, reference in zip(answers, references, strict=True):
        wanted = [(what, n) for what, n in _stated(reference) if n > 0]
        if len(wanted) == 1:
            ((what, number),) = wanted
            said = [n for named, n in _stated(answer) if _same_kind(named, what)]
            yield bool(said) and all(_near(n, number) for n in said)


def _same_kind(one: str, other: str) -> bool:
    """Whether two numbers are about the same thing; a length that is not named is about any."""
    return one == other or (one in _LENGTHS and other in _LENGTHS and "length" in (one, other))


def _impossible(answers, widths_nm) -> Iterator[bool]:
    for answer, width in zip(answers, widths_nm, strict=True):
        lengths = lengths_nm(answer[:_LONGEST])
        if width is not None and lengths:
            yield max(nm for nm, _ in lengths) > _FIELDS * width


def _contradicted(answers, images) -> Iterator[bool]:
    """Of what several answers about an image give one number for: whether these are far apart."""
    stated: dict[tuple, list[float]] = {}
    for answer, image in zip(answers, images, strict=True):
        numbers = _stated(answer)
        kinds = Counter(what for what, _ in numbers)
        for what, number in numbers:
            if kinds[what] == 1:
                stated.setdefault((image, what), []).append(number)
    for found in stated.values():
        if len(found) > 1:
            yield not all(_near(number, found[0]) for number in found)


def _stated(text: str) -> list[tuple[str, float]]:
    """What the numbers of a text are about, and the numbers: ('diameter', 40.0), ('pores', 12.0).

    A length is about the measure named nearest to it in its sentence, or just 'length'.
    """
    found = []
    for sentence in re.split(r"(?<=[.;!?])\s", text[:_LONGEST].lower()):
        places = [(m.start(), name) for name in _MEASURES for m in re.finditer(name, sentence)]
        lengths = lengths_nm(sentence)
        for nm, (start, _) in lengths:
            near = min(places, key=lambda place: abs(place[0] - start), default=(0, "length"))
            found.append((near[1], nm))
        for _, (start, stop) in reversed(lengths):
            sentence = sentence[:start] + " - " + sentence[stop:]
        words = [word.strip("()[],;:.!?\"'") for word in sentence.split()]
        for number, noun in itertools.pairwise(words):
            if _COUNT.fullmatch(number) and _NOUN.fullmatch(noun) and noun != "percent":
                found.append((noun, float(number.replace(",", ""))))
    return found


def _near(a: float, b: float) -> bool:
    return a == b or (min(a, b) > 0 and max(a, b) / min(a, b) <= _CLOSE + 1e-9)

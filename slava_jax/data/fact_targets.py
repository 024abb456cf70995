"""Facts of images as training targets of the vision encoder: numbers and words, with gaps.

An encoder that learns only the class keeps little from which a question about sizes or charging can
be answered. So it also learns what is known of each image. The loss is masked where a fact is not
known, and a data set without facts has no targets.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slava_jax.data.units import Scale
from slava_jax.synthetic.facts import ACQUISITION, DIRECTIONS, direction_under

_FEWEST = 20  # training images that must know a fact, or show a word
_FEWEST_SHARE = 0.05  # of the training images that must know it: rare facts would crowd out others
_MOST_WORDS = 32
_LEAST_SPREAD = 1e-3  # of the logarithm of a number; anything less is rounding
_MOST_SPREADS = 8.0  # from the mean: a target far outside the training images is cut off there
_DIRECTION = "direction"  # turns with the image
# The class has a loss of its own; an angle would have to be learned as one.
_NOT_LEARNED = ("category", "orientation_deg", *ACQUISITION)


@dataclasses.dataclass(frozen=True)
class FactTargets:
    """Which facts are learned, and how they become arrays.

    Attributes:
      numbers: ((name, mean, standard deviation), ...), the latter two of the logarithm over the
        training images. Lengths (names in `_nm`) are shares of the image's width.
      words: ((name, values), ...), values as text.
      word_weights: for each of `words` one number per value, so that all values weigh the same.
    """

    numbers: tuple[tuple[str, float, float], ...] = ()
    words: tuple[tuple[str, tuple[str, ...]], ...] = ()
    word_weights: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of(cls, facts: Sequence[Mapping[str, Any]]) -> "FactTargets":
        """The facts that enough of these training images know."""
        numbers, words, weights = [], [], []
        for name in sorted(set().union(*facts)):
            if name in _NOT_LEARNED or name.endswith("_px"):
                continue
            found = [known[name] for known in facts if name in known]
            if len(found) < max(_FEWEST, _FEWEST_SHARE * len(facts)):
                continue
            if any(isinstance(value, str | bool) for value in found):
                counts = Counter(map(str, found))
                often = tuple(sorted(w for w, count in counts.items() if count >= _FEWEST))
                turns = name != _DIRECTION or {*often} <= {*DIRECTIONS}
                if turns and 2 <= len(often) <= _MOST_WORDS:
                    total = sum(counts[word] for word in often)
                    words.append((name, often))
                    weights.append(tuple(total / (len(often) * counts[word]) for word in often))
            else:
                logs = [v for v in (_log(name, known) for known in facts) if not math.isnan(v)]
                if len(logs) >= _FEWEST and np.std(logs) > _LEAST_SPREAD:
                    numbers.append((name, float(np.mean(logs)), float(np.std(logs))))
        return cls(tuple(numbers), tuple(words), tuple(weights))

    @property
    def names(self) -> tuple[str, ...]:
        """The facts that are learned."""
        return tuple(name for name, *_ in (*self.numbers, *self.words))

    @property
    def outputs(self) -> int:
        """Outputs that a model needs: one for each number, one for each value of a word."""
        return len(self.numbers) + sum(len(values) for _, values in self.words)

    def arrays(self, facts: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """The targets of n images: `fact_numbers` float32[n, F], standardized logarithms, NaN where
        unknown, and `fact_words` int32[n, W], -1 where unknown.
        """
        numbers = np.full((len(facts), len(self.numbers)), np.nan, np.float32)
        words = np.full((len(facts), len(self.words)), -1, np.int32)
        for row, known in enumerate(facts):
            for column, (name, mean, deviation) in enumerate(self.numbers):
                spreads = (_log(name, known) - mean) / deviation
                numbers[row, column] = np.clip(spreads, -_MOST_SPREADS, _MOST_SPREADS)
            for column, (name, values) in enumerate(self.words):
                if name in known and str(known[name]) in values:
                    words[row, column] = values.index(str(known[name]))
        return {"fact_numbers": numbers, "fact_words": words}

    def turned(self, words: np.ndarray, symmetries: Sequence[tuple[int, int]]) -> np.ndarray:
        """`fact_words` int32[n, W] of images under these n symmetries (images.symmetric)."""
        words = words.copy()
        for column, (name, values) in enumerate(self.words):
            if name == _DIRECTION:
                for row, symmetry in enumerate(symmetries):
                    if words[row, column] >= 0:
                        value = direction_under(values[words[row, column]], *symmetry)
                        words[row, column] = values.index(value) if value in values else -1
        return words


def _log(name: str, known: Mapping[str, Any]) -> float:
    """The logarithm of a number as the picture shows it; NaN if it is unknown or not above 0."""
    value = known.get(name, 0)
    if name.endswith("_nm"):
        width = Scale.of(known).width_nm
        value = value / width if width else 0
    return math.log(value) if value > 0 else math.nan

"""How far can a stated probability be trusted, and what is gained by abstaining?"""

import dataclasses

import numpy as np
from sklearn.linear_model import LogisticRegression

from slava_jax.eval.calibration import Calibration

BINS = 10
_FEWEST = 10  # right and wrong answers that a curve is fitted to


def fit(log_p: np.ndarray, right: np.ndarray) -> Calibration | None:
    """The logistic curve from log-likelihoods float[n] to bool[n]; None for too few answers."""
    log_p, right = np.asarray(log_p, np.float64), np.asarray(right, bool)
    if min(right.sum(), (~right).sum()) < _FEWEST:
        return None
    model = LogisticRegression(C=1e4).fit(log_p[:, None], right)
    return Calibration(float(model.coef_[0, 0]), float(model.intercept_[0]))


def bins(p: np.ndarray, right: np.ndarray) -> list[tuple[float, float, int]]:
    """(mean probability, share right, n) of each of `BINS` groups of equal size by probability."""
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return [(float(p[part].mean()), float(right[part].mean()), len(part)) for part in parts]


def calibration_error(p: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: the mean gap |probability - share right| over `bins`."""
    found = bins(p, right)
    return float(sum(n * abs(said - is_right) for said, is_right, n in found) / len(p))


def right_when_answering(p: np.ndarray, right: np.ndarray) -> list[tuple[float, float]]:
    """(share answered, share of these right) if only the most probable answers are given.

    In steps of a twentieth of all answers.
    """
    ordered = np.asarray(right)[np.argsort(-np.asarray(p), kind="stable")]
    counts = [max(1, round(len(ordered) * step / 20)) for step in range(1, 21)]
    return [(n / len(ordered), float(ordered[:n].mean())) for n in counts]


@dataclasses.dataclass(frozen=True)
class Confidence:
    """How the stated probabilities of n answers agree with their truth.

    Attributes:
      bins: see `bins`. answering: see `right_when_answering`. error: see `calibration_error`.
    """

    bins: list[tuple[float, float, int]]
    answering: list[tuple[float, float]]
    error: float

    @classmethod
    def of(cls, p: np.ndarray, right: np.ndarray) -> "Confidence":
        """From probabilities float[n] and bool[n]."""
        return cls(bins(p, right), right_when_answering(p, right), calibration_error(p, right))

    @property
    def of_surest_half(self) -> float:
        """The share of right answers among the half that is most probably right."""
        return self.answering[9][1]

"""From the likelihood of an answer to the probability that it is right."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from scipy.special import expit

from slava_jax import files
from slava_jax.errors import UserError
from slava_jax.facts import filled, parsed


class CalibrationError(UserError, ValueError):
    """A damaged file; the message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A logistic curve, fitted by `reliability.fit` on answers whose truth is known.

    p(right) = 1 / (1 + exp(-(slope * log_p + offset))), where log_p is the log-likelihood of the
    whole answer in nats.
    """

    slope: float
    offset: float

    def __call__(self, log_p: np.ndarray) -> np.ndarray:
        """float[n] probabilities from log-likelihoods float[n]."""
        return expit(self.slope * np.asarray(log_p, np.float64) + self.offset)

    def write(self, path: Path) -> None:
        """Writes the numbers as JSON, and their checksum beside it. Raises OSError."""
        (path.parent / files.SUMS).unlink(missing_ok=True)  # never beside another calibration
        files.write_text(path, json.dumps(dataclasses.asdict(self)) + "\n")
        files.seal(path.parent, [path.name])

    @classmethod
    def read(cls, path: Path, beside: Path | None = None) -> "Calibration":
        """Reads a file of `write`.

        Args:
          beside: a folder that was saved before: if it has checksums, so must this file.

        Raises:
          CalibrationError: it is damaged, or its checksum is missing.
        """
        problem = f"{path}: not a calibration; delete it to do without probabilities"
        try:
            files.check(path.parent, [path.name], beside)
            return filled(cls, parsed(path.read_text(encoding="utf-8")))
        except files.DamagedError as error:
            raise CalibrationError(
                f"{error}, or delete {path.name} to do without probabilities"
            ) from error
        except (TypeError, ValueError, OSError) as error:
            raise CalibrationError(problem) from error

"""Splits and scores of the solar cells, for the model and the probes.

Two protocols, each on the test quarter:

- plain: a cell is defective if its annotated probability is above 0.5; every cell has weight 1.
- weighted, after Deitsch et al. (arXiv 1807.02894, table 1): the annotator's confidence is the
  weight. Cells of probability 0 and 1 have weight 1, those of 2/3 weight 2/3, and those of 1/3
  weight 1/3, the last as defective. Their split differs from ours, so the scores are not directly
  comparable. `weighted_as_functional` counts the cells of 1/3 as functional, with the same weight,
  in case their table is meant that way.
"""

import dataclasses

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score

from configs.elpv_pretrained import get_config
from slava_jax.data.datasets.elpv import CLASS_NAMES, package_folder, read_labels
from slava_jax.data.datasets.store import split_stratified

SPLITS = (0, 1, 2)  # splits of the model (data.seed)


@dataclasses.dataclass(frozen=True)
class Cells:
    """Class, annotated defect probability and stratum of every cell, by key."""

    label: dict[str, int]
    probability: dict[str, float]
    stratum: dict[str, str]

    @classmethod
    def read(cls) -> "Cells":
        """Reads the table that comes with the images."""
        entries = read_labels(package_folder() / "data")
        return cls(
            {e.key: e.label for e in entries},
            {e.key: e.facts["defect_probability"] for e in entries},
            {e.key: f"{e.facts['category']}, {e.facts['cell_type']}" for e in entries},
        )

    def split(self, seed: int) -> dict[str, list[str]]:
        """Keys of the training, validation and test split, as in a run with this `data.seed`."""
        keys, data = list(self.label), get_config().data
        shares = (data.validation, data.test)
        parts = split_stratified(keys, [self.stratum[k] for k in keys], seed, "elpv", shares)
        return {name: [keys[i] for i in rows] for name, rows in parts.items()}


def scores_of(cells: Cells, predicted: dict[str, int]) -> dict:
    """The predictions' scores in both protocols; key -> 0 (functional) or 1 (defective)."""
    keys = list(predicted)
    guess = np.asarray([predicted[key] for key in keys])
    truth = np.asarray([cells.label[key] for key in keys])
    probability = np.asarray([cells.probability[key] for key in keys])
    doubtful = (probability > 0) & (probability < 1)
    weight = np.where(doubtful, probability, 1.0)
    matrix = confusion_matrix(truth, guess, labels=[0, 1])
    return {
        "n": len(keys),
        "accuracy": float(np.mean(guess == truth)),
        "macro_f1": float(f1_score(truth, guess, average="macro")),
        "confusion": {
            f"{CLASS_NAMES[i]} as {CLASS_NAMES[j]}": int(matrix[i, j])
            for i in range(2)
            for j in range(2)
        },
        "weighted_accuracy": float(np.average(guess == (probability > 0), weights=weight)),
        "weighted_as_functional": float(np.average(guess == truth, weights=weight)),
        "sure_accuracy": float(np.mean((guess == truth)[~doubtful])),
    }

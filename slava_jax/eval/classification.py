"""Classification scores: the columns of Tables 7 and 9, and the AUC of the ITM head."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix as _confusion_matrix
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score


def classification_metrics(
    labels: ArrayLike, scores: ArrayLike, class_names: Sequence[str]
) -> dict[str, float]:
    """Top-1, top-5, macro F1, and precision, recall and F1 of every class.

    labels int[n]; scores float[n, classes], higher means more likely, on any scale. Keys: `top1`,
    `top5` (1 with at most five classes), `macro_f1`, `precision.<class>`, `recall.<class>`,
    `f1.<class>`. Ties go to the class with the lower index. A class that occurs in neither labels
    nor predictions has no keys and does not count in macro F1. A class that is only predicted has
    recall 0, one that is never predicted has precision 0; both count.

    Raises ValueError for wrong shapes, labels out of range, or non-finite scores.
    """
    labels, scores = _checked(labels, scores, class_names)
    predicted = predictions(scores)
    ranking = np.argsort(-scores, axis=1, kind="stable")
    metrics = {
        "top1": float((predicted == labels).mean()),
        "top5": float((ranking[:, :5] == labels[:, None]).any(axis=1).mean()),
    }
    present = np.union1d(labels, predicted)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=present, average=None, zero_division=0
    )
    metrics["macro_f1"] = float(np.mean(f1))
    for column, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        for index, value in zip(present, values, strict=True):
            metrics[f"{column}.{class_names[index]}"] = float(value)
    return metrics


def predictions(scores: ArrayLike) -> np.ndarray:
    """int64[n]: the class with the highest score; ties go to the lowest index."""
    return np.argmax(np.asarray(scores), axis=1)


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, n_classes: int) -> np.ndarray:
    """int64[n_classes, n_classes]: rows are the true classes, columns the predicted ones."""
    return _confusion_matrix(labels, predicted, labels=np.arange(n_classes))


def auc_by_type(labels: ArrayLike, scores: ArrayLike, types: Sequence[str]) -> dict[str, float]:
    """Area under the ROC curve of the image-text match score, for each question type.

    labels {0, 1}[n]: 1 where the image belongs to the text; scores float[n]; types: n names.
    Returns {type: auc}, sorted; a type with only matching or only mismatched pairs is left out.

    Raises ValueError for different lengths, other labels, or non-finite scores.
    """
    labels, scores, types = np.asarray(labels), np.asarray(scores), np.asarray(types)
    if not (labels.shape == scores.shape == types.shape and labels.ndim == 1):
        raise ValueError(
            f"labels {labels.shape}, scores {scores.shape} and types {types.shape} must be "
            "one-dimensional and of equal length"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"match labels must be 0 or 1, got {sorted(set(labels.tolist()))}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} match scores are not finite")
    auc = {}
    for name in sorted(set(types.tolist())):
        rows = types == name
        if len(np.unique(labels[rows])) == 2:
            auc[name] = float(roc_auc_score(labels[rows], scores[rows]))
    return auc


def _checked(
    labels: ArrayLike, scores: ArrayLike, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if len(labels) == 0:
        raise ValueError("no examples to score: the split is empty")
    if labels.ndim != 1 or scores.shape != (len(labels), len(class_names)):
        raise ValueError(
            f"labels {labels.shape} and scores {scores.shape} do not fit {len(class_names)} "
            "classes: labels must be int[n], scores float[n, classes]"
        )
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, but there are {len(class_names)} "
            "classes, numbered from 0"
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{(~np.isfinite(scores)).any(axis=1).sum()} rows of scores are not finite"
        )
    return labels, scores

"""What is measured of an assistant, given functions that predict; no model is known here.

Every evaluator yields (name, value); names are those of metrics.json.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from slava_jax.eval.classification import auc_by_type, classification_metrics
from slava_jax.eval.text_metrics import mean_scores


@dataclasses.dataclass(frozen=True)
class Losses:
    """What a pass over n instructions gave.

    Attributes:
      types: question type of each.
      nats, tokens: float[n], summed over each answer.
      match, match_wrong: float[n], match logits with the right and with a wrong image.
      paired: bool[n], whether there was a wrong image.
    """

    types: Sequence[str]
    nats: np.ndarray
    tokens: np.ndarray
    match: np.ndarray
    match_wrong: np.ndarray
    paired: np.ndarray


def language_modelling(losses: Losses, control: str = "") -> Iterator[tuple[str, float]]:
    """Nats a token of the true answers, over all tokens and by question type.

    `control` is the suffix of a control, e.g. '_shuffled'; '' for the assistant itself.
    """
    yield f"lm.nats_per_token{control}", float(losses.nats.sum() / losses.tokens.sum())
    types = np.asarray(losses.types)
    for name in sorted(set(losses.types)):
        rows = types == name
        value = losses.nats[rows].sum() / losses.tokens[rows].sum()
        yield f"lm.nats_per_token{control}.{name}", float(value)


def matching(losses: Losses, control: str = "") -> Iterator[tuple[str, float]]:
    """AUC of the match score, right against truly wrong pairs, by question type."""
    rows = np.flatnonzero(losses.paired)
    types = [losses.types[i] for i in rows]
    labels = np.repeat([1, 0], len(rows))
    scores = np.concatenate([losses.match[rows], losses.match_wrong[rows]])
    aucs, _ = auc_by_type(labels, scores, types + types)
    for name, value in aucs.items():
        yield f"itm{control}.auc.{name}", float(value)
        if name == "class":
            yield f"itm{control}.auc_class_question", float(value)
    yield f"itm{control}.pairs", float(len(rows))


def classification(
    labels: np.ndarray, scores: np.ndarray, class_names: Sequence[str], control: str = ""
) -> Iterator[tuple[str, float]]:
    """Top-1, top-5, macro F1, the values of each class and n, from scores float[n, classes]."""
    for name, value in classification_metrics(labels, scores, class_names).items():
        yield f"classification{control}.{name}", float(value)
    yield f"classification{control}.n", float(len(labels))


def texts(
    task: str, truths: Sequence[str], answers: Sequence[str], control: str = ""
) -> Iterator[tuple[str, float]]:
    """Mean and standard deviation over examples of the paper's text scores, and exact matches."""
    for name, (mean, std) in mean_scores(zip(truths, answers, strict=True)).items():
        yield f"{task}{control}.{name}", mean
        yield f"{task}{control}.{name}_std", std
    exact = np.mean([truth == answer for truth, answer in zip(truths, answers, strict=True)])
    yield f"{task}{control}.exact", float(exact)
    yield f"{task}{control}.n", float(len(truths))

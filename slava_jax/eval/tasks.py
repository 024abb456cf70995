"""Metrics of an assistant, computed from its predictions; no model is used here.

Every evaluator yields (name, value) with the names of metrics.json.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from slava_jax.eval.classification import auc_by_type, classification_metrics, predictions
from slava_jax.eval.text_metrics import beyond_ascii, mean_scores, unicode_scores

_BEYOND_ASCII = 0.01  # share of words, from which ROUGE misses more than a name or two


@dataclasses.dataclass(frozen=True)
class Losses:
    """Results of a pass over n instructions.

    Attributes:
      types: question type of each.
      nats, tokens: float[n], summed over each answer.
      match, match_mismatched: float[n], match logits with the correct and with a mismatched image;
        `None` for a model without a match head. paired: bool[n], whether a mismatched image exists.
    """

    types: Sequence[str]
    nats: np.ndarray
    tokens: np.ndarray
    match: np.ndarray | None = None
    match_mismatched: np.ndarray | None = None
    paired: np.ndarray | None = None


def language_modelling(losses: Losses, control: str = "") -> Iterator[tuple[str, float]]:
    """Nats per token of the true answers, over all tokens and by question type.

    `control`: suffix of a control, such as '_shuffled'; '' for the assistant itself.
    """
    yield f"lm.nats_per_token{control}", float(losses.nats.sum() / losses.tokens.sum())
    types = np.asarray(losses.types)
    for name in sorted(set(losses.types)):
        rows = types == name
        value = losses.nats[rows].sum() / losses.tokens[rows].sum()
        yield f"lm.nats_per_token{control}.{name}", float(value)


def matching(losses: Losses, control: str = "") -> Iterator[tuple[str, float]]:
    """AUC of the match score, correct against mismatched pairs, by question type."""
    rows = np.flatnonzero(losses.paired)
    types = [losses.types[i] for i in rows]
    labels = np.repeat([1, 0], len(rows))
    scores = np.concatenate([losses.match[rows], losses.match_mismatched[rows]])
    for name, value in auc_by_type(labels, scores, types + types).items():
        yield f"itm{control}.auc.{name}", float(value)
        if name == "class":
            yield f"itm{control}.auc_class_question", float(value)
    yield f"itm{control}.pairs", float(len(rows))


def classification(
    labels: np.ndarray, scores: np.ndarray, class_names: Sequence[str], control: str = ""
) -> Iterator[tuple[str, float]]:
    """Top-1, top-5, macro F1, per-class values and n, from scores float[n, classes]."""
    for name, value in classification_metrics(labels, scores, class_names).items():
        yield f"classification{control}.{name}", float(value)
    yield f"classification{control}.n", float(len(labels))


def few_shot(
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    shots: np.ndarray,
    class_names: Sequence[str],
) -> Iterator[tuple[str, float]]:
    """Few-shot classification (section 4.4) and its controls, on the same n images.

    Args:
      labels: int[n]. shots: int[n, k], classes of the examples, the most similar one last.
      scores: float[n, classes] of the prompt with its examples (''), with their names permuted
        ('_permuted'), and without examples ('_zero_shot').

    Yields:
      The metrics of `classification` under classification_few_shot_k and, for the controls, the
      same with `_permuted`, `_zero_shot` and `_majority` (the most frequent class of the examples;
      ties go to the most similar one). Also `.minus_permuted` and so on: top-1 differences paired
      by image, with standard errors over images as `..._error`.
    """
    name = f"_few_shot_{shots.shape[1]}"
    votes = (shots[:, :, None] == np.arange(len(class_names))).sum(1).astype(float)
    # Examples are sorted by similarity, so ties go to the class of the last one.
    nearness = np.zeros_like(votes)
    for place, of_place in enumerate(shots.T, start=1):
        nearness[np.arange(len(shots)), of_place] = place
    scores = {**scores, "_majority": votes + nearness / (shots.shape[1] + 1)}
    for control, of_control in scores.items():
        yield from classification(labels, of_control, class_names, name + control)
    right = {control: predictions(s) == labels for control, s in scores.items()}
    for control in ("_permuted", "_zero_shot", "_majority"):
        gains = right[""].astype(float) - right[control]
        yield f"classification{name}.minus{control}", float(gains.mean())
        error = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        yield f"classification{name}.minus{control}_error", float(error)


def texts(
    task: str, truths: Sequence[str], answers: Sequence[str], control: str = ""
) -> Iterator[tuple[str, float]]:
    """Mean and standard deviation of the paper's text scores over examples, exact matches, empty
    answers; for references beyond ASCII also their share of such words, and the scores over Unicode
    words."""
    pairs = [*zip(truths, answers, strict=True)]
    scores, beyond = mean_scores(pairs), beyond_ascii(truths)
    if beyond >= _BEYOND_ASCII:
        yield f"{task}{control}.beyond_ascii", beyond
        scores |= mean_scores(pairs, unicode_scores)
    for name, (mean, std) in scores.items():
        yield f"{task}{control}.{name}", mean
        yield f"{task}{control}.{name}_std", std
    exact = np.mean([truth == answer for truth, answer in zip(truths, answers, strict=True)])
    yield f"{task}{control}.exact", float(exact)
    yield f"{task}{control}.empty", float(np.mean([not answer for answer in answers]))
    yield f"{task}{control}.n", float(len(truths))

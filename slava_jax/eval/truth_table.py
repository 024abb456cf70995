"""The truth section of the report: a verdict in a sentence, and each fact beside its controls."""

import math
from collections.abc import Mapping

from slava_jax.eval.truth import BLIND

LABELS = {
    "mean_size_nm": "Feature size",
    "spacing_nm": "Distance between features",
    "count": "Number of features",
    "coverage": "Covered area",
    "alignment": "Alignment",
    "direction": "Direction",
    "packing": "Packing",
    "has_defects": "Defects",
    "texture": "Texture",
    "composition": "Second phase",
    "aggregation": "Touching or isolated",
    "coverage_level": "Coverage level",
    "artefact_charging": "Charging",
}
COLUMNS = (
    ("truth", "Assistant"),
    ("truth_shuffled", "Image of another category"),
    ("truth_zero_b", "Adapters off (B = 0)"),
    ("truth_blind", "No image: most common answer"),
    ("truth_constant", "Best constant"),
    ("truth_class", "Told the class: its best constant"),
    ("truth_classical", "Classical baseline"),
)
_FEW, _FEW_FACTS = 100, 20  # test images: in all, and with facts
_POOR = 0.1  # a gain over the best blind answer below which a fact is not to be trusted


def shown_columns(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """The columns of the table that were measured."""
    return [(name, label) for name, label in COLUMNS if f"{name}.skill" in metrics]


def truth_rows(metrics: Mapping[str, float]) -> list[dict]:
    """One row a fact: label, n, the share without an answer, for numbers the shares within a factor
    of two and impossible (else None), and a score for each of `shown_columns`.
    """
    rows = []
    for fact, label in LABELS.items():
        if f"truth.{fact}.score" in metrics:
            cells = [metrics[f"{name}.{fact}.score"] for name, _ in shown_columns(metrics)]
            missing, n = (metrics[f"truth.{fact}.{name}"] for name in ("missing", "n"))
            of_numbers = {
                name: metrics.get(f"truth.{fact}.{key}")
                for name, key in (("factor_2", "within_factor_2"), ("impossible", "impossible"))
            }
            row = {"label": label, "n": int(n), "missing": missing, "cells": cells}
            rows.append(row | of_numbers)
    return rows


def unscored(metrics: Mapping[str, float]) -> list[str]:
    """Labels of the facts that too few test images have."""
    return [
        label
        for fact, label in LABELS.items()
        if f"truth.{fact}.n" in metrics and f"truth.{fact}.score" not in metrics
    ]


def magnification(metrics: Mapping[str, float]) -> list[float]:
    """Shares of captions that state a known magnification, state it wrongly, and state an unknown
    one; [] if not measured.
    """
    names = ("given.stated", "given.copied_wrongly", "withheld.stated")
    found = [metrics.get(f"truth.magnification_{name}") for name in names]
    return [] if None in found else found


def verdict(metrics: Mapping[str, float]) -> str:
    """Better or worse than the classical baseline, by how much, and what not to trust."""
    said = (_class_verdict(metrics), _fact_verdict(metrics), _warnings(metrics))
    return " ".join(text for text in said if text)


def _class_verdict(metrics: Mapping[str, float]) -> str:
    """The classification against the classical baseline, with a normal 95 % interval."""
    names = ("classification", "classification_classical")
    if not all(f"{name}.{what}" in metrics for name in names for what in ("top1", "n")):
        return ""
    (top1, other), (n, all_images) = (
        [metrics[f"{name}.{what}"] for name in names] for what in ("top1", "n")
    )
    if n < _FEW_FACTS:
        return f"Its class was checked on {n:.0f} images, too few to compare."
    # Unpaired, which is conservative: the baseline saw the same images and more.
    wide = 1.96 * (top1 * (1 - top1) / n + other * (1 - other) / all_images) ** 0.5
    gain = top1 - other
    return (
        f"It names the class {_compared(gain - wide, gain + wide)} the classical baseline: "
        f"{top1:.2f} against {other:.2f} (difference {gain:+.2f} ± {wide:.2f}, n = {n:.0f})."
    )


def _compared(low: float, high: float) -> str:
    if low > 0:
        return "better than"
    return "worse than" if high < 0 else "no better and no worse than"


def _warnings(metrics: Mapping[str, float]) -> str:
    warnings = []
    if metrics.get("classification.n", _FEW) < _FEW:
        warnings.append(f"With fewer than {_FEW} test images, do not trust differences.")
    empty = max((metrics.get(f"{task}.empty", 0.0) for task in ("caption", "vqa")), default=0.0)
    if empty > 0.01:
        warnings.append(f"{100 * empty:.0f} % of the generated answers are empty.")
    return " ".join(warnings)


def _fact_verdict(metrics: Mapping[str, float]) -> str:
    if "truth.skill" not in metrics:
        return ""
    if not metrics["truth.images"] >= _FEW_FACTS or "truth.gain_low" not in metrics:
        return f"Its facts were checked on {metrics['truth.images']:.0f} images, too few to judge."
    skill, other, told = (
        metrics.get(f"{name}.skill", math.nan)
        for name in ("truth", "truth_classical", "truth_class")
    )
    low, high = metrics["truth.gain_low"], metrics["truth.gain_high"]
    text = (
        f"{100 * metrics['truth.right']:.0f} % of its statements about facts are right. Its skill "
        f"at them is {_rounded(skill)} (0: the best blind answer, 1: always right), "
        f"{_compared(low, high)} the classical baseline's {_rounded(other)} (95 % interval of the "
        f"difference {low:+.2f} to {high:+.2f}; {metrics['truth.images']:.0f} images)"
    )
    if told > skill:
        text += f", and below the {_rounded(told)} of someone who knows only the class"
    parts = [f"{text}."]
    poor = _not_to_trust(metrics)
    if len(poor) == sum(f"truth.{fact}.score" in metrics for fact in LABELS):
        parts.append("Do not trust any fact it states.")
    elif poor:
        parts.append(f"Do not trust: {', '.join(poor)}.")
    return " ".join(parts)


def _rounded(value: float) -> str:
    """Two decimals, without a minus before zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def _not_to_trust(metrics: Mapping[str, float]) -> list[str]:
    """The facts on which the assistant hardly beats the best answer without an image."""
    poor = []
    for fact, label in LABELS.items():
        if f"truth.{fact}.score" not in metrics:
            continue
        blind = (metrics[f"truth_{name}.{fact}.score"] for name in BLIND)
        if metrics[f"truth.{fact}.score"] < max(blind) + _POOR:
            poor.append(label.lower())
    return poor

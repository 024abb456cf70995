"""The truth section of the report: a verdict in a sentence, and each fact beside its controls."""

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
    ("truth_teacher", "Reference answer"),
)
_POOR = 0.1  # a gain over the best blind answer below which a fact is not to be trusted


def shown_columns(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """The columns of the table that were measured."""
    return [(name, label) for name, label in COLUMNS if f"{name}.skill" in metrics]


def truth_rows(metrics: Mapping[str, float]) -> list[dict]:
    """One row a fact, then the skill: label, n, the share without an answer, a score a column."""
    rows = []
    for fact, label in LABELS.items():
        if f"truth.{fact}.score" in metrics:
            cells = [metrics[f"{name}.{fact}.score"] for name, _ in shown_columns(metrics)]
            missing, n = (metrics[f"truth.{fact}.{name}"] for name in ("missing", "n"))
            rows.append({"label": label, "n": int(n), "missing": missing, "cells": cells})
    return rows


def verdict(metrics: Mapping[str, float]) -> str:
    """Better or worse than the classical baseline, by how much, and what not to trust."""
    if "truth.skill" not in metrics:
        return ""
    gain = metrics["truth.skill"] - metrics["truth_classical.skill"]
    low, high = metrics["truth.gain_low"], metrics["truth.gain_high"]
    if low > 0:
        compared = "better than"
    elif high < 0:
        compared = "worse than"
    else:
        compared = "not distinguishable from"
    skill, other = metrics["truth.skill"], metrics["truth_classical.skill"]
    text = (
        f"On facts, this assistant is {compared} the classical baseline: skill {skill:.2f} against "
        f"{other:.2f} (difference {gain:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}; 0 is the "
        f"best blind answer, 1 is always right)."
    )
    poor = _not_to_trust(metrics)
    return f"{text} Do not trust: {', '.join(poor)}." if poor else text


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

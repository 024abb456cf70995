"""Targets: bounds that a run's metrics should meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A bound on one metric, or on the difference of two (`metric` minus `minus`)."""

    label: str
    metric: str
    bound: float
    at_least: bool = True
    minus: str | None = None
    unit: str = ""

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """The metric or the difference; None if a metric was not measured."""
        if self.metric not in metrics or (self.minus is not None and self.minus not in metrics):
            return None
        return metrics[self.metric] - (metrics[self.minus] if self.minus is not None else 0.0)

    def reached(self, metrics: Mapping[str, float]) -> bool:
        """Whether the bound is met; False if the value is missing or NaN."""
        value = self.value(metrics)
        if value is None:
            return False
        return value >= self.bound if self.at_least else value <= self.bound


QUICKSTART: Sequence[Target] = (
    Target("Feature size within 25 %", "truth.mean_size_nm.score", 0.40),
    Target("Feature size within a factor of 2", "truth.mean_size_nm.within_factor_2", 0.80),
    Target("Number of features within 25 %", "truth.count.score", 0.33),
    Target("Number of features within a factor of 2", "truth.count.within_factor_2", 0.72),
    Target(
        "Skill at facts above the classical baseline",
        "truth.skill",
        0.0,
        minus="truth_classical.skill",
    ),
    Target("Impossible sizes", "truth.mean_size_nm.impossible", 0.0, at_least=False),
    Target("Top-1 accuracy", "classification.top1", 0.85),
    Target(
        "Top-1 above the classical baseline",
        "classification.top1",
        0.10,
        minus="classification_classical.top1",
    ),
    Target("Macro F1", "classification.macro_f1", 0.83),
    Target("Top-1 with mismatched images", "classification_shuffled.top1", 0.12, at_least=False),
    Target("Match AUC, class question", "itm.auc_class_question", 0.90),
    Target(
        "Answer loss added by a mismatched image",
        "lm.nats_per_token_shuffled",
        0.3,
        minus="lm.nats_per_token",
        unit="nats/token",
    ),
    Target("VQA ROUGE-L above mismatched images", "vqa.rougeL", 0.10, minus="vqa_shuffled.rougeL"),
    Target("VQA ROUGE-L above no image", "vqa.rougeL", 0.10, minus="vqa_blind.rougeL"),
    Target("Wall clock", "run.wall_seconds", 600, at_least=False, unit="s"),
    Target("Peak memory", "run.peak_memory_gib", 4, at_least=False, unit="GiB"),
)

"""The HTML report of a run: its scores next to the controls and the paper's numbers.

The file is self-contained: plots are inline SVG, images are data URIs, and it runs no script and
fetches nothing. A section without input is left out.
"""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from slava_jax import files
from slava_jax.eval import paper_tables, plots, truth_table
from slava_jax.eval.consistency import consistency_rows
from slava_jax.eval.reliability import Confidence
from slava_jax.eval.targets import Target
from slava_jax.eval.text_metrics import SCORE_NAMES, SCORE_TITLES, UNICODE

_MIME = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}

# Rows of the controls table: suffix of the metric names, label, what the control shows.
_CONTROLS = (
    ("", "Assistant, correct image", "the result of this run"),
    ("shuffled", "Assistant, image of another category", "must drop, or the image is ignored"),
    ("zero_b", "Assistant, adapters off (B = 0)", "the difference is what the adapters add"),
    ("untrained", "Assistant before its training stage", "the starting point"),
    ("blind", "No image: most common training answer", "what the question alone reveals"),
    ("vit", "ViT classifier alone", "what the vision encoder knows without the language model"),
    ("classical", "Classical baseline", "logistic regression on simple image statistics"),
    ("majority", "Always the most frequent class", "needs no image"),
)
CONTROL_COLUMNS = (
    ("classification", "top1", "Top-1"),
    ("classification", "macro_f1", "Macro F1"),
    ("caption", "rougeL", "Caption ROUGE-L"),
    ("vqa", "rougeL", "VQA ROUGE-L"),
    ("lm", "nats_per_token", "Answer loss (nats/token)"),
)
_CONSISTENCY = (
    ("", "Assistant"),
    ("_shuffled", "Image of another category"),
    ("_zero_b", "Adapters off (B = 0)"),
    ("_blind", "No image: most common answer"),
)
_KEY_NUMBERS = (
    ("Top-1 accuracy", "classification.top1"),
    ("Macro F1", "classification.macro_f1"),
    ("Match AUC, class question", "itm.auc_class_question"),
    ("VQA ROUGE-L", "vqa.rougeL"),
)


@dataclass(frozen=True)
class ReportExample:
    """One test image with its question and the answers to it.

    `image`: an encoded PNG, JPEG or GIF, embedded unchanged.
    `mismatched_answer`: the answer to the same question about an image of `mismatched_category`;
    empty if it was not asked. `right`: whether the answer is; None if that is not known.
    """

    key: str
    question: str
    truth: str
    answer: str
    image: bytes | None = None
    category: str = ""
    mismatched_answer: str = ""
    mismatched_category: str = ""
    right: bool | None = None


def write_report(
    path: str | Path,
    metrics: Mapping[str, float],
    *,
    title: str = "sLAVA run",
    description: str = "",
    targets: Sequence[Target] = (),
    history: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
    confusion: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    examples: Sequence[ReportExample] = (),
    images_withheld: str = "",
    beside_paper: bool = True,
    experts: Mapping[str, np.ndarray] | None = None,
    rank_scores: Mapping[str, Mapping[int, float]] | None = None,
    confidence: Confidence | None = None,
    config_text: str = "",
    environment: Mapping[str, object] | None = None,
) -> None:
    """Writes the report to `path` atomically.

    metrics: flat, as in metrics.json: 'classification.top1', 'classification_shuffled.top1',
        'vqa.rougeL' and 'vqa.rougeL_std', 'itm.auc.<question type>', 'classification.f1.<class>'
    description: one or two sentences on the data and the split sizes, printed under the title.
    targets: each is shown as reached or missed.
    history: {stage: [{'step', 'loss', 'val_loss', ...}]} in display order.
    confusion: int[classes, classes], rows are the true classes; needs class_names.
    examples: test images.
    images_withheld: why images may not be redistributed in the report; '' if they may.
    beside_paper: whether to show the paper's scores; not beside a user's own images.
    experts: {adapter: float[layers, experts]}, each expert's share of the gate mass.
    rank_scores: {metric: {rank: score}}.
    confidence: how far stated probabilities can be trusted.
    config_text, environment: printed unchanged at the end.

    Raises ValueError for a confusion matrix that does not fit the classes, expert shares of the
    wrong shape, or an image that is not a PNG, JPEG or GIF (its key is named).
    """
    text = _template().render(
        **_score_sections(metrics, targets, confusion, class_names, beside_paper),
        **_plot_sections(history or {}, experts or {}, rank_scores or {}),
        confidence=confidence
        and [
            _inline(plots.reliability_plot(confidence.bins)),
            _inline(plots.answering_plot(confidence.answering)),
        ],
        calibration_error=confidence and _number(confidence.error),
        examples=[_example(example, not images_withheld) for example in examples],
        title=title,
        description=description,
        score_titles=list(SCORE_TITLES.values()),
        control_columns=[column for *_, column in CONTROL_COLUMNS],
        images_withheld=images_withheld,
        beside_paper=beside_paper,
        config_text=config_text,
        environment=dict(environment or {}),
    )
    files.write_text(Path(path), text)


def _score_sections(
    metrics: Mapping[str, float],
    targets: Sequence[Target],
    confusion: np.ndarray | None,
    class_names: Sequence[str],
    beside_paper: bool,
) -> dict[str, object]:
    captions, answers, classes, by_class = (
        (
            paper_tables.CAPTION_TABLE_1,
            paper_tables.VQA_TABLE_3,
            paper_tables.CLASSIFICATION_TABLE_7,
            paper_tables.PER_CLASS_TABLE_9,
        )
        if beside_paper
        else ({}, {}, {}, {})
    )
    return {
        "targets": target_rows(targets, metrics),
        "verdict": truth_table.verdict(metrics),
        "truth_columns": [label for _, label in truth_table.shown_columns(metrics)],
        "truth": truth_table.truth_rows(metrics),
        "skills": [metrics[f"{name}.skill"] for name, _ in truth_table.shown_columns(metrics)],
        "magnification": truth_table.magnification(metrics),
        "unscored": truth_table.unscored(metrics),
        "consistency": consistency_rows(metrics, [name for name, _ in _CONSISTENCY]),
        "consistency_columns": [label for _, label in _CONSISTENCY],
        "key_numbers": _key_numbers(metrics),
        "captions": _score_table("caption", metrics, captions),
        "answers": _score_table("vqa", metrics, answers),
        "beyond_ascii": max(metrics.get(f"{task}.beyond_ascii", 0) for task in ("caption", "vqa")),
        "classification": _classification_table(metrics, classes),
        "per_class": _per_class_table(metrics, class_names, by_class),
        "confusion": _confusion(confusion, class_names),
        "controls": controls_table(metrics),
        "auc": _auc_rows(metrics),
    }


def _plot_sections(
    history: Mapping[str, Sequence[Mapping[str, float]]],
    experts: Mapping[str, np.ndarray],
    rank_scores: Mapping[str, Mapping[int, float]],
) -> dict[str, list[Markup]]:
    return {
        "loss_curves": [
            _inline(plots.loss_curve(stage, entries))
            for stage, entries in history.items()
            if any(key.endswith("loss") for entry in entries for key in entry)
        ],
        "experts": [_inline(_experts(name, use)) for name, use in experts.items()],
        "ranks": [
            _inline(plots.rank_plot(name, scores, lower_is_better="nats" in name))
            for name, scores in rank_scores.items()
            if scores
        ],
    }


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    return environment.get_template("report.html.jinja")


def _number(value: float | None, digits: int = 3) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def _mean_and_deviation(mean: float | None, deviation: float | None) -> Markup:
    text = html.escape(_number(mean))
    if mean is not None and deviation is not None:
        text += f'<span class="pm"> ± {html.escape(_number(deviation))}</span>'
    return Markup(text)


def _inline(svg: str) -> Markup:
    return Markup(svg)  # safe: our own plots escape every name


def target_rows(targets: Sequence[Target], metrics: Mapping[str, float]) -> list[dict]:
    """One row per target, as text: label, value, unit, bound, metric.

    'state' is 'reached', 'missed' or 'no value'.
    """
    rows = []
    for target in targets:
        value = target.value(metrics)
        digits = 0 if abs(target.bound) >= 100 else 2 if abs(target.bound) >= 1 else 3
        bound = f"{target.bound:g}" if target.bound >= 1 else f"{target.bound:.2f}"
        rows.append(
            {
                "label": target.label,
                "value": _number(value, digits),
                "unit": target.unit,
                "bound": f"{'at least' if target.at_least else 'at most'} {bound}",
                "state": "no value"
                if value is None
                else ("reached" if target.reached(metrics) else "missed"),
                "metric": target.metric + (f" − {target.minus}" if target.minus else ""),
            }
        )
    return rows


def _key_numbers(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(label, _number(metrics[key])) for label, key in _KEY_NUMBERS if key in metrics]


def _score_table(
    task: str, metrics: Mapping[str, float], paper: paper_tables.Scores
) -> list[dict] | None:
    """Rows of one text task: ours, ours with mismatched images and without images, the paper's."""
    rows = []
    for prefix, label in (
        (task, "this run"),
        (f"{task}_shuffled", "this run, mismatched images"),
        (f"{task}_blind", "no image: most common training answer"),
    ):
        for suffix, words in (("", ""), (UNICODE, ", Unicode words")):
            names = [f"{prefix}.{name}{suffix}" for name in SCORE_NAMES]
            cells = [(metrics.get(name), metrics.get(f"{name}_std")) for name in names]
            if any(mean is not None for mean, _ in cells):
                rows.append({"label": label + words, "ours": True, "cells": cells})
    if not rows:
        return None
    rows += [{"label": name, "ours": False, "cells": cells} for name, cells in paper.items()]
    for row in rows:
        row["cells"] = [_mean_and_deviation(*cell) for cell in row["cells"]]
    return rows


def _classification_table(metrics: Mapping[str, float], paper: Mapping) -> list[dict] | None:
    if "classification.top1" not in metrics:
        return None
    ours = (
        ("classification", "class name with the highest likelihood"),
        ("classification_generated", "class named in the generated answer"),
        ("classification_vit", "ViT classifier alone"),
        ("classification_classical", "classical baseline"),
    )
    rows = [
        (label, metrics[f"{key}.top1"], metrics.get(f"{key}.top5"), True)
        for key, label in ours
        if f"{key}.top1" in metrics
    ]
    for (family, name), (top1, top5) in paper.items():
        rows.append((f"{name} ({family})", top1, top5, False))
    return [
        {"label": label, "ours": ours, "cells": [_number(top1), _number(top5)]}
        for label, top1, top5, ours in rows
    ]


def _per_class_table(
    metrics: Mapping[str, float], class_names: Sequence[str], of_paper: Mapping
) -> dict | None:
    """Precision, recall and F1 of every class, next to the paper's if it has the class."""
    rows, any_paper = [], False
    for name in class_names:
        ours = [metrics.get(f"classification.{c}.{name}") for c in ("precision", "recall", "f1")]
        if all(value is None for value in ours):
            continue
        paper = of_paper.get(name)
        any_paper = any_paper or paper is not None
        cells = [_mean_and_deviation(*cell) for cell in paper or [(None, None)] * 3]
        rows.append({"name": name, "ours": [_number(value) for value in ours], "paper": cells})
    return {"rows": rows, "paper": any_paper} if rows else None


def _confusion(confusion: np.ndarray | None, class_names: Sequence[str]) -> Markup | None:
    if confusion is None:
        return None
    confusion = np.asarray(confusion)
    if confusion.shape != (len(class_names), len(class_names)):
        raise ValueError(
            f"confusion matrix {confusion.shape} does not fit {len(class_names)} classes"
        )
    return _inline(plots.confusion_plot(confusion, class_names))


def _experts(name: str, use: np.ndarray) -> str:
    use = np.asarray(use, np.float64)
    if use.ndim != 2:
        raise ValueError(f"expert use of {name!r} has shape {use.shape}, not [layers, experts]")
    return plots.expert_plot(name, use)


def controls_table(metrics: Mapping[str, float]) -> list[dict]:
    """One row per measured control: label, meaning, and a cell for each of CONTROL_COLUMNS.

    [] if there is nothing to compare.
    """
    rows = []
    for suffix, label, meaning in _CONTROLS:
        values = [_control(metrics, group, suffix, name) for group, name, _ in CONTROL_COLUMNS]
        if any(value is not None for value in values):
            cells = [_number(value) for value in values]
            rows.append({"label": label, "meaning": meaning, "cells": cells, "ours": not suffix})
    return rows if len(rows) > 1 else []


def _control(metrics: Mapping[str, float], group: str, suffix: str, name: str) -> float | None:
    if not suffix:
        return metrics.get(f"{group}.{name}")
    return metrics.get(f"{group}_{suffix}.{name}", metrics.get(f"{group}.{name}_{suffix}"))


def _auc_rows(metrics: Mapping[str, float]) -> list[tuple[str, float, str]]:
    prefix = "itm.auc."
    named = [(key, value) for key, value in metrics.items() if key.startswith(prefix)]
    return [
        (key.removeprefix(prefix), round(100 * value, 1), _number(value))
        for key, value in sorted(named, key=lambda pair: -pair[1])
    ]


def _example(example: ReportExample, with_image: bool) -> dict:
    uri = None
    if with_image and example.image is not None:
        mime = next((m for magic, m in _MIME.items() if example.image.startswith(magic)), None)
        if mime is None:
            raise ValueError(
                f"example {example.key!r}: the image is not a PNG, JPEG or GIF; convert it to one"
            )
        uri = Markup(f"data:{mime};base64,{base64.b64encode(example.image).decode()}")
    return {"example": example, "image": uri}

"""Writes the table of the solar cell runs into docs/results.md, from experiments/elpv/summary.json.

python -m experiments.elpv_table
"""

import json
from collections.abc import Mapping

from experiments.elpv_pretrained import RESULTS
from experiments.results_page import PAGE, replaced, table
from slava_jax.train.workdir import write_atomically

BEGIN, END = "<!-- elpv:begin -->", "<!-- elpv:end -->"
_HEADER = ("", "accuracy", "macro F1", "accuracy, weighted", "gain over best probe")
_SCORES = ("accuracy", "macro_f1", "weighted_accuracy")
# Label of a row, its variant, and the predictor.
_ROWS = (
    ("sLAVA, `transformer` decoder", "transformer", "assistant"),
    ("– every adapter's B at zero", "transformer", "every_b_at_zero"),
    ("– text encoder replaced by its embedding table", "embeddings", "assistant"),
    ("sLAVA, `llama` decoder", "llama", "assistant"),
    ("– every adapter's B at zero", "llama", "every_b_at_zero"),
    ("the vision classifier alone", "transformer", "vision_classifier_alone"),
)
_PROBES = (
    ("logistic regression on the frozen features", "logistic"),
    ("– fitted to four views and averaged over them", "logistic_views"),
    ("RBF SVM on the frozen features", "rbf_svm"),
    ("– fitted to four views and averaged over them", "rbf_svm_views"),
)
# Deitsch et al., arXiv 1807.02894: another split of the same cells.
_PUBLISHED = (("Deitsch et al.: SVM", "0.8244"), ("Deitsch et al.: CNN", "0.8842"))


def results(summary: Mapping) -> str:
    """The summary as Markdown; a variant that was not run has no row."""
    rows = []
    for label, variant, who in _ROWS:
        held = summary.get(variant)
        if held:
            scores = [_spread(held[f"{who}.{score}"]) for score in _SCORES]
            gain = _spread(held["minus_best_probe.accuracy"], "+.3f") if who == "assistant" else ""
            splits = "splits" if len(held["splits"]) > 1 else "split"
            rows.append((f"{label} ({splits} {_list(held['splits'])})", *scores, gain))
    for label, name in _PROBES:
        pairs = [summary["probes"][f"{name}.{score}"] for score in _SCORES]
        cells = (f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in pairs)
        rows.append((f"{label} (ten splits)", *cells, ""))
    rows += [(label, value, "", "", "") for label, value in _PUBLISHED]
    parts = [table(_HEADER, rows)]
    held = summary.get("transformer")
    if held:
        cells = ", ".join(f"{count} {name}" for name, count in held["confusion_summed"].items())
        minutes = _list(f"{value:.0f}" for value in held["minutes"])
        parts.append(
            "sLAVA and the vision classifier average over four views of each cell. "
            "Accuracy of the `transformer` runs with one view "
            f"{_spread(held['one_view_accuracy'])}, and in generated words "
            f"{_spread(held['generated_in_words_accuracy'])}; with mismatched images "
            f"{_spread(held['mismatched_images_accuracy'])}.\nConfusion, summed: {cells}. "
            f"Minutes per run: {minutes}."
        )
    return "\n\n".join(parts)


def _spread(values: Mapping, form: str = ".3f") -> str:
    deviation = "" if values["std"] is None else f" ± {values['std']:.3f}"
    return f"{values['mean']:{form}}{deviation}"


def _list(values) -> str:
    return ", ".join(str(value) for value in values)


def main() -> None:
    """Rewrites the page."""
    text = results(json.loads((RESULTS / "summary.json").read_text(encoding="utf-8")))
    write_atomically(PAGE, replaced(PAGE.read_text(encoding="utf-8"), text, BEGIN, END))
    print(text)


if __name__ == "__main__":
    main()

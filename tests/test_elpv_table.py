"""The solar cell table matches the summary and leaves out missing runs."""

from test_readme import RESULTS

from experiments import elpv_table
from experiments.results_page import replaced

SCORES = ("accuracy", "macro_f1", "weighted_accuracy")


def spread(mean, *, std=None):
    return {"mean": mean, "std": std, "values": [mean]}


def variant(mean):
    """Results of one variant with all scores equal to `mean`."""
    held = {"splits": [0, 2], "minutes": [30.2, 31.9], "minus_best_probe.accuracy": spread(-0.0125)}
    for who in ("assistant", "every_b_at_zero", "vision_classifier_alone"):
        held |= {f"{who}.{score}": spread(mean, std=0.011) for score in SCORES}
    held["mismatched_images_accuracy"] = spread(0.25)
    held |= {"one_view_accuracy": spread(0.75), "generated_in_words_accuracy": spread(0.5)}
    return {**held, "confusion_summed": {"a as a": 7, "a as b": 2}}


PROBES = {
    f"{name}{views}.{score}": [0.865 + bool(views) / 100, 0.0134]
    for name in ("logistic", "rbf_svm")
    for views in ("", "_views")
    for score in SCORES
}


def test_rows_are_of_what_was_run():
    text = elpv_table.results(
        {"probes": PROBES, "transformer": variant(0.9), "llama": variant(0.8)}
    )
    scores = "0.900 ± 0.011 | 0.900 ± 0.011 | 0.900 ± 0.011"
    for part in (
        f"| sLAVA, `transformer` decoder (splits 0, 2) | {scores} | -0.013 |",
        f"| the vision classifier alone (splits 0, 2) | {scores} |  |",
        "| sLAVA, `llama` decoder (splits 0, 2) | 0.800 ± 0.011 |",
        "| RBF SVM on the frozen features (ten splits) | 0.865 ± 0.013 |",
        "| – fitted to four views and averaged over them (ten splits) | 0.875 ± 0.013 |",
        "| Deitsch et al.: CNN | 0.8842 |",
        "with one view 0.750, and in generated words 0.500; with mismatched images 0.250.",
        "7 a as a, 2 a as b. Minutes per run: 30, 32.",
    ):
        assert part in text
    assert "embedding table" not in text
    assert "sLAVA" not in elpv_table.results({"probes": PROBES})


def test_the_readme_has_its_markers():
    replaced(RESULTS, "", elpv_table.BEGIN, elpv_table.END)

"""How well do ViT-S/14 and SmolLM2-135M classify real solar cells? Splits, decoders, controls.

    make elpv weights
    python -m experiments.elpv_probes
    python -m experiments.elpv_pretrained              # hours on two cores; resumes if killed
    python -m experiments.elpv_pretrained --splits 0   # one split
    python -m experiments.elpv_pretrained --splits     # none: only the summary

A split has three runs of configs/elpv_pretrained.py. `transformer` trains the last layers of the
vision encoder and an assistant with the paper's small decoder. In `llama`, which starts from that
encoder, the language model writes the answer. `embeddings` is the control with the text encoder
replaced by its embedding table. Every run has the usual controls: every B at zero, mismatched
images, the vision classifier alone. Accuracy uses the mean over four views of a cell; the accuracy
on one view is also given, by ranking and by generated text. Writes
`experiments/elpv/splitN-NAME.json` unless it exists, and `experiments/elpv/summary.json` with the
paired difference to the best probe.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np

from configs.elpv_pretrained import get_config
from experiments.elpv_probes import RESULT as PROBES
from experiments.elpv_scores import SPLITS, Cells, scores_of
from experiments.results import settings_of
from slava_jax.data.datasets.elpv import CLASS_NAMES
from slava_jax.pages import use_large_pages
from slava_jax.train.loop import run
from slava_jax.train.workdir import environment, write_atomically

RESULTS = Path(__file__).parent / "elpv"
RUNS = Path("runs/elpv_pretrained")
VARIANTS = ("transformer", "llama", "embeddings")
SCORES = ("accuracy", "macro_f1", "weighted_accuracy", "weighted_as_functional", "sure_accuracy")
# Metrics on one view.
_FURTHER = (
    "mismatched_images_accuracy",
    "one_view_accuracy",
    "generated_in_words_accuracy",
    "itm_auc",
)
# Names in the results of the classifier and the controls in predictions.csv.
CONTROLS = {"": "assistant", "zero_b": "every_b_at_zero", "vit": "vision_classifier_alone"}


def config_of(split: int, variant: str):
    """The configuration of one run."""
    config = get_config()
    config.data.seed = config.seed = split
    if variant != "transformer":
        config.stages = ("assistant",)
        config.start_from.vision = str(workdir_of(split, "transformer"))
    if variant == "llama":
        config.decoder = "llama"
    if variant == "embeddings":
        config.text_encoder = "embeddings"
    return config


def workdir_of(split: int, variant: str) -> Path:
    """The work directory of one run."""
    return RUNS / f"split{split}-{variant}"


def predictions(workdir: Path) -> dict[str, dict[str, int]]:
    """{control: {key: 0 or 1}} of a finished run."""
    found = {}
    with open(workdir / "predictions.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            log_p = [float(row[f"log p {name}"]) for name in CLASS_NAMES]
            found.setdefault(row["control"], {})[row["image"]] = int(np.argmax(log_p))
    return found


def do(split: int, variant: str) -> None:
    """Makes one run and its result file, unless that exists. Exits if it is of another config."""
    place, config = RESULTS / f"split{split}-{variant}.json", config_of(split, variant)
    settings = settings_of(config)
    if place.exists():
        if json.loads(place.read_text())["settings"] != settings:
            sys.exit(f"error: {place}: from another config; delete it to measure again")
        return
    if variant != "transformer":  # it starts from the vision stage of `transformer`
        run(config_of(split, "transformer"), workdir_of(split, "transformer"))
    metrics = run(config, workdir_of(split, variant))
    found, cells = predictions(workdir_of(split, variant)), Cells.read()
    if set(found[""]) != set(cells.split(split)["test"]):
        raise RuntimeError(f"split {split}: the run used other test cells than the split")
    result = {
        "split": split,
        "seed": split,
        "variant": variant,
        "settings": settings,
        "scores": {name: scores_of(cells, found[key]) for key, name in CONTROLS.items()},
        "mismatched_images_accuracy": metrics["classification_shuffled.top1"],
        "one_view_accuracy": metrics[f"rank_{config.adapter.r_max}.top1"],
        "generated_in_words_accuracy": metrics["classification_generated.top1"],
        "itm_auc": metrics["itm.auc_class_question"],
        "run": {k: v for k, v in metrics.items() if k.startswith("run.")},
        "environment": environment(),
    }
    RESULTS.mkdir(exist_ok=True)
    write_atomically(place, json.dumps(result, indent=1) + "\n")


def summary() -> dict:
    """Mean and standard deviation over the finished splits, and paired differences."""
    probes = json.loads(PROBES.read_text())
    best = max(probes["splits"], key=lambda name: probes["summary"][f"{name}.accuracy"][0])
    out = {"best_probe": best, "probes": probes["summary"]}
    for variant in VARIANTS:
        files = [RESULTS / f"split{n}-{variant}.json" for n in SPLITS]
        held = [json.loads(file.read_text()) for file in files if file.exists()]
        if not held:
            continue
        rows = {"splits": [result["split"] for result in held]}
        for who in held[0]["scores"]:
            for score in SCORES:
                values = [result["scores"][who][score] for result in held]
                rows[f"{who}.{score}"] = _spread(values)
        for score in SCORES:
            gains = [
                result["scores"]["assistant"][score]
                - probes["splits"][best][result["split"]][score]
                for result in held
            ]
            rows[f"minus_best_probe.{score}"] = _spread(gains)
        names = held[0]["scores"]["assistant"]["confusion"]
        rows["confusion_summed"] = {
            name: sum(r["scores"]["assistant"]["confusion"][name] for r in held) for name in names
        }
        for name in _FURTHER:
            rows[name] = _spread([result[name] for result in held])
        rows["minutes"] = [result["run"]["run.wall_seconds"] / 60 for result in held]
        out[variant] = rows
    return out


def _spread(values: list[float]) -> dict:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": spread, "values": values}


def main() -> None:
    """Runs the chosen splits and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, nargs="*", default=list(SPLITS))
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    asked = parser.parse_args()
    for split in asked.splits:
        for variant in asked.variants:
            do(split, variant)
    write_atomically(RESULTS / "summary.json", json.dumps(summary(), indent=1) + "\n")


if __name__ == "__main__":
    use_large_pages()
    main()

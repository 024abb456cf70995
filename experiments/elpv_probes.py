"""How well do classical probes on the frozen vision encoder detect defective solar cells?

    make elpv weights
    python -m experiments.elpv_probes      # minutes on two cores, once the states are computed

Features: `<cls>`, mean and maximum of the patch tokens of the pretrained ViT-S/14 at 294 pixels,
after its last norm, 1,152 standardized numbers. A logistic regression and an SVM with a radial
kernel are fitted to the 75 % of training and validation cells, over ten splits that begin with the
model's. Their regularization is chosen by shuffled five-fold cross-validation. (The cells are
ordered by module, and unshuffled folds choose a much weaker probe, 0.813.)

The model is trained on flipped and rotated cells and averages over these views. For a fair
comparison there are two versions of each probe: on unchanged cells, and (`_views`) fitted to all
views of the training cells with the same regularization, averaging over the views of a test cell.
Writes `experiments/elpv/probes.json`.
"""

import json
from pathlib import Path

import jax
import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from configs.elpv_pretrained import get_config
from experiments.elpv_scores import SPLITS, Cells, scores_of
from slava_jax.data.images import symmetries
from slava_jax.data.pipeline import Augmentation
from slava_jax.models.presets import hashable
from slava_jax.models.vit import Vit, VitConfig
from slava_jax.train.datasets import prepare
from slava_jax.train.frozen_states import FrozenStates
from slava_jax.train.start import pretrained_encoder, with_pretrained_shapes
from slava_jax.train.workdir import environment, machine_metrics, write_atomically

RESULT = Path(__file__).parent / "elpv" / "probes.json"
WORKDIR = Path("runs/elpv_probes")
PROBE_SPLITS = 10


def features() -> tuple[list[str], np.ndarray]:
    """Keys of all cells, and float32[cells, views, 3 * width] of the frozen encoder.

    The views are the model's; the first is the unchanged cell.
    """
    kept = WORKDIR / "features.npz"
    if not kept.exists():
        config = with_pretrained_shapes(get_config())
        change = Augmentation(**config.image.augmentation)
        vit, views = VitConfig(**hashable(config.vit)), symmetries(change.flips, change.turns)
        params, frozen = pretrained_encoder(config)
        datasets = prepare(config, WORKDIR)
        variables, run = {"params": params, "frozen": frozen}, jax.jit(Vit(vit).apply)
        keys, rows = [], []
        for split in (datasets.train, datasets.validation, datasets.test):
            keys += split.images.keys
            place, stem = Path(config.image.states), frozen["stem"]
            states = FrozenStates(place, vit, stem, split.images, split.pixels)
            states.compute(change)
            for i in range(len(split.images)):
                shown = np.stack([states.under(i, view) for view in views])
                tokens = np.asarray(run(variables, shown))
                patches = tokens[:, 1:]
                pooled = (tokens[:, 0], patches.mean(axis=1), patches.max(axis=1))
                rows.append(np.concatenate(pooled, axis=1))
        np.savez(kept, keys=keys, features=np.stack(rows))
    held = np.load(kept)
    return held["keys"].tolist(), held["features"]


def probes() -> dict:
    """Name -> an unfitted probe that chooses its own regularization."""
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    svm = make_pipeline(StandardScaler(), SVC())
    strengths = {"logisticregression__C": [1e-4, 1e-3, 1e-2, 1e-1]}
    widths = {"svc__C": [1, 3, 10, 30, 100], "svc__gamma": [1e-4, 3e-4, 1e-3]}
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return {
        "logistic": GridSearchCV(logistic, strengths, cv=folds, n_jobs=2),
        "rbf_svm": GridSearchCV(svm, widths, cv=folds, n_jobs=2),
    }


def _over_views(chosen, rows: np.ndarray, fitted, tested, truth) -> np.ndarray:
    """Mean decisions of a probe like `chosen`, fitted to every view: float[tested]."""
    views, width = rows.shape[1:]
    probe = clone(chosen).fit(rows[fitted].reshape(-1, width), np.repeat(truth, views))
    return probe.decision_function(rows[tested].reshape(-1, width)).reshape(-1, views).mean(1)


def main() -> None:
    """Fits all probes on all splits and writes the result file."""
    keys, rows = features()
    position = {key: i for i, key in enumerate(keys)}
    cells = Cells.read()
    found = {}
    for seed in range(PROBE_SPLITS):
        parts = cells.split(seed)
        fitted = [position[key] for key in parts["train"] + parts["validation"]]
        tested = [position[key] for key in parts["test"]]
        truth = np.asarray([cells.label[keys[i]] for i in fitted])
        for name, probe in probes().items():
            upright = probe.fit(rows[fitted, 0], truth).decision_function(rows[tested, 0])
            for kind, decided in (
                (name, upright),
                (f"{name}_views", _over_views(probe.best_estimator_, rows, fitted, tested, truth)),
            ):
                told = dict(zip(parts["test"], (decided > 0).astype(int).tolist(), strict=True))
                scores = scores_of(cells, told)
                found.setdefault(kind, []).append(
                    {"split": seed, **scores, "chosen": probe.best_params_}
                )
                print(f"split {seed}: {kind} {scores['accuracy']:.4f}", flush=True)
    summary = {}
    for name, splits in found.items():
        for score in ("accuracy", "macro_f1", "weighted_accuracy"):
            values = [split[score] for split in splits]
            summary[f"{name}.{score}"] = [float(np.mean(values)), float(np.std(values, ddof=1))]
    result = {
        "what": "mean and standard deviation over splits of the test share; see elpv_scores.py",
        "splits_of_the_model": list(SPLITS),
        "summary": summary,
        "splits": found,
        "environment": environment(),
        "machine": machine_metrics(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    write_atomically(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()

"""The floor: how well classical probes on the frozen vision encoder tell defective solar cells.

    make elpv weights
    python -m experiments.elpv_probes      # minutes on two cores, once the states are computed

Features: `<cls>`, mean and maximum of the patch tokens of the pretrained ViT-S/14 at 294 pixels,
behind its last norm, 1,152 numbers, standardised. A logistic regression and a support vector
machine with a radial kernel are fitted to the 75 % that the model trains and validates on, over
ten splits, of which the first are the model's. Their strength is chosen by five-fold
cross-validation, shuffled: cells come module by module, and folds in that order choose far too
weak a probe (0.813). Writes `experiments/elpv/probes.json`.
"""

import json
from pathlib import Path

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from configs.elpv_pretrained import get_config
from experiments.elpv_scores import SPLITS, Cells, scores_of
from slava_jax.models.presets import hashable
from slava_jax.models.vit import Vit, VitConfig
from slava_jax.train.materials import prepare, with_frozen_states
from slava_jax.train.start import pretrained_encoder
from slava_jax.train.workdir import environment, machine_metrics, write_atomically

RESULT = Path(__file__).parent / "elpv" / "probes.json"
WORKDIR = Path("runs/elpv_probes")
PROBE_SPLITS = 10
_BATCH = 16


def features() -> tuple[list[str], np.ndarray]:
    """Keys of all cells, and float32[cells, 3 * width] of the frozen encoder."""
    kept = WORKDIR / "features.npz"
    if not kept.exists():
        config = get_config()
        config.image.augmentation.update(flips=False, turns=1)
        params, frozen = pretrained_encoder(config)
        materials = prepare(config, WORKDIR)
        materials = with_frozen_states(config, materials, frozen["stem"], WORKDIR)
        model = Vit(VitConfig(**hashable(config.vit)))
        variables, run = {"params": params, "frozen": frozen}, jax.jit(model.apply)
        keys, rows = [], []
        for split in (materials.train, materials.validation, materials.test):
            keys += split.images.keys
            for start in range(0, len(split.images), _BATCH):
                part = range(start, min(start + _BATCH, len(split.images)))
                states = np.stack([split.cache[i] for i in part])
                states = np.pad(states, ((0, _BATCH - len(part)), (0, 0), (0, 0)))
                tokens = np.asarray(run(variables, states))[: len(part)]
                patches = tokens[:, 1:]
                pooled = (tokens[:, 0], patches.mean(axis=1), patches.max(axis=1))
                rows.append(np.concatenate(pooled, axis=1))
        np.savez(kept, keys=keys, features=np.concatenate(rows))
    held = np.load(kept)
    return held["keys"].tolist(), held["features"]


def probes() -> dict:
    """Name -> a fresh probe that chooses its strength itself."""
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    svm = make_pipeline(StandardScaler(), SVC())
    strengths = {"logisticregression__C": [1e-4, 1e-3, 1e-2, 1e-1]}
    widths = {"svc__C": [1, 3, 10, 30], "svc__gamma": [1e-4, 3e-4, 1e-3]}
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return {
        "logistic": GridSearchCV(logistic, strengths, cv=folds, n_jobs=2),
        "rbf_svm": GridSearchCV(svm, widths, cv=folds, n_jobs=2),
    }


def main() -> None:
    """Fits all probes on all splits and writes the result file."""
    keys, rows = features()
    position = {key: i for i, key in enumerate(keys)}
    cells = Cells.read()
    found = {name: [] for name in probes()}
    for seed in range(PROBE_SPLITS):
        parts = cells.split(seed)
        fitted = [position[key] for key in parts["train"] + parts["validation"]]
        tested = [position[key] for key in parts["test"]]
        truth = np.asarray([cells.label[keys[i]] for i in fitted])
        for name, probe in probes().items():
            predicted = probe.fit(rows[fitted], truth).predict(rows[tested])
            scores = scores_of(cells, dict(zip(parts["test"], predicted.tolist(), strict=True)))
            found[name].append({"split": seed, **scores, "chosen": probe.best_params_})
            print(f"split {seed}: {name} {scores['accuracy']:.4f}", flush=True)
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

"""How hard are the synthetic micrographs? Measured before any model is trained on them.

    python -m experiments.classical            # about two minutes on two idle cores

Generates a balanced set, fits the classical baseline (`slava_jax.eval.classical`) on 2,800 images
and tests it on 800 others; fits logistic regression on the data bar alone, which must stay near
chance; and times the generation. Writes `experiments/classical.json`.
"""

import argparse
import concurrent.futures
import functools
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import scipy
import sklearn

from slava_jax.eval import classical
from slava_jax.synthetic.micrographs import draw
from slava_jax.synthetic.records import CATEGORIES

BAND = (0.55, 0.80)  # required range of the baseline's top-1
BAR_LIMIT = 0.15  # upper limit for the data bar alone
RESULT = Path(__file__).with_suffix(".json")


def rows(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The baseline's features and the data bar's pixels of one image per category."""
    drawn = [draw(category, seed, size) for category in CATEGORIES]
    bars = np.stack([d.image[-d.bar_height :, :].ravel() for d in drawn])
    return classical.features(np.stack([d.image for d in drawn])), bars


def score(train, labels, test, truth) -> tuple[float, np.ndarray]:
    """Top-1 and the confusion matrix int[10, 10] (rows are the truth)."""
    predicted, _ = classical.fit_predict_rows(train, labels, test)
    confusion = np.zeros((len(CATEGORIES),) * 2, int)
    np.add.at(confusion, (truth, predicted), 1)
    return float((predicted == truth).mean()), confusion


def speed(size: int, each: int) -> dict[str, float]:
    """Images per second and core, by category, from this process's processor time."""
    rate = {}
    for category in CATEGORIES:
        draw(category, 0, size)
        start = time.process_time()
        for seed in range(each):
            draw(category, seed, size)
        rate[category] = each / (time.process_time() - start)
    return rate


def cpu() -> str:
    """The processor's name, if the system reports it."""
    info = Path("/proc/cpuinfo")
    names = [n for n in info.read_text().splitlines() if "model name" in n] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor()


def measure(train_seeds: int, test_seeds: int, size: int, workers: int) -> dict:
    """The contents of the result file; seeds 0, 1, ... train, the following ones test."""
    seeds = range(train_seeds + test_seeds)
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        drawn = list(pool.map(functools.partial(rows, size=size), seeds, chunksize=8))
    features = np.concatenate([f for f, _ in drawn])
    bars = np.concatenate([b for _, b in drawn]).astype(np.float32) / 255
    labels = np.tile(np.arange(len(CATEGORIES)), len(seeds))
    cut = train_seeds * len(CATEGORIES)
    top1, confusion = score(features[:cut], labels[:cut], features[cut:], labels[cut:])
    # Every third column keeps the fit short; the bar's letters are two pixels wide.
    thin = bars[:, ::3]
    bar_top1, _ = score(thin[:cut], labels[:cut], thin[cut:], labels[cut:])
    rate = speed(size, 40)
    return {
        "top1": round(top1, 4),
        "top1_band": BAND,
        "bar_only_top1": round(bar_top1, 4),
        "bar_only_limit": BAR_LIMIT,
        "train_images": cut,
        "test_images": len(labels) - cut,
        "train_seeds": [0, train_seeds - 1],
        "test_seeds": [train_seeds, train_seeds + test_seeds - 1],
        "size": size,
        "confusion": confusion.tolist(),
        "images_per_second_per_core": {k: round(v, 1) for k, v in rate.items()},
        "images_per_second_per_core_mean": round(len(rate) / sum(1 / v for v in rate.values()), 1),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }


def main() -> None:
    """Measures, prints and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train-seeds", type=int, default=280)
    parser.add_argument("--test-seeds", type=int, default=80)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    result = measure(args.train_seeds, args.test_seeds, args.size, args.workers)
    part = args.out.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(part, args.out)
    print(json.dumps({k: v for k, v in result.items() if k != "confusion"}, indent=1))
    for name, line in zip(CATEGORIES, result["confusion"], strict=True):
        print(f"{name:28s}", *(f"{n:4d}" for n in line))


if __name__ == "__main__":
    main()

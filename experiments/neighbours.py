"""How long does similarity sampling (section 4.4) take over as many images as the SEM set has?

    python -m experiments.neighbours      # a minute or two

Every one of 21,000 random embeddings is a query against all of them, 8 neighbours each, categories
as uneven as the SEM set's. What the numbers are does not change the time. The target is 30 s on
2 cores. Writes `experiments/neighbours.json`.
"""

import json
import resource
import time
from pathlib import Path

import numpy as np

from experiments.results_page import table
from slava_jax.data.neighbours import RELATIONS, neighbours
from slava_jax.train.workdir import environment, machine_metrics, write_atomically

RESULT = Path(__file__).with_suffix(".json")
IMAGES, COUNT, WIDTHS, SEED = 21_000, 8, (64, 384), 0
SIZES = (973, 163, 327, 4591, 3821, 3926, 4756, 182, 918, 1625)  # images a category of the SEM set


def measure() -> list[dict]:
    """Seconds of every relation at every width."""
    rng = np.random.default_rng(SEED)
    labels = rng.choice(len(SIZES), IMAGES, p=np.asarray(SIZES) / sum(SIZES))
    itself = np.arange(IMAGES)
    rows = []
    for width in WIDTHS:
        vectors = rng.standard_normal((IMAGES, width)).astype(np.float32)
        for relation in RELATIONS:
            start = time.perf_counter()
            neighbours(vectors, vectors, COUNT, relation, labels, labels, itself)
            seconds = round(time.perf_counter() - start, 2)
            rows.append({"width": width, "relation": relation, "seconds": seconds})
    return rows


def main() -> None:
    """Measure, print and write the result file."""
    rows = measure()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {
        "question": __doc__.splitlines()[0],
        "images": IMAGES,
        "count": COUNT,
        "seed": SEED,
        "rows": rows,
        "peak_memory_gib": round(peak, 2),
        "matmul_gflops": round(machine_metrics()["run.matmul_gflops"]),
        "environment": environment(),
    }
    write_atomically(RESULT, json.dumps(result, indent=1) + "\n")
    lines = [(str(r["width"]), r["relation"], f"{r['seconds']:.1f}") for r in rows]
    print(table(("width", "relation", "seconds"), lines))
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Do three published claims hold over three seeds?

    python -m experiments.claims                  # hours on two cores; resumes if killed
    python -m experiments.claims styles --seeds 0

`styles`: short, detailed or mixed answers in training. `shift`: trained on one range of acquisition
settings, tested on another. `turns`: flips and rotations as augmentation. See the modules of the
same names. Writes `experiments/claims/results.json` and its tables in docs/claims.md.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments import results
from experiments.claims import shift, styles, turns
from experiments.results_page import table
from slava_jax.pages import use_large_pages
from slava_jax.train.workdir import environment, write_atomically

RESULTS, RUNS = Path(__file__).with_name("results.json"), Path("runs/claims")
PAGE = Path(__file__).parents[2] / "docs" / "claims.md"
CLAIMS = {"styles": styles, "shift": shift, "turns": turns}
SEEDS = (0, 1, 2)


def name_of(claim: str, seed: int, variant: str) -> str:
    """The name of a measurement in the results."""
    return f"{claim}-seed{seed}-{variant}"


def do(claim: str, seed: int, variant: str) -> None:
    """Makes one measurement, unless it exists."""
    name = name_of(claim, seed, variant)
    if name not in results.read(RESULTS):
        scores = CLAIMS[claim].measure(seed, variant, RUNS)
        results.add(RESULTS, name, {"scores": scores, "environment": environment()})


def page(found: Mapping[str, dict]) -> str:
    """Markdown: a table per claim, with mean and standard deviation over the finished seeds."""
    parts = [
        "# Three claims of the paper, tested",
        "Written by `python -m experiments.claims`. Synthetic micrographs; ± is the standard "
        "deviation over seeds, n the number of images or questions per score and seed.",
    ]
    for claim, module in CLAIMS.items():
        parts.append("## " + " ".join(module.__doc__.split("\n\n")[0].split()))
        parts.append(" ".join(module.__doc__.split("\n\n")[1].split()))
        rows = []
        for variant in module.VARIANTS:
            names = [name_of(claim, seed, variant) for seed in SEEDS]
            held = [found[name]["scores"] for name in names if name in found]
            if held:
                cells = [_cell([scores[key] for scores in held]) for key in held[0] if key != "n"]
                header = ("trained on", "seeds", "n", *(key for key in held[0] if key != "n"))
                rows.append((variant, str(len(held)), f"{held[0]['n']:.0f}", *cells))
        parts.append(table(header, rows) if rows else "Not measured yet.")
    return "\n\n".join(parts) + "\n"


def _cell(values: list[float]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}"


def main() -> None:
    """Makes the chosen measurements and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claims", nargs="*", help=f"of {', '.join(CLAIMS)}; all by default")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    asked = parser.parse_args()
    unknown = set(asked.claims) - set(CLAIMS)
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(CLAIMS)}")
    for seed in asked.seeds:
        for claim in asked.claims or CLAIMS:
            for variant in CLAIMS[claim].VARIANTS:
                do(claim, seed, variant)
    write_atomically(PAGE, page(results.read(RESULTS)))


if __name__ == "__main__":
    use_large_pages()
    main()

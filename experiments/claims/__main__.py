"""Three claims put to the test, over three seeds: what does the data say?

    python -m experiments.claims                  # hours on two cores; killed, it goes on
    python -m experiments.claims styles --seeds 0

`styles`: short, detailed or mixed answers in training. `shift`: trained on one range of
acquisition, asked about another. `turns`: flips and turns as augmentation. What each does stands in
the module of its name. Writes `experiments/claims/results.json`, and all that is in it as tables
into docs/claims.md.
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
    """What a measurement is called in the results."""
    return f"{claim}-seed{seed}-{variant}"


def do(claim: str, seed: int, variant: str) -> None:
    """One measurement, unless it was made."""
    name = name_of(claim, seed, variant)
    if name not in results.read(RESULTS):
        scores = CLAIMS[claim].measure(seed, variant, RUNS)
        results.add(RESULTS, name, {"scores": scores, "environment": environment()})


def page(found: Mapping[str, dict]) -> str:
    """Markdown: a table a claim, mean and standard deviation over the seeds that there are."""
    parts = [
        "# Claims put to the test",
        "Written by `python -m experiments.claims`. Drawn micrographs; ± is the standard deviation "
        "over seeds, n the images or questions of each score of one of them.",
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
    """Measures what was asked for and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claims", nargs="*", help=f"of {', '.join(CLAIMS)}; all by default")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    asked = parser.parse_args()
    unknown = set(asked.claims) - set(CLAIMS)
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(CLAIMS)}")
    for seed in asked.seeds:
        for claim in asked.claims or CLAIMS:
            for variant in CLAIMS[claim].VARIANTS:
                do(claim, seed, variant)
    write_atomically(PAGE, page(results.read(RESULTS)))


if __name__ == "__main__":
    use_large_pages()
    main()

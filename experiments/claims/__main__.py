"""Three claims put to the test, over three seeds: what does the data say?

    python -m experiments.claims                  # hours on two cores; killed, it goes on
    python -m experiments.claims styles --seeds 0

`styles`: short, detailed or mixed answers in training. `shift`: trained on one range of
acquisition, asked about another. `turns`: flips and turns as augmentation. What each does stands in
the module of its name. Writes `experiments/claims/NAME-seedN-VARIANT.json`, and all that is there
as tables into docs/claims.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from experiments.claims import shift, styles, turns
from experiments.readme_results import table
from slava_jax.train.workdir import environment, write_atomically

RESULTS, RUNS = Path(__file__).parent, Path("runs/claims")
PAGE = RESULTS.parent.parent / "docs" / "claims.md"
CLAIMS = {"styles": styles, "shift": shift, "turns": turns}
SEEDS = (0, 1, 2)


def place(claim: str, seed: int, variant: str) -> Path:
    """The result file of one measurement."""
    return RESULTS / f"{claim}-seed{seed}-{variant.replace(' ', '_')}.json"


def do(claim: str, seed: int, variant: str) -> None:
    """One measurement, unless it was made."""
    path = place(claim, seed, variant)
    if path.exists():
        return
    scores = CLAIMS[claim].measure(seed, variant, RUNS)
    found = {"claim": claim, "seed": seed, "variant": variant, "scores": scores}
    write_atomically(path, json.dumps({**found, "environment": environment()}, indent=1) + "\n")


def page(results: Path = RESULTS) -> str:
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
            files = [results / place(claim, seed, variant).name for seed in SEEDS]
            held = [json.loads(file.read_text())["scores"] for file in files if file.exists()]
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
    write_atomically(PAGE, page())


if __name__ == "__main__":
    main()

"""Which of the paper's parts carry the quickstart? Each left out or changed, over three seeds.

    python -m experiments.ablations               # hours on two cores; killed, it goes on
    python -m experiments.ablations --seeds 0 --decoders transformer

The vision and the language stage of configs/quickstart.py are run once a seed and shared; every
variant is an assistant stage of its own on top of them, on the same images and instructions. Each
is evaluated at ranks 4, 8, 12 and 16, with every B at zero, and with exchanged images. Writes
`experiments/ablations/results.json`, the tables of docs/ablations.md, and docs/ablations.svg.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from configs.quickstart import get_config
from experiments import results
from experiments.results_page import replaced, table
from experiments.shared_stages import assistant_run, shared_stages
from slava_jax.pages import use_large_pages
from slava_jax.train.workdir import environment, write_atomically

RESULTS = Path(__file__).with_name("results.json")
RUNS = Path("runs/ablations")
PAGE = Path(__file__).parents[2] / "docs" / "ablations.md"
MARKERS = ("<!-- ablations:begin -->", "<!-- ablations:end -->")
SEEDS, DECODERS, RANKS = (0, 1, 2), ("transformer", "llama"), (4, 8, 12, 16)
# What each variant changes; `full` is the paper's method as the quickstart has it.
VARIANTS = {
    "full": {},
    "two experts": {"adapter.experts": 2},
    "one expert": {"adapter.experts": 1, "adapter.top_k": 1},
    "hidden-state router": {"adapter.router": "hidden"},
    "fixed rank": {"adapter.r_min": 16},
    "no rank normalisation": {"adapter.rank_normalisation": False},
    "embedding table": {"text_encoder": "embeddings"},
}
LOSS = "lm.nats_per_token"
KEPT = (
    LOSS, "lm.nats_per_token_zero_b", "classification.top1", "classification.macro_f1",
    "classification_zero_b.top1", "classification_shuffled.top1", "classification_vit.top1",
    "itm.auc_class_question", "run.seconds.assistant",
    *(f"rank_{rank}.{score}" for rank in RANKS for score in ("top1", "nats_per_token")),
)  # fmt: skip


def do(seed: int, decoder: str, variant: str) -> None:
    """One assistant stage and its results, unless they are there."""
    name = name_of(seed, decoder, variant)
    if name in results.read(RESULTS):
        return
    config = get_config()
    config.seed, config.decoder = seed, decoder
    config.evaluation.update(captions=0, answers=128, ranks=RANKS)
    config.update_from_flattened_dict(VARIANTS[variant])
    before = shared_stages(get_config(), RUNS, seed)
    metrics = assistant_run(config, RUNS / name.replace(" ", "_"), before)
    kept = {metric: metrics[metric] for metric in KEPT}
    results.add(RESULTS, name, {"metrics": kept, "environment": environment()})


def name_of(seed: int, decoder: str, variant: str) -> str:
    """What a run is called in the results."""
    return f"seed{seed}-{decoder}-{variant}"


def spreads(found: Mapping[str, dict], decoder: str, variant: str) -> dict[str, list[float]]:
    """{metric: [mean, standard deviation, n]} over the seeds there are; {} if there is none.

    `minus full` is the answer loss minus that of `full`, seed by seed.
    """
    names = [name_of(seed, decoder, variant) for seed in SEEDS]
    held = [found[name]["metrics"] for name in names if name in found]
    values = {key: [metrics[key] for metrics in held] for key in held[0]} if held else {}
    if variant != "full":
        values["minus full"] = list(differences(found, decoder, variant).values())
    return {key: _spread(of_seeds) for key, of_seeds in values.items() if of_seeds}


def differences(
    found: Mapping[str, dict], decoder: str, variant: str, metric: str = LOSS
) -> dict[int, float]:
    """{seed: a variant's metric minus the answer loss of `full`}, where both were run."""
    out = {}
    for seed in SEEDS:
        names = name_of(seed, decoder, variant), name_of(seed, decoder, "full")
        if all(name in found for name in names):
            one, full = (found[name]["metrics"] for name in names)
            out[seed] = one[metric] - full[LOSS]
    return out


def _spread(values: list[float]) -> list[float]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return [float(np.mean(values)), deviation, len(values)]


_COLUMNS = (
    ("nats a token", LOSS),
    ("minus `full`", "minus full"),
    ("B at zero", "lm.nats_per_token_zero_b"),
    *((f"rank {rank}", f"rank_{rank}.nats_per_token") for rank in RANKS),
    ("top-1", "classification.top1"),
    ("B at zero", "classification_zero_b.top1"),
    ("match AUC", "itm.auc_class_question"),
)


def tables(found: Mapping[str, dict]) -> str:
    """Markdown: a table a decoder."""
    parts = []
    for decoder in DECODERS:
        rows = []
        for variant in VARIANTS:
            held = spreads(found, decoder, variant)
            if held:
                cells = (_cell(held.get(key), key) for _, key in _COLUMNS)
                rows.append((variant, str(held["classification.top1"][2]), *cells))
        if rows:
            header = ("variant", "seeds", *(label for label, _ in _COLUMNS))
            parts += [f"## Decoder `{decoder}`", table(header, rows)]
    return "\n\n".join(parts)


def _cell(spread: list[float] | None, key: str) -> str:
    if spread is None:
        return ""
    mean, deviation, seeds = spread
    digits, sign = (4, "+") if key == "minus full" else (3, "")
    return f"{mean:{sign}.{digits}f}" + (f" ± {deviation:.{digits}f}" if seeds > 1 else "")


def plot(found: Mapping[str, dict], place: Path) -> Figure:
    """What each variant adds to the answer loss of `full` on the same seed: a mark a seed."""
    rows = {"every B at zero": ("full", "lm.nats_per_token_zero_b")}
    rows |= {variant: (variant, LOSS) for variant in VARIANTS if variant != "full"}
    with matplotlib.rc_context({"svg.hashsalt": "ablations", "font.size": 9}):
        figure = Figure(figsize=(9, 0.9 + 0.35 * len(rows)), layout="constrained")
        every = figure.subplots(1, len(DECODERS), sharey=True)
        for axes, decoder in zip(every, DECODERS, strict=True):
            axes.axvline(0, color="0.6", linewidth=1)
            points = {
                name: differences(found, decoder, *row) for name, row in reversed(rows.items())
            }
            for seed, mark in zip(SEEDS, "os^", strict=True):
                places = [line for line, by_seed in enumerate(points.values()) if seed in by_seed]
                values = [by_seed[seed] for by_seed in points.values() if seed in by_seed]
                axes.plot(values, places, mark, label=f"seed {seed}", alpha=0.8)
            axes.set_yticks(range(len(points)), list(points))
            axes.set_title(f"decoder {decoder}")
            axes.set_xlabel("answer loss minus that of full, nats a token")
            axes.grid(axis="x", alpha=0.3)
        figure.legend(
            *every[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(SEEDS)
        )
        figure.savefig(place, metadata={"Date": None})
    return figure


def main() -> None:
    """Runs what was asked for and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--decoders", nargs="*", default=list(DECODERS), choices=DECODERS)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    asked = parser.parse_args()
    for seed in asked.seeds:
        for decoder in asked.decoders:
            for variant in asked.variants:
                do(seed, decoder, variant)
    found = results.read(RESULTS)
    write_atomically(PAGE, replaced(PAGE.read_text(encoding="utf-8"), tables(found), *MARKERS))
    plot(found, PAGE.with_suffix(".svg"))


if __name__ == "__main__":
    use_large_pages()
    main()

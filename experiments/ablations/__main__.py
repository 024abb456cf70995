"""Which of the paper's parts carry the quickstart? Each left out or changed, over three seeds.

    python -m experiments.ablations               # hours on two cores; killed, it goes on
    python -m experiments.ablations --seeds 0 --decoders transformer

The vision and the language stage of configs/quickstart.py are run once a seed and shared; every
variant is an assistant stage of its own on top of them, on the same images and instructions. Each
is evaluated at ranks 4, 8, 12 and 16, with every B at zero, and with exchanged images. Writes
`experiments/ablations/results.json`, and docs/ablations.md with docs/ablations.svg.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from configs.quickstart import get_config
from experiments import results
from experiments.readme_results import table
from slava_jax.pages import use_large_pages
from slava_jax.train.loop import run
from slava_jax.train.workdir import environment, write_atomically

RESULTS = Path(__file__).with_name("results.json")
RUNS = Path("runs/ablations")
DOCS = Path(__file__).parents[2] / "docs"
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
KEPT = (
    "classification.top1", "classification.macro_f1", "classification_zero_b.top1",
    "classification_shuffled.top1", "classification_vit.top1", "lm.nats_per_token",
    "lm.nats_per_token_zero_b", "itm.auc_class_question", "run.seconds.assistant",
    *(f"rank_{rank}.{score}" for rank in RANKS for score in ("top1", "nats_per_token")),
)  # fmt: skip


def shared(seed: int) -> Path:
    """The work directory of a seed's vision and language stages, which are run if need be."""
    config = get_config()
    config.seed, config.stages = seed, ("vision", "language")
    workdir = RUNS / f"seed{seed}"
    run(config, workdir)
    return workdir


def do(seed: int, decoder: str, variant: str) -> None:
    """One assistant stage and its results, unless they are there."""
    name = name_of(seed, decoder, variant)
    if name in results.read(RESULTS):
        return
    before = shared(seed)
    config = get_config()
    config.seed, config.stages, config.decoder = seed, ("assistant",), decoder
    config.start_from.update(vision=str(before), language=str(before))
    config.evaluation.update(captions=0, answers=128, ranks=RANKS)
    config.update_from_flattened_dict(VARIANTS[variant])
    workdir = RUNS / name.replace(" ", "_")
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / "data").exists():
        (workdir / "data").symlink_to((before / "data").absolute())  # the same images and texts
    metrics = run(config, workdir)
    kept = {metric: metrics[metric] for metric in KEPT}
    results.add(RESULTS, name, {"metrics": kept, "environment": environment()})
    jax.clear_caches()  # a run's compiled programs are more than 1 GB


def name_of(seed: int, decoder: str, variant: str) -> str:
    """What a run is called in the results."""
    return f"seed{seed}-{decoder}-{variant}"


def summary(found: Mapping[str, dict]) -> dict:
    """{decoder: {variant: {metric: [mean, standard deviation, n]}}} over the seeds there are."""
    out: dict[str, dict] = {}
    for decoder in DECODERS:
        for variant in VARIANTS:
            names = [name_of(seed, decoder, variant) for seed in SEEDS]
            held = [found[name]["metrics"] for name in names if name in found]
            if held:
                out.setdefault(decoder, {})[variant] = {
                    key: _spread([metrics[key] for metrics in held]) for key in held[0]
                }
    return out


def _spread(values: list[float]) -> list[float]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return [float(np.mean(values)), deviation, len(values)]


_COLUMNS = (
    ("top-1", "classification.top1"),
    ("with every B at zero", "classification_zero_b.top1"),
    ("nats a token", "lm.nats_per_token"),
    ("B at zero", "lm.nats_per_token_zero_b"),
    *((f"rank {rank}", f"rank_{rank}.nats_per_token") for rank in RANKS),
    ("match AUC", "itm.auc_class_question"),
)


def page(found: dict) -> str:
    """Markdown: a table a decoder, and the plot."""
    parts = [
        "# What carries the quickstart",
        "Written by `python -m experiments.ablations`; ± is the standard deviation over seeds. "
        "*nats a token* is the answer loss of class and VQA questions, *rank N* that of the VQA "
        "questions alone, with the adapters cut to N. The variants of a seed start from one vision "
        "classifier, which was trained anew where they were run on another machine (its top-1 and "
        "the processor are in the result file).",
        "![Answer loss of every variant](ablations.svg)",
    ]
    for decoder, variants in found.items():
        rows = [
            (
                name,
                str(next(iter(held.values()))[2]),
                *(_cell(held[key]) for _, key in _COLUMNS),
            )
            for name, held in variants.items()
        ]
        header = ("variant", "seeds", *(label for label, _ in _COLUMNS))
        parts += [f"## Decoder `{decoder}`", table(header, rows)]
    return "\n\n".join(parts) + "\n"


def _cell(spread: list[float]) -> str:
    mean, deviation, seeds = spread
    return f"{mean:.3f}" + (f" ± {deviation:.3f}" if seeds > 1 else "")


def plot(found: dict, place: Path) -> Figure:
    """Answer loss of each variant, with its adapters and with every B at zero, by decoder.

    A variant stands in the same line for every decoder, whether it was run with it or not.
    """
    lines = {name: line for line, name in enumerate(reversed(VARIANTS))}
    with matplotlib.rc_context({"svg.hashsalt": "ablations", "font.size": 9}):
        figure = Figure(figsize=(9, 0.5 + 0.4 * len(VARIANTS)), layout="constrained")
        for axes, (decoder, variants) in zip(
            figure.subplots(1, len(found), sharey=True, squeeze=False)[0],
            found.items(),
            strict=True,
        ):
            for key, label, mark in (
                ("lm.nats_per_token_zero_b", "every B at zero", "x"),
                ("lm.nats_per_token", "trained", "o"),
            ):
                means, deviations, _ = zip(*(held[key] for held in variants.values()), strict=True)
                places = [lines[name] for name in variants]
                axes.errorbar(means, places, xerr=deviations, fmt=mark, label=label)
            axes.set_yticks(range(len(lines)), list(lines))
            axes.set_title(f"decoder {decoder}")
            axes.set_xlabel("answer loss, nats a token")
            axes.grid(axis="x", alpha=0.3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
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
    found = summary(results.read(RESULTS))
    write_atomically(DOCS / "ablations.md", page(found))
    plot(found, DOCS / "ablations.svg")


if __name__ == "__main__":
    use_large_pages()
    main()

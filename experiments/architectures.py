"""Does the language model have to see the image? sLAVA against LLaVA over three seeds.

    python -m experiments.architectures               # hours on two cores; resumes if killed
    python -m experiments.architectures --seeds 0 --models "LLaVA"

For each seed all models start from the same vision encoder and tiny language model, and train on
the same images and questions for the same number of steps (configs/quickstart.py, llava.py). Each
is also evaluated with every B at zero and with images of another category. Writes
`experiments/architectures.json` and the table of docs/architectures.md.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs import llava, quickstart
from experiments import results
from experiments.results_page import replaced, table
from experiments.shared_stages import assistant_run, shared_stages
from slava_jax.pages import use_large_pages
from slava_jax.train.workdir import environment, write_atomically

RESULTS = Path(__file__).with_suffix(".json")
RUNS = Path("runs/architectures")
PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
MARKERS = ("<!-- architectures:begin -->", "<!-- architectures:end -->")
SEEDS = (0, 1, 2)
# The config of each model and its changes.
MODELS = {
    "sLAVA, decoder `transformer`": (quickstart, {}),
    "sLAVA, decoder `llama`": (quickstart, {"decoder": "llama"}),
    "LLaVA": (llava, {}),
    "LLaVA, connector alone": (
        llava,
        {
            "adapter.experts": 0,
            "assistant.trainable": ("connector/**",),
            "assistant.rates": (),
        },
    ),
    "LLaVA, for as long as sLAVA": (llava, {"alignment.steps": 280, "assistant.steps": 920}),
}
LOSS, TOP1 = "lm.nats_per_token", "classification.top1"
_COLUMNS = (
    ("nats a token", LOSS),
    ("every B at zero", "lm.nats_per_token_zero_b"),
    ("wrong image", "lm.nats_per_token_shuffled"),
    ("top-1", TOP1),
    ("every B at zero", "classification_zero_b.top1"),
    ("wrong image", "classification_shuffled.top1"),
    ("VQA ROUGE-L", "vqa.rougeL"),
    ("minutes", "minutes"),
)
KEPT = (
    *(metric for _, metric in _COLUMNS if metric != "minutes"),
    "classification.macro_f1", "vqa_blind.rougeL", "classification.n", "vqa.n",
    "run.seconds.assistant", "run.peak_memory_gib",
)  # fmt: skip


def config_of(seed: int, model: str) -> ConfigDict:
    """The configuration of one run."""
    module, changes = MODELS[model]
    config = module.get_config()
    config.seed = seed
    config.evaluation.update(captions=0, answers=128)
    config.update_from_flattened_dict(changes)
    return config


def do(seed: int, model: str) -> None:
    """Runs and evaluates one model, unless its results exist."""
    name = name_of(seed, model)
    config = config_of(seed, model)
    settings = results.settings_of(config)
    if results.measured(RESULTS, name, settings):
        return
    place = "".join(c if c.isalnum() else "_" for c in name)
    before = shared_stages(llava.get_config(), RUNS, seed)
    metrics = assistant_run(config, RUNS / place, before)
    kept = {metric: metrics[metric] for metric in KEPT if metric in metrics}
    found = {"settings": settings, "metrics": kept, "environment": environment()}
    results.add(RESULTS, name, found)


def name_of(seed: int, model: str) -> str:
    """The name of a run in the results."""
    return f"seed{seed}-{model}"


def rows(found: Mapping[str, dict]) -> list[tuple[str, ...]]:
    """The table with a row for each model that was run: mean ± standard deviation over seeds."""
    out = []
    for model in MODELS:
        names = [name_of(seed, model) for seed in SEEDS]
        held = [found[name]["metrics"] for name in names if name in found]
        if held:
            held = [{**m, "minutes": m["run.seconds.assistant"] / 60} for m in held]
            cells = (_cell([m.get(key) for m in held], key) for _, key in _COLUMNS)
            out.append((model, str(len(held)), *cells))
    return out


def _cell(values: list[float | None], key: str) -> str:
    if None in values:  # without adapters there is no B
        return ""
    digits = 1 if key == "minutes" else 3
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def filled() -> str:
    """The table of all results there are."""
    header = ("model", "seeds", *(label for label, _ in _COLUMNS))
    return table(header, rows(results.read(RESULTS)))


def main() -> None:
    """Runs the chosen models and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    asked = parser.parse_args()
    for seed in asked.seeds:
        for model in asked.models:
            do(seed, model)
    write_atomically(PAGE, replaced(PAGE.read_text(encoding="utf-8"), filled(), *MARKERS))


if __name__ == "__main__":
    use_large_pages()
    main()

"""What are the adapters worth in a real language model that sees the image?

    make weights
    python -m experiments.adapters                     # half a day on one core; resumes if killed
    python -m experiments.adapters --seeds 0 --variants "LoRA"

SmolLM2-135M (int8, frozen) reads the tokens of a ViT-S/14 through one linear map, as in LLaVA. For
each seed the encoder's last layer learns classes and facts of synthetic micrographs, and the map is
aligned; then each kind of adapter is trained for the same steps on the same questions. Adapters
have the same number of trained weights, within 2 %. Each run is scored on facts, and again with
every B at zero. Writes `experiments/adapters.json` and the table of docs/ablations.md.
"""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from configs.quickstart import get_config
from experiments import results
from experiments.limber import LANGUAGE, S14, make_encoder, weights_of
from experiments.results_page import replaced, table
from experiments.shared_stages import assistant_run, shared_stages
from slava_jax.models.presets import build_model, variable_shapes
from slava_jax.pages import use_large_pages
from slava_jax.train.start import with_pretrained_shapes
from slava_jax.train.trainable import chosen, split
from slava_jax.train.workdir import environment, write_atomically

RESULTS = Path(__file__).with_suffix(".json")
RUNS = Path("runs/adapters")
PAGE = Path(__file__).parents[1] / "docs" / "ablations.md"
MARKERS = ("<!-- adapters:begin -->", "<!-- adapters:end -->")
SEEDS = (0, 1, 2)
VOCABULARY = 49152  # tokens of SmolLM2
ENCODER = f"{S14}, pretrained"
FULL, ALONE = "DyA-MoQPE", "connector alone"
# B of K experts of rank R has K x R rows. LoRA spends a part of its weights on A.
VARIANTS = {
    FULL: {},
    "fixed rank": {"adapter.r_min": 16},
    "one expert": {"adapter.experts": 1, "adapter.top_k": 1, "adapter.r_max": 64},
    "LoRA-FA": {
        "adapter.experts": 1,
        "adapter.top_k": 1,
        "adapter.r_min": 64,
        "adapter.r_max": 64,
    },
    "LoRA": {
        "adapter.experts": 1,
        "adapter.top_k": 1,
        "adapter.r_min": 26,
        "adapter.r_max": 26,
        "adapter.train_a": True,
    },
    ALONE: {"adapter.experts": 0},
}
_COLUMNS = (
    ("skill at facts", "truth.skill"),
    ("every B at zero", "truth_zero_b.skill"),
    ("right", "truth.right"),
    ("nats a token", "lm.nats_per_token"),
    ("every B at zero", "lm.nats_per_token_zero_b"),
    ("wrong image", "lm.nats_per_token_shuffled"),
    ("trained weights", "trained"),
)
KEPT = (
    *(metric for _, metric in _COLUMNS if metric != "trained"),
    "truth_shuffled.skill", "truth_blind.skill", "truth_classical.skill", "truth_class.skill",
    "run.seconds.assistant", "run.wall_seconds", "run.peak_memory_gib",
)  # fmt: skip


def first_stages(seed: int) -> ConfigDict:
    """The configuration of the stages that the variants of a seed share."""
    config = get_config()
    config.seed, config.model, config.template = seed, "inline", "plain"
    config.stages = ("vision", "alignment", "assistant")
    config.start_from.update(vision=str(weights_of(ENCODER)), language=str(LANGUAGE))
    config.connector.update(kind="linear", cls=True)
    config.vit.frozen_layers = 11
    config.int8_activations = True
    config.image.states = str(RUNS / "states")
    config.image.augmentation.update(flips=False, turns=1, shift=0)  # the states are computed once
    config.vision.update(steps=600, optimizer="adam", learning_rate=3e-4, warmup=40, eval_every=300)
    shared = {
        "batch_size": 8,
        "microbatches": 1,
        "optimizer": "adam",
        "per_image": 1,
        "turns": 4,
        "always": (),
        "tasks": ("vqa",),
        "warmup": 20,
        "eval_every": 100,
        "validation_batches": 8,
    }
    config.alignment.update(
        **shared, steps=200, learning_rate=2e-3, trainable=("connector/**",), asked_weight=12.0
    )
    config.assistant.update(
        **shared,
        steps=200,
        learning_rate=1e-3,
        trainable=("connector/**", "**/lora_*", "**/router"),
        rates=(("connector/**", 0.5),),
        buckets=((36, 20, 1), (96, 64, 1)),
    )
    # The class is not trained, but something must be scored.
    config.evaluation.update(classification=10, captions=0, answers=64, truth=96, examples=6)
    return config


def config_of(seed: int, variant: str) -> ConfigDict:
    """The configuration of one run."""
    config = first_stages(seed)
    config.update_from_flattened_dict(VARIANTS[variant])
    patterns = ["connector/**"]
    if config.adapter.experts:
        patterns.append("**/lora_*")
        config.evaluation.ranks = (config.adapter.r_max,)
    if config.adapter.experts > 1:
        patterns.append("**/router")
    config.assistant.trainable = tuple(patterns)
    return config


def trained_weights(config: ConfigDict) -> int:
    """Number of weights that the assistant stage trains, the connector's included.

    Raises CheckpointError if the converted weights are missing.
    """
    model = build_model(with_pretrained_shapes(config), VOCABULARY)
    shapes = variable_shapes(model)["params"]
    inside, _ = split(shapes, chosen(shapes, config.assistant.trainable, "assistant.trainable"))
    return sum(leaf.size for leaf in jax.tree.leaves(inside))


def do(seed: int, variant: str) -> None:
    """Runs and evaluates one variant, unless its results exist.

    The alignment of the first variant serves the others: adapters begin at zero, so it is the same.
    """
    name, config = name_of(seed, variant), config_of(seed, variant)
    settings = results.settings_of(config)
    if results.measured(RESULTS, name, settings):
        return
    make_encoder(ENCODER)
    before = shared_stages(first_stages(seed), RUNS, seed, ("vision",))
    place = RUNS / "".join(c if c.isalnum() else "_" for c in name)
    aligned = RUNS / f"seed{seed}-aligned"
    if aligned.exists() and not (place / "alignment").exists():
        shutil.copytree(aligned, place / "alignment")
    metrics = assistant_run(config, place, before)
    if not aligned.exists():
        shutil.copytree(place / "alignment", aligned)
    kept = {metric: metrics[metric] for metric in KEPT if metric in metrics}
    kept["trained"] = trained_weights(config)
    found = {"settings": settings, "metrics": kept, "environment": environment()}
    results.add(RESULTS, name, found)


def name_of(seed: int, variant: str) -> str:
    """The name of a run in the results."""
    return f"seed{seed}-{variant}"


def rows(found: Mapping[str, dict]) -> list[tuple[str, ...]]:
    """The table with a row for each variant that was run: mean ± deviation over seeds."""
    out = []
    for variant in VARIANTS:
        names = [name_of(seed, variant) for seed in SEEDS]
        held = [found[name]["metrics"] for name in names if name in found]
        if held:
            cells = (_cell([m.get(key) for m in held], key) for _, key in _COLUMNS)
            out.append((variant, str(len(held)), *cells))
    return out


def _cell(values: list[float | None], key: str) -> str:
    if None in values:  # without adapters there is no B
        return ""
    if key == "trained":
        return f"{values[0]:,}"
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def main() -> None:
    """Runs the chosen variants and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    asked = parser.parse_args()
    for seed in asked.seeds:
        for variant in asked.variants:
            do(seed, variant)
    header = ("adapters", "seeds", *(label for label, _ in _COLUMNS))
    filled = table(header, rows(results.read(RESULTS)))
    write_atomically(PAGE, replaced(PAGE.read_text(encoding="utf-8"), filled, *MARKERS))


if __name__ == "__main__":
    use_large_pages()
    main()

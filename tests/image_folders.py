"""Folders of images as a user may have them, and the data sets made of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from slava_jax.data.datasets.folder import Folder
from slava_jax.data.datasets.store import image_sets


def noise(seed, side=24, dtype=np.uint8):
    most = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, most, (side, side), dtype, endpoint=True)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def two_classes(folder: Path) -> Path:
    """Six images of gold and six of iron."""
    for c, label in enumerate(("gold", "iron")):
        for i in range(6):
            save(folder / label / f"{i}.png", noise(10 * c + i))
    return folder


def build(folder, **settings):
    return image_sets(Folder(folder, folder.parent / "data", size=16, **settings))


def keys(sets):
    return sorted(key for images in sets.values() for key in images.keys)

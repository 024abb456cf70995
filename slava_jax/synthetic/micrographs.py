"""Procedural micrographs: the built-in data set, drawn from a seed with its ground truth.

The ten categories are those of the SEM set (Aversa et al., 2018). A picture shows a surface
(`scenes/`) as imaged by an instrument (`detector.py`), above a data bar.
"""

import dataclasses

import numpy as np

from slava_jax.synthetic import detector
from slava_jax.synthetic.records import CATEGORIES, GroundTruth, SizeDistribution
from slava_jax.synthetic.scenes import draw_scene
from slava_jax.synthetic.scenes.geometry import SMALLEST, Canvas
from slava_jax.synthetic.scenes.measure import Scene


@dataclasses.dataclass(frozen=True)
class Micrograph:
    """A picture with its data bar at the bottom, and its ground truth."""

    image: np.ndarray  # uint8[size, size]
    bar_height: int  # rows of the data bar
    truth: GroundTruth


def draw(category: str, seed: int, size: int = 256) -> Micrograph:
    """Draws a micrograph. The same arguments give the same picture and record.

    Args:
      category: one of `CATEGORIES`.
      seed: 0 or more.
      size: side length in pixels, 64 or more. The field of view depends only on category and seed;
        the scene itself depends on the size as well.

    Raises:
      ValueError: the category is unknown, the seed negative or the size too small.
    """
    if category not in CATEGORIES:
        raise ValueError(f"category {category!r} is not one of {', '.join(CATEGORIES)}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, is {seed}")
    if size < SMALLEST:
        raise ValueError(f"size must be at least {SMALLEST} pixels, is {size}")
    key = (seed, CATEGORIES.index(category))
    setting = np.random.default_rng(np.random.SeedSequence(key))
    taken = detector.draw_acquisition(setting)
    bar = detector.data_bar(taken, size, setting)
    scene_seed, optics_seed = np.random.SeedSequence((*key, size)).spawn(2)
    rows = size - len(bar)
    scene = draw_scene(category, Canvas(np.random.default_rng(scene_seed), rows, size))
    optics = Canvas(np.random.default_rng(optics_seed), rows, size)
    image, artefacts = detector.expose(optics, scene, taken.detector)
    picture = np.concatenate([image.astype(np.uint8), bar])
    return Micrograph(picture, len(bar), _record(category, taken, scene, artefacts, size))


def _record(category, taken, scene: Scene, artefacts, size: int) -> GroundTruth:
    unit = taken.field_nm / 256
    sizes = None
    if scene.sizes is not None and len(scene.sizes):
        nm = np.asarray(scene.sizes, float) * unit
        values = (_round(v) for v in (nm.mean(), nm.std(), nm.min(), nm.max()))
        sizes = SizeDistribution(scene.kind, *values)
    return GroundTruth(
        category=category,
        width_px=size,
        nm_per_pixel=_round(taken.field_nm / size),
        magnification=taken.magnification,
        kv=taken.kv,
        working_distance_mm=taken.working_distance_mm,
        detector=taken.detector,
        feature=scene.feature,
        shape=scene.shape,
        count=scene.count,
        size_nm=sizes,
        spacing_nm=None if scene.spacing is None else _round(scene.spacing * unit),
        order=scene.order,
        orientation_deg=scene.orientation,
        alignment=scene.alignment,
        aggregation=scene.aggregation,
        texture=scene.texture,
        coverage=round(float(scene.mask.mean()), 4),
        composition=scene.composition,
        defects={kind: int(n) for kind, n in scene.defects.items() if n},
        artefacts=artefacts,
    )


def _round(value: float) -> float:
    return float(f"{value:.5g}")

"""A drawn scene and measurements on it."""

import dataclasses

import numpy as np
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from slava_jax.synthetic.scenes.geometry import Canvas, Outline, grains

_TEXTURED = 10  # units; a surface narrower than this shows no texture


@dataclasses.dataclass
class Scene:
    """A surface and facts about it; lengths are in units (the picture is 256 units wide)."""

    height: np.ndarray  # float32[rows, columns]
    material: np.ndarray  # float32[rows, columns], brightness of the material, 0 is neutral
    mask: np.ndarray  # bool[rows, columns], the features
    feature: str
    shape: str
    count: int | None = None
    kind: str = "diameter"
    sizes: np.ndarray | None = None  # float[n], sizes of the visible features
    spacing: float | None = None
    order: str = "random"
    orientation: float | None = None
    alignment: str | None = None
    aggregation: str = "isolated"
    texture: str = "smooth"
    composition: str = "uniform"
    defects: dict[str, int] = dataclasses.field(default_factory=dict)


def seen(ident: np.ndarray, least: float) -> np.ndarray:
    """Returns int[n], the features (>= 0) with at least `least` visible pixels in int32 `ident`."""
    number = np.bincount(ident.ravel() + 1)
    return np.flatnonzero(number[1:] >= max(least, 1))


def neighbours(centres: np.ndarray) -> tuple[float | None, str]:
    """Returns the mean nearest-neighbour distance and the order of float[n, 2] centres.

    The order is judged by the spread of each centre's four smallest distances, which are equal in a
    lattice.
    """
    if len(centres) < 2:
        return None, "random"
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    near = np.sort(distance, axis=1)
    if len(centres) < 9:
        return float(near[:, 0].mean()), "random"
    low, middle, high = np.quantile(near[:, :4], [0.15, 0.5, 0.75])
    spread = (high - low) / middle
    order = "ordered" if spread < 0.14 else "partly ordered" if spread < 0.32 else "random"
    return float(near[:, 0].mean()), order


def aggregation(centres: np.ndarray, radii: np.ndarray) -> str:
    """Classifies discs [n, 2], [n] by their contacts: 'isolated', 'touching' or 'clustered'."""
    if len(centres) < 2:
        return "isolated"
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    touch = distance < 1.05 * (radii[:, None] + radii[None])
    np.fill_diagonal(touch, False)
    if touch.any(1).mean() < 0.25:
        return "isolated"
    label = connected_components(csr_array(touch), directed=False)[1]
    # The expected cluster size of a randomly picked feature.
    number = np.bincount(label)
    return "clustered" if (number[label]).mean() >= 5 else "touching"


def axial(angles: np.ndarray, weights: np.ndarray | None = None) -> tuple[float | None, str]:
    """Returns the mean orientation (degrees in [0, 180), counter-clockwise) and the alignment.

    `angles` are float[n] in radians in image coordinates; y points down, so they run clockwise.
    """
    w = np.ones(len(angles)) if weights is None else weights
    resultant = np.sum(w * np.exp(-2j * np.asarray(angles, float))) / np.sum(w)
    strength = abs(resultant)
    name = "aligned" if strength > 0.85 else "partly aligned" if strength > 0.5 else "random"
    if name == "random":
        return None, name
    return round(float(np.degrees(np.angle(resultant)) / 2 % 180), 1) % 180, name


def roughen(canvas: Canvas, scene: Scene, where: np.ndarray, weights=(1, 1, 1)) -> None:
    """Applies a smooth, grainy or rough texture to the surface in `where` (bool) and records it.

    Features too small to show a texture stay smooth.
    """
    texture = canvas.choice(("smooth", "grainy", "rough"), weights)
    if texture == "smooth" or not _wide(where, _TEXTURED * canvas.scale):
        return
    scene.texture = texture
    if texture == "grainy":
        bumps = canvas.noise(canvas.uniform(1.3, 2.2)) * np.float32(canvas.uniform(0.6, 1.2))
    else:
        bumps = canvas.fractal(canvas.uniform(4, 9), 3, 0.55) * np.float32(canvas.uniform(1.8, 3.2))
    scene.height += np.where(where, bumps, 0)


def _wide(where: np.ndarray, side: float) -> bool:
    """Whether squares of `side` pixels fit into a good part of `where`, bool[rows, columns]."""
    inside = ndimage.uniform_filter(where.astype(np.float32), max(1, round(side))) > 0.999
    return inside.mean() > 0.15 * where.mean()


def litter(canvas: Canvas, scene: Scene, name: str = "debris") -> None:
    """Occasionally adds foreign specks to the scene and counts the visible ones."""
    if not canvas.chance(0.14):
        return
    n = int(canvas.rng.integers(1, 9))
    radii = np.exp(canvas.rng.normal(np.log(4.0), 0.4, n)).astype(np.float32)
    centres = canvas.scatter(n)
    at = np.minimum((centres[:, ::-1] * canvas.scale).astype(int), np.array(scene.height.shape) - 1)
    level = scene.height[at[:, 0], at[:, 1]] + radii * 0.3
    scene.height, ident = grains(canvas, centres, radii, level, Outline(lobes=0.22), scene.height)
    visible = seen(ident, 4 * canvas.scale**2)
    scene.material += np.where(ident >= 0, np.float32(canvas.uniform(-0.1, 0.5)), 0)
    if len(visible):
        scene.defects[name] = scene.defects.get(name, 0) + len(visible)


def second_phase(canvas: Canvas, scene: Scene, ident: np.ndarray, visible, chance: float) -> None:
    """Makes some visible features bright, like a heavier material, and records it."""
    if len(visible) < 3 or not canvas.chance(chance):
        return
    bright = canvas.rng.random(len(visible)) < canvas.uniform(0.1, 0.35)
    if not bright.any():
        return
    table = np.zeros(max(int(ident.max()), int(visible.max())) + 2, np.float32)
    table[visible[bright]] = canvas.uniform(0.5, 1.0)
    scene.material += table[ident]  # the last entry, used for ident -1, stays zero
    scene.composition = "bright second phase"

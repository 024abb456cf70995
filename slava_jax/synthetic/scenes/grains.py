"""Particles and powder: separate grains with clean outlines, or heaps of irregular ones."""

import math

import numpy as np

from slava_jax.synthetic.scenes.geometry import Canvas, Outline, grains
from slava_jax.synthetic.scenes.measure import (
    Scene,
    aggregation,
    neighbours,
    roughen,
    second_phase,
    seen,
)


def particles(canvas: Canvas) -> Scene:
    """Grains of one kind on a substrate: spheres, crystals, rods or plates, few or many."""
    kind = canvas.choice(("scattered", "layer", "clusters", "pile"), (6, 2.5, 1.3, 0.8))
    radius = canvas.log_uniform(4, 26)
    if kind in ("layer", "pile"):
        radius = canvas.log_uniform(5, 17)
    spread = canvas.choice((0.04, 0.15, 0.3))
    if kind == "layer":
        centres, spread = _lattice(canvas, radius), 0.03
    elif kind == "clusters":
        centres = _clusters(canvas, radius, int(canvas.rng.integers(2, 7)), canvas.uniform(3, 22))
    elif kind == "pile":
        number = int(1.8 * canvas.width * canvas.height / (math.pi * radius**2))
        centres = canvas.scatter(min(number, 260), radius)
    else:
        filling = canvas.uniform(0.04, 0.5)
        number = int(filling * canvas.width * canvas.height / (math.pi * radius**2))
        centres = _apart(canvas, canvas.scatter(min(max(number, 3), 220)), radius * 1.9)
    radii = radius * np.exp(canvas.rng.normal(0, spread, len(centres))).astype(np.float32)
    outline, shape = _particle_outline(canvas)
    level = radii * np.float32(canvas.uniform(0.3, 1.0))
    if kind == "pile":
        level = level + canvas.rng.uniform(0, 3 * radius, len(radii)).astype(np.float32)
    elif kind == "clusters" and canvas.chance(0.5):
        level = level + canvas.rng.uniform(0, 1.5 * radius, len(radii)).astype(np.float32)
    return _heap(canvas, centres, radii, level, outline, shape, "particle", (8, 2, 0.4))


def powder(canvas: Canvas) -> Scene:
    """Irregular grains of many sizes in heaps and clumps; small grains stick to large ones."""
    kind = canvas.choice(("bed", "clumps", "fine", "loose"), (6, 2, 3, 0.7))
    coarse = canvas.log_uniform(9, 24)
    spread = canvas.uniform(0.3, 0.6)
    if kind == "bed":
        number = int(2.1 * canvas.width * canvas.height / (math.pi * coarse**2))
        centres = canvas.scatter(max(number, 12), coarse)
    elif kind == "clumps":
        coarse = canvas.log_uniform(6, 14)
        centres = _clusters(canvas, coarse, int(canvas.rng.integers(1, 5)), canvas.uniform(25, 70))
    elif kind == "fine":
        coarse = canvas.log_uniform(5, 9)
        centres = canvas.scatter(320, coarse)
    else:
        coarse = canvas.log_uniform(7, 20)
        centres = canvas.scatter(int(canvas.uniform(12, 60)))
    centres = centres[:420]
    radii = np.clip(coarse * np.exp(canvas.rng.normal(0, spread, len(centres))), 1.8, 60)
    # Fines: small grains on and between the large ones.
    fines = int(canvas.uniform(20, 110))
    near = centres[canvas.rng.integers(0, len(centres), fines)]
    near = near + canvas.rng.normal(0, coarse, (fines, 2)).astype(np.float32)
    small = np.maximum(coarse * canvas.rng.uniform(0.1, 0.4, fines), 1.5)
    level = np.concatenate(
        [
            radii * 0.5 + canvas.rng.uniform(0, 2.0 * coarse, len(radii)),
            canvas.rng.uniform(0.3, 2.2, fines) * coarse,
        ]
    )
    if kind == "loose":
        level = np.concatenate([radii * 0.5, small * 0.5])
    radii = np.concatenate([radii, small]).astype(np.float32)
    outline, shape = _powder_outline(canvas)
    centres = np.concatenate([centres, near])
    return _heap(canvas, centres, radii, level, outline, shape, "grain", (0.4, 3, 6))


def _heap(canvas, centres, radii, level, outline, shape, feature, textures) -> Scene:
    ground = canvas.zeros()
    if canvas.chance(0.5):
        ground += canvas.noise(canvas.uniform(3, 60)) * np.float32(canvas.uniform(0.2, 0.8))
    height, ident = grains(canvas, centres, radii, level, outline, ground)
    visible = seen(ident, 8 * canvas.scale**2)
    if not len(visible):
        visible = seen(ident, 1)
    mask = ident >= 0
    material = canvas.zeros()
    material += np.where(mask, np.float32(canvas.uniform(-0.3, 0.8)), 0)
    scene = Scene(height, material, mask, feature, shape, count=len(visible))
    scene.sizes = 2 * radii[visible]
    scene.spacing, scene.order = neighbours(centres[visible])
    scene.aggregation = aggregation(centres[visible], radii[visible])
    if feature == "grain" and mask.mean() > 0.9:
        scene.aggregation = "clustered"
    second_phase(canvas, scene, ident, visible, 0.15)
    roughen(canvas, scene, mask, textures)
    return scene


def _particle_outline(canvas: Canvas) -> tuple[Outline, str]:
    shape = canvas.choice(
        ("spherical", "faceted", "ellipsoidal", "irregular", "plate-like"), (6, 3, 1.5, 0.7, 0.8)
    )
    if shape == "faceted":
        facets = int(canvas.rng.integers(4, 7))
        return Outline(lobes=canvas.choice((0.0, 0.1, 0.2)), facets=facets), shape
    if shape == "ellipsoidal":
        return Outline(aspect=canvas.uniform(1.4, 3.2), lobes=canvas.choice((0.0, 0.03))), shape
    if shape == "irregular":
        return Outline(lobes=canvas.uniform(0.1, 0.18)), shape
    if shape == "plate-like":
        return Outline(power=0.12, flatten=canvas.uniform(0.25, 0.6), lobes=0.02), shape
    return Outline(lobes=canvas.choice((0.0, 0.02, 0.05))), shape


def _powder_outline(canvas: Canvas) -> tuple[Outline, str]:
    shape = canvas.choice(("irregular", "faceted", "flake"), (5, 3, 1.5))
    if shape == "faceted":
        return Outline(
            lobes=canvas.uniform(0.3, 0.45), facets=int(canvas.rng.integers(5, 9))
        ), shape
    if shape == "flake":
        aspect = canvas.uniform(1.4, 2.2)
        return Outline(
            lobes=canvas.uniform(0.15, 0.25), power=0.15, flatten=0.4, aspect=aspect
        ), shape
    return Outline(
        lobes=canvas.uniform(0.15, 0.32),
        power=canvas.choice((0.5, canvas.uniform(0.35, 0.6)), (3, 1)),
    ), shape


def _lattice(canvas: Canvas, radius: float) -> np.ndarray:
    """A hexagonal monolayer with some disorder and gaps."""
    pitch = 2 * radius * canvas.uniform(1.0, 1.35)
    count = int(420 / pitch)
    i, j = np.meshgrid(np.arange(-count, count), np.arange(-count, count))
    x, y = pitch * (i + 0.5 * (j % 2)), pitch * j * math.sqrt(0.75)
    angle = canvas.uniform(0, math.pi)
    points = np.stack(
        [x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)], -1
    ).reshape(-1, 2) + np.array([canvas.width / 2, canvas.height / 2])
    margin = radius
    far = np.array([canvas.width, canvas.height]) + margin
    inside = (points > -margin).all(1) & (points < far).all(1)
    points = points[inside]
    points = points + canvas.rng.normal(0, canvas.choice((0.0, 0.04, 0.1)) * pitch, points.shape)
    # Random vacancies and, in half of the cases, a patchy layer with bare stripes.
    keep = canvas.rng.random(len(points)) > canvas.choice((0.0, 0.03, 0.15))
    if canvas.chance(0.5):
        u = points @ canvas.rng.normal(0, 1 / 60, 2)
        keep &= np.sin(u + canvas.uniform(0, 6)) > canvas.uniform(-0.9, 0.2)
    points = points[keep]
    if len(points) < 3:
        points = canvas.scatter(12)
    return points.astype(np.float32)


def _clusters(canvas: Canvas, radius: float, clusters: int, each: float) -> np.ndarray:
    """Clumps grown by adding grains next to earlier ones."""
    points = []
    for heart in canvas.scatter(clusters, -20):
        clump = [heart]
        for _ in range(max(1, int(each * canvas.uniform(0.5, 1.5)))):
            base = clump[int(canvas.rng.integers(max(0, len(clump) - 12), len(clump)))]
            angle = canvas.uniform(0, 2 * math.pi)
            step = radius * canvas.uniform(1.3, 2.0)
            clump.append(base + step * np.array([math.cos(angle), math.sin(angle)]))
        points += clump
    return np.array(points, np.float32)


def _apart(canvas: Canvas, points: np.ndarray, least: float) -> np.ndarray:
    """Drops most of the points that are too close to an earlier one."""
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    crowded = np.tril(distance < least, -1).any(1)
    keep = ~crowded | (canvas.rng.random(len(points)) < canvas.choice((0.0, 0.1, 0.4), (3, 2, 1)))
    return points[keep]

"""Biological samples: cells, bacteria, diatom shells, pollen, hyphae and leaves."""

import math

import numpy as np

from slava_jax.synthetic.scenes.geometry import Canvas, Outline, curves, grains, mosaic, tubes
from slava_jax.synthetic.scenes.measure import Scene, aggregation, axial, neighbours, roughen, seen


def biological(canvas: Canvas) -> Scene:
    """One of six kinds of sample."""
    draw = canvas.choice(
        (_cells, _rods, _diatoms, _hyphae, _tissue, _pollen), (3, 2, 3, 3, 2.5, 2.5)
    )
    return draw(canvas)


def _ground(canvas: Canvas) -> np.ndarray:
    """Draws the filter, glass or mucus under the sample."""
    style = canvas.choice(("glass", "mucus", "filter"), (3, 3, 1))
    if style == "glass":
        return canvas.noise(40) * np.float32(0.6)
    if style == "mucus":
        web = np.abs(canvas.fractal(canvas.uniform(14, 40), 3))
        return np.float32(canvas.uniform(0.5, 2)) * np.exp(-3 * web) + canvas.noise(12) * 0.3
    number = int(canvas.uniform(40, 120))
    holes, _ = grains(
        canvas,
        canvas.scatter(number),
        np.full(number, canvas.uniform(2, 4)),
        np.zeros(number),
        Outline(power=0.2, flatten=2),
        canvas.zeros(),
    )
    return -holes


def _body(canvas, height, ident, mask, feature, shape, radii, centres) -> Scene:
    visible = seen(ident, 10 * canvas.scale**2)
    if not len(visible):
        visible = seen(ident, 1)
    material = np.where(mask, np.float32(canvas.uniform(-0.2, 0.6)), 0).astype(np.float32)
    scene = Scene(height.astype(np.float32), material, mask, feature, shape, count=len(visible))
    scene.sizes = 2 * np.asarray(radii, float)[visible]
    scene.spacing, scene.order = neighbours(centres[visible])
    scene.aggregation = aggregation(centres[visible], np.asarray(radii)[visible])
    return scene


def _cells(canvas: Canvas) -> Scene:
    """Soft cells: spread flat with a nucleus, round with folds, or biconcave red blood cells."""
    kind = canvas.choice(("spread", "round", "red"), (3, 3, 2.5))
    radius = canvas.log_uniform(13, 55) if kind == "spread" else canvas.log_uniform(11, 42)
    number = int(np.clip(canvas.uniform(0.15, 0.9) * 256 * 233 / (math.pi * radius**2), 1, 70))
    centres = canvas.scatter(number, radius * 0.4)
    radii = (radius * np.exp(canvas.rng.normal(0, 0.16, number))).astype(np.float32)
    lobes = {"spread": 0.24, "round": 0.04, "red": 0.04}[kind]
    flat = {"spread": 0.25, "round": 0.8, "red": 0.3}[kind]
    power = {"spread": 0.8, "round": 0.5, "red": 0.3}[kind]
    outline = Outline(lobes=lobes, flatten=flat, power=power, aspect=canvas.uniform(1.0, 1.5))
    level = canvas.rng.uniform(0, 0.25 * radius, number)
    ground = _ground(canvas)
    height, ident = grains(canvas, centres, radii, level, outline, ground)
    mask = ident >= 0
    if kind == "red":  # a dimple in the middle
        dent, over = grains(
            canvas,
            centres,
            radii * 0.62,
            np.zeros(number),
            Outline(power=1.2, flatten=0.33),
            canvas.zeros(),
        )
        height -= np.where(mask & (over == ident), dent, 0)
    elif kind == "spread":
        height, _ = grains(
            canvas,
            centres,
            radii * canvas.uniform(0.3, 0.45),
            level + 0.10 * radius,
            Outline(flatten=canvas.uniform(0.4, 0.7), lobes=0.04),
            height,
        )
    folds = canvas.choice(("none", "wrinkles", "villi"), (2, 3, 2))
    if folds == "wrinkles":
        ridge = 1 - np.abs(canvas.fractal(canvas.uniform(4, 10), 2))
        height += np.where(mask, np.clip(ridge, 0, 1) * np.float32(canvas.uniform(0.6, 1.8)), 0)
    elif folds == "villi":
        bumps = np.maximum(canvas.noise(canvas.uniform(1.6, 2.8)), 0)
        height += np.where(mask, bumps * np.float32(canvas.uniform(0.5, 1.4)), 0)
    scene = _body(canvas, height, ident, mask, "cell", "rounded", radii, centres)
    scene.texture = {"none": "smooth", "wrinkles": "rough", "villi": "grainy"}[folds]
    if kind == "spread":
        scene.shape = "spread"
    elif kind == "red":
        scene.shape = "biconcave"
    return scene


def _rods(canvas: Canvas) -> Scene:
    """Bacteria: short capsules, curved or straight, some of them dividing."""
    radius = canvas.log_uniform(4, 13)
    length = radius * canvas.uniform(3.5, 8)
    number = int(np.clip(canvas.uniform(0.1, 0.7) * 256 * 233 / (2 * radius * length), 3, 90))
    heading = (
        canvas.uniform(0, 3.1) + canvas.choice((0.4, 10)) * canvas.rng.standard_normal(number)
    ).astype(np.float32)
    middle = canvas.scatter(number)
    start = middle - 0.5 * length * np.stack([np.cos(heading), np.sin(heading)], 1)
    path = curves(canvas, start, heading, length, canvas.choice((0.05, 0.2, 0.7)), 2)
    t = np.linspace(0, 1, path.shape[1], dtype=np.float32)
    cap = np.minimum(t, 1 - t) * length / radius
    profile = np.sqrt(np.clip(1 - (1 - np.clip(cap, 0.02, 1)) ** 2, 0.03, 1))
    dividing = canvas.rng.random(number) < canvas.uniform(0, 0.4)
    waist = 1 - 0.35 * dividing[:, None] * np.exp(-np.square((t - 0.5) / 0.05))[None]
    level = np.linspace(0, radius * canvas.uniform(0.5, 3), number)[:, None]
    radii = radius * np.exp(canvas.rng.normal(0, 0.06, number))
    painted = tubes(canvas, path, radii[:, None] * profile * waist, level + 0.6 * radius)
    height = painted.round_height(_ground(canvas))
    centres = path[:, path.shape[1] // 2]
    scene = _body(canvas, height, painted.ident, painted.mask, "cell", "rod-shaped", radii, centres)
    scene.kind = "width"
    visible = seen(painted.ident, 10 * canvas.scale**2)
    if len(visible):
        step = path[visible, -1] - path[visible, 0]
        scene.orientation, scene.alignment = axial(np.arctan2(step[:, 1], step[:, 0]))
    scene.defects["dividing cell"] = int(dividing[visible].sum())
    roughen(canvas, scene, painted.mask, (2, 3, 2))
    return scene


def _diatoms(canvas: Canvas) -> Scene:
    """Diatoms: silica shells with rows of pores, round with rays or long with ribs and a raphe."""
    number = int(canvas.choice((1, 2, 3, 5), (4, 2, 2, 1)))
    height = _ground(canvas)
    ident = np.full(height.shape, -1, np.int32)
    base = canvas.uniform(55, 125) / number**0.5
    centres, radii = canvas.scatter(number, -40), []
    for k in range(number):
        radius = base * canvas.uniform(0.8, 1.2)
        u, v = canvas.turned(canvas.uniform(0, 2 * math.pi), tuple(centres[k]))
        radii.append(radius)
        long = canvas.chance(0.55)
        aspect = canvas.uniform(2.2, 5) if long else canvas.uniform(1.0, 1.15)
        away = np.hypot(u, v * np.float32(aspect)) / np.float32(radius)
        if long and canvas.chance(0.4):  # pointed ends
            away = np.maximum(away, np.abs(v * aspect) / radius + 0.5 * np.abs(u / radius))
        shell = np.sqrt(np.clip(1 - away**2, 0, 1)) ** np.float32(canvas.uniform(0.3, 1.0))
        pitch = canvas.uniform(4, 9) * max(1.0, radius / 80)
        if long:
            ribs = np.cos(2 * math.pi / pitch * u)
            ribs = ribs * np.cos(2 * math.pi / (1.4 * pitch) * v) if canvas.chance(0.5) else ribs
            ribs = np.where(np.abs(v) < 1.5, 1.5, ribs)
        else:
            ring = np.hypot(u, v) / np.float32(pitch)
            rays = max(6, round(2 * math.pi * 0.6 * radius / pitch))
            spokes = np.cos(rays * np.arctan2(v, u))
            ribs = spokes * np.cos(2 * math.pi * ring) if canvas.chance(0.7) else spokes
        rise = shell * radius * canvas.uniform(0.15, 0.4) / aspect**0.5 + 4
        rise = rise + np.where(away < 0.9, ribs * np.float32(canvas.uniform(0.7, 1.6)), 1.5)
        shown = (away < 1) & (rise > height)
        height = np.where(shown, rise, height)
        ident[shown] = k
    radii = np.array(radii)
    scene = _body(canvas, height, ident, ident >= 0, "shell", "elliptical", radii, centres)
    scene.kind, scene.order = "length", "random"
    return scene


def _hyphae(canvas: Canvas) -> Scene:
    """Branching threads: hyphae that fork, or a neuron with its processes and varicosities."""
    neuron = canvas.chance(0.45)
    stems = int(canvas.rng.integers(3, 8)) if neuron else int(canvas.rng.integers(2, 7))
    width = canvas.log_uniform(1.8, 6.5)
    if neuron:
        soma = canvas.scatter(1, -60)[0]
        start = np.repeat(soma[None], stems, 0)
        heading = 2 * math.pi * (np.arange(stems) + canvas.rng.uniform(-0.3, 0.3, stems)) / stems
    else:
        start, heading = canvas.scatter(stems, 20), canvas.rng.uniform(0, 2 * math.pi, stems)
    length, bend = canvas.uniform(120, 260), canvas.uniform(0.25, 0.6)
    paths = [curves(canvas, start, heading, length, bend)]
    steps = paths[0].shape[1]
    fade = np.linspace(1, 0.45, steps, dtype=np.float32)
    sizes = [width * np.exp(canvas.rng.normal(0, 0.15, (stems, 1))) * fade]
    branches = 0
    for _ in range(2):
        parent, thick = paths[-1], sizes[-1]
        n = int(len(parent) * canvas.uniform(1.0, 2.5))
        who = canvas.rng.integers(0, len(parent), n)
        where = canvas.rng.integers(steps // 6, steps * 5 // 6, n)
        way = parent[who, where + 1] - parent[who, where - 1]
        turn = canvas.rng.choice([-1, 1], n) * canvas.rng.uniform(0.4, 1.1, n)
        child = curves(
            canvas, parent[who, where], np.arctan2(way[:, 1], way[:, 0]) + turn, length * 0.6, bend
        )
        stretch = np.linspace(0, child.shape[1] - 1, steps).astype(int)
        # Children have the same number of points as their parents, so all are painted at once.
        paths.append(child[:, stretch])
        sizes.append(0.75 * thick[who, where][:, None] * fade)
        branches += n
    path, size = np.concatenate(paths[::-1]), np.concatenate(sizes[::-1])
    if canvas.chance(0.5):
        beads = np.maximum(np.sin(np.linspace(0, canvas.uniform(40, 120), steps)), 0) ** 6
        size = size * (1 + np.float32(canvas.uniform(0.3, 0.9)) * beads.astype(np.float32))
    level = np.linspace(0, canvas.uniform(3, 14), len(path))[:, None]
    painted = tubes(canvas, path, np.maximum(size, 0.6), level)
    height = painted.round_height(_ground(canvas))
    mask = painted.mask
    if neuron:
        height, body = grains(
            canvas,
            soma[None],
            np.array([width * 4.5]),
            np.array([2.0]),
            Outline(lobes=0.16, flatten=0.5),
            height,
        )
        mask = mask | (body >= 0)
    feature = "neurite" if neuron else "hypha"
    centres = path[:, steps // 2]
    scene = _body(canvas, height, painted.ident, mask, feature, "branching", size.mean(1), centres)
    scene.spacing, scene.order, scene.aggregation = None, "random", "touching"
    scene.alignment = "random"
    scene.kind = "diameter"
    roughen(canvas, scene, mask, (3, 2, 2))
    return scene


def _tissue(canvas: Canvas) -> Scene:
    """Leaf epidermis or another sheet of cells: puzzle-shaped, bulging, with stomata."""
    pitch = canvas.log_uniform(22, 60)
    wave = canvas.uniform(0.05, 0.3) * pitch
    x = canvas.x + np.float32(wave) * canvas.noise(pitch * 0.35)
    y = canvas.y + np.float32(wave) * canvas.noise(pitch * 0.35)
    stretch = canvas.choice((1.0, 2.2), (2, 1))
    cells = mosaic(canvas.rng, x / stretch, y, pitch / stretch**0.5, 0.8)
    bulge = np.clip(cells.wall / np.float32(0.35 * pitch), 0, 1)
    height = np.sqrt(bulge) * pitch * canvas.uniform(0.12, 0.4)
    ridge = np.exp(-np.square(cells.wall / np.float32(canvas.uniform(0.8, 2.2))))
    height += ridge * canvas.uniform(-2, 3)
    stomata = int(canvas.rng.integers(0, 7))
    for at in canvas.scatter(stomata, -15):
        u, v = canvas.turned(canvas.uniform(0, math.pi), tuple(at))
        size = np.float32(0.28 * pitch)
        away = np.hypot(u / 1.6, v) / size
        lips = np.exp(-np.square((away - 0.62) / 0.22)) * size * 0.7
        slit = 0.8 * size * np.exp(-np.square(v / (0.12 * size)) - np.square(u / (0.9 * size)))
        height = np.where(away < 1.1, 0.4 * height + lips - slit, height)
    area = np.bincount(cells.ident.ravel(), minlength=len(cells.seeds)) / canvas.scale**2
    inside = np.flatnonzero(area > 0.3 * pitch**2)
    scene = Scene(height.astype(np.float32), canvas.zeros(), cells.wall > 1.5, "cell", "polygonal")
    scene.count = len(inside)
    scene.kind = "equivalent diameter"
    scene.sizes = np.sqrt(area[inside] * 4 / math.pi)
    scene.spacing, scene.order = neighbours(cells.seeds[inside] * [stretch, 1])
    scene.aggregation = "continuous"
    if stomata:
        scene.defects["stoma"] = stomata
    roughen(canvas, scene, scene.mask, (3, 2, 2))
    return scene


def _pollen(canvas: Canvas) -> Scene:
    """Pollen grains: spheres with spines, nets or furrows."""
    radius = canvas.log_uniform(17, 85)
    number = int(np.clip(canvas.uniform(0.25, 0.8) * 256 * 233 / (math.pi * radius**2), 1, 26))
    centres = canvas.scatter(number, -10)
    radii = (radius * np.exp(canvas.rng.normal(0, 0.08, number))).astype(np.float32)
    outline = Outline(aspect=canvas.uniform(1.0, 1.5))
    height, ident = grains(canvas, centres, radii, radii * 0.6, outline, _ground(canvas))
    mask = ident >= 0
    pitch = np.clip(radius * canvas.uniform(0.16, 0.35), 4.5, 16)
    cells = mosaic(canvas.rng, canvas.x, canvas.y, float(pitch), 0.6)
    style = canvas.choice(("spines", "net", "furrow"), (4, 3, 2))
    if style == "spines":
        sharp = np.maximum(1 - cells.nearest / np.float32(0.42 * pitch), 0)
        relief = sharp * np.float32(canvas.uniform(0.5, 1.0) * pitch)
    elif style == "net":
        relief = np.exp(-np.square(cells.wall / np.float32(0.12 * pitch))) * np.float32(
            0.35 * pitch
        )
    else:
        who = np.maximum(ident, 0)
        way = canvas.uniform(0, math.pi)
        across = (canvas.x - centres[who, 0]) * math.sin(way) - (
            canvas.y - centres[who, 1]
        ) * math.cos(way)
        relief = -np.exp(-np.square(across / (0.1 * radius))) * np.float32(0.25 * radius)
        relief = relief + canvas.noise(2.5) * np.float32(0.4)
    height = height + np.where(mask, relief, 0)
    scene = _body(canvas, height, ident, mask, "pollen grain", "spherical", radii, centres)
    scene.texture = "grainy" if style == "furrow" else "rough"
    return scene

"""Fibres, nanowires and tips: everything long and round."""

import math

import numpy as np

from slava_jax.synthetic.scenes.geometry import Canvas, Outline, arc_steps, curves, grains, tubes
from slava_jax.synthetic.scenes.measure import Scene, axial, neighbours, roughen, seen


def fibres(canvas: Canvas) -> Scene:
    """Long flexible threads across the picture: a mat, a yarn, or a few thick ones."""
    kind = canvas.choice(("mat", "yarn", "few", "weave"), (5, 2.5, 2.5, 1))
    if kind == "mat":
        number, radius = int(canvas.uniform(18, 46)), canvas.log_uniform(2.8, 7)
        heading = _headings(canvas, number, canvas.choice((0.15, 0.6, 10.0), (1, 2, 4)))
        bend = canvas.log_uniform(0.2, 0.8)
    elif kind == "yarn":
        number, radius = int(canvas.uniform(14, 30)), canvas.uniform(5, 12)
        heading, bend = _headings(canvas, number, 0.06), canvas.uniform(0.03, 0.15)
    elif kind == "few":
        number, radius = int(canvas.uniform(2, 9)), canvas.log_uniform(8, 26)
        heading, bend = (
            _headings(canvas, number, canvas.choice((0.3, 10.0))),
            canvas.uniform(0.05, 0.4),
        )
    else:
        number, radius = int(canvas.uniform(18, 36)), canvas.uniform(5, 9)
        heading = _headings(canvas, number, 0.03) + (np.arange(number) % 2) * (math.pi / 2)
        bend = canvas.uniform(0.02, 0.08)
    radii = radius * np.exp(canvas.rng.normal(0, canvas.choice((0.06, 0.2, 0.35)), number))
    length = 420.0
    middle = canvas.scatter(number, 10)
    start = middle - 0.5 * length * np.stack([np.cos(heading), np.sin(heading)], 1)
    path = curves(canvas, start, heading, length, bend)
    if kind == "few" and canvas.chance(0.35):  # broken ends
        path = path[:, : path.shape[1] * 3 // 5]
    ripple = _ripple(canvas, path.shape[1])
    level = np.linspace(0, canvas.uniform(25, 90), number)[:, None]
    painted = tubes(canvas, path, radii[:, None] * ripple, level)
    ground = canvas.noise(canvas.uniform(5, 40)) - np.float32(canvas.uniform(5, 30))
    scene = _threads(canvas, painted, path, radii, ground, "fibre", canvas.uniform(0.7, 1.0))
    _striate(canvas, scene, painted)
    if kind == "mat" and canvas.chance(0.2):
        _beads(canvas, scene, path, radii, level)
    roughen(canvas, scene, painted.mask, (4, 2, 2))
    return scene


def _striate(canvas: Canvas, scene: Scene, painted) -> None:
    """Adds fine grooves along the fibre, or scales around it as on wool."""
    style = canvas.choice(("plain", "grooves", "scales"), (3, 2, 1))
    if style == "grooves":
        wave = np.sin(painted.across * np.float32(canvas.uniform(6, 16)) + painted.ident)
        scene.height += np.where(painted.mask, 0.05 * painted.radius * wave, 0)
    elif style == "scales":
        pitch = canvas.uniform(15, 45)
        wave = (painted.along * pitch + 0.15 * np.sin(4 * painted.across + painted.ident)) % 1
        scene.height += np.where(painted.mask, 0.15 * painted.radius * wave, 0)


def _beads(canvas: Canvas, scene: Scene, path, radii, level) -> None:
    n = int(canvas.rng.integers(4, 16))
    which = canvas.rng.integers(0, len(radii), n)
    at = canvas.rng.integers(path.shape[1] // 4, 3 * path.shape[1] // 4, n)
    size = (radii[which] * canvas.rng.uniform(1.6, 3.0, n)).astype(np.float32)
    outline = Outline(aspect=1.6)
    scene.height, ident = grains(
        canvas, path[which, at], size, level[which, 0], outline, scene.height
    )
    scene.mask |= ident >= 0
    beads = seen(ident, 8 * canvas.scale**2)
    scene.defects["bead"] = len(beads)


def _headings(canvas: Canvas, number: int, spread: float) -> np.ndarray:
    mean = canvas.uniform(0, math.pi)
    return (mean + spread * canvas.rng.standard_normal(number)).astype(np.float32)


def _ripple(canvas: Canvas, steps: int) -> np.ndarray:
    t = np.linspace(0, 1, steps, dtype=np.float32)
    strength = canvas.choice((0.0, 0.06, 0.18), (3, 2, 1))
    wave = np.sin(canvas.uniform(8, 40) * t) + np.sin(canvas.uniform(8, 40) * t + 1)
    return 1 + np.float32(0.5 * strength) * wave


def _threads(canvas, painted, path, radii, ground, feature, flatness) -> Scene:
    """Returns the scene of the painted tubes; only visible tubes are measured."""
    height = painted.round_height(ground, flatness)
    visible = seen(painted.ident, 25 * canvas.scale**2)
    if not len(visible):
        visible = seen(painted.ident, 1)
    material = np.where(painted.mask, np.float32(canvas.uniform(-0.2, 0.9)), 0).astype(np.float32)
    scene = Scene(height, material, painted.mask, feature, "cylindrical", count=len(visible))
    scene.sizes = 2 * np.asarray(radii, float)[visible]
    # Measure the orientation on the parts inside the frame.
    x, y = path[visible, :, 0], path[visible, :, 1]
    inside = (x > 0) & (x < canvas.width) & (y > 0) & (y < canvas.height)
    step = np.gradient(path[visible], axis=1)
    if inside.any():
        angles = np.arctan2(step[..., 1], step[..., 0])[inside]
        scene.orientation, scene.alignment = axial(angles)
    scene.order = {"aligned": "ordered", "partly aligned": "partly ordered"}.get(
        scene.alignment, "random"
    )
    if len(visible) < 2:
        scene.order = "random"
    cover = painted.mask.mean()
    crossing = len(visible) > 1 and cover > 0.08
    scene.aggregation = "clustered" if cover > 0.6 else "touching" if crossing else "isolated"
    return scene


def nanowires(canvas: Canvas) -> Scene:
    """Thin stiff wires: lying at random, standing in a forest, or radiating from a root."""
    kind = canvas.choice(("network", "forest", "urchin", "sparse"), (4, 4, 2.5, 2))
    if kind == "forest":
        return _forest(canvas)
    radius = canvas.log_uniform(0.9, 2.6)
    if kind == "network":
        number = int(canvas.uniform(25, 110) * min(1.0, 2.4 / radius))
        length = canvas.uniform(70, 340)
        heading = _headings(canvas, number, canvas.choice((0.25, 0.7, 10.0), (1, 2, 5)))
        middle = canvas.scatter(number, 20)
    elif kind == "sparse":
        number, length = int(canvas.uniform(3, 16)), canvas.uniform(50, 260)
        radius = canvas.log_uniform(1.2, 3.4)
        heading = _headings(canvas, number, canvas.choice((0.3, 10.0)))
        middle = canvas.scatter(number)
    else:
        roots = canvas.scatter(int(canvas.rng.integers(1, 4)), -30)
        number, length = int(canvas.uniform(45, 110)), canvas.uniform(50, 150)
        heading = canvas.rng.uniform(0, 2 * math.pi, number).astype(np.float32)
        way = np.stack([np.cos(heading), np.sin(heading)], 1)
        middle = roots[canvas.rng.integers(0, len(roots), number)] + way * (0.45 * length)
    bend = canvas.choice((0.0, 0.02, 0.06, 0.2), (4, 3, 2, 0.6))
    radii = np.maximum(radius * np.exp(canvas.rng.normal(0, 0.22, number)), 0.7)
    start = middle - 0.5 * length * np.stack([np.cos(heading), np.sin(heading)], 1)
    path = curves(canvas, start, heading, length, bend, 2)
    taper = np.ones(path.shape[1], np.float32)
    if canvas.chance(0.4):
        taper = np.linspace(1.2, canvas.uniform(0.3, 0.8), path.shape[1], dtype=np.float32)
    tilt = canvas.rng.uniform(-12, 12, (number, 1)) * np.linspace(-1, 1, path.shape[1])
    level = np.linspace(0, canvas.uniform(10, 60), number)[:, None] + tilt
    painted = tubes(canvas, path, radii[:, None] * taper, level)
    ground = canvas.noise(canvas.uniform(3, 50)) * np.float32(canvas.uniform(0.3, 1.5))
    ground -= np.float32(canvas.uniform(3, 25))
    scene = _threads(canvas, painted, path, radii * taper.mean(), ground, "wire", 1.0)
    if canvas.chance(0.35):
        _droplets(canvas, scene, path[:, -1], radii * 1.5, level[:, -1])
    roughen(canvas, scene, ~painted.mask, (4, 3, 1))
    return scene


def _droplets(canvas, scene: Scene, ends, size, level) -> None:
    """Adds bright catalyst droplets at the ends of the wires."""
    size = np.asarray(size, np.float32)
    scene.height, ident = grains(canvas, ends, size, level + size, Outline(), scene.height)
    if len(seen(ident, 3)) == 0:
        return
    scene.material += np.where(ident >= 0, np.float32(canvas.uniform(0.4, 1.0)), 0)
    scene.mask = scene.mask | (ident >= 0)
    scene.composition = "bright second phase"


def _forest(canvas: Canvas) -> Scene:
    """Standing wires seen from the side or from above at a tilt, the near ones in front."""
    radius = canvas.log_uniform(1.1, 3.2)
    length = canvas.uniform(30, 170)
    number = int(min(260, canvas.uniform(0.25, 1.1) * 256 * 233 / (length * 2 * radius) * 1.6))
    root = canvas.scatter(number, 0.3 * length)
    root[:, 1] += 0.5 * length
    if canvas.chance(0.3):  # a grown array
        pitch = max(5 * radius, math.sqrt(256 * 233 / number))
        i, j = np.meshgrid(np.arange(0, 300, pitch), np.arange(0, 260 + length, pitch * 0.6))
        root = np.stack([i + (j / pitch / 0.6 % 2) * pitch / 2, j], -1).reshape(-1, 2)[:260]
        root = (root + canvas.rng.normal(0, 0.04 * pitch, root.shape)).astype(np.float32)
    root = root[np.argsort(root[:, 1])]
    number = len(root)
    lean = canvas.uniform(-0.4, 0.4)
    spread = canvas.choice((0.02, 0.1, 0.3))
    heading = (-math.pi / 2 + lean + spread * canvas.rng.standard_normal(number)).astype(np.float32)
    path = curves(canvas, root, heading, length, canvas.choice((0.0, 0.04, 0.12)), 2)
    radii = np.maximum(radius * np.exp(canvas.rng.normal(0, 0.18, number)), 0.8)
    taper = np.linspace(1.1, canvas.choice((0.3, 0.7, 1.0)), path.shape[1], dtype=np.float32)
    near = np.linspace(0, 40, number)[:, None]
    level = near + np.linspace(-25, 25, path.shape[1])[None, :]
    painted = tubes(canvas, path, radii[:, None] * taper, level)
    ground = np.float32(-30) + canvas.noise(8) + 0.1 * canvas.y
    scene = _threads(
        canvas, painted, path, radii * taper.mean(), ground.astype(np.float32), "wire", 1
    )
    scene.spacing, scene.order = neighbours(root[seen(painted.ident, 25 * canvas.scale**2)])
    if canvas.chance(0.4):
        _droplets(canvas, scene, path[:, -1], radii * canvas.uniform(1.1, 1.7), level[:, -1])
    return scene


def tips(canvas: Canvas) -> Scene:
    """Sharp points: one etched needle, a probe on its cantilever, or an array of emitters."""
    kind = canvas.choice(("needle", "probe", "array", "side"), (4, 3, 3, 2))
    if kind == "probe":
        return _probe(canvas)
    if kind == "array":
        return _emitters(canvas)
    apex = np.array([[canvas.uniform(70, 186), canvas.uniform(30, 130)]], np.float32)
    if kind == "side":
        heading = np.array([canvas.choice((0.0, math.pi)) + canvas.uniform(-0.4, 0.4)], np.float32)
    else:
        heading = np.array([math.pi / 2 + canvas.uniform(-0.7, 0.7)], np.float32)
    length = 340.0
    path = curves(canvas, apex, heading, length, canvas.choice((0.0, 0.03, 0.08)), 1)
    t = np.linspace(0, 1, path.shape[1], dtype=np.float32)
    blunt, base = canvas.log_uniform(0.8, 7), canvas.log_uniform(9, 80)
    power = canvas.uniform(0.5, 1.8)  # from a parabola to a concave etched neck
    radius = np.minimum(blunt + base * (t * 2.0) ** power, base * canvas.uniform(0.9, 2.2))
    radius *= np.sqrt(np.clip(t * length / (1.2 * blunt), 0.02, 1))  # a round end
    painted = tubes(canvas, path, radius[None], np.zeros((1, 1), np.float32))
    depth = canvas.uniform(30, 120)
    ground = canvas.noise(canvas.uniform(10, 80)) * np.float32(canvas.uniform(0.2, 3)) - depth
    scene = _threads(
        canvas, painted, path, np.array([2 * blunt]), ground.astype(np.float32), "tip", 1
    )
    scene.shape, scene.aggregation, scene.kind = "conical", "isolated", "apex diameter"
    scene.sizes = np.array([2 * blunt])
    if canvas.chance(0.4):
        ring = np.sin(painted.along * np.float32(canvas.uniform(60, 250)))
        scene.height += np.where(painted.mask, np.float32(0.02) * painted.radius * ring, 0)
    roughen(canvas, scene, painted.mask, (3, 2, 2))
    return scene


def _probe(canvas: Canvas) -> Scene:
    """A pyramid at the end of a cantilever, seen from above at a random rotation."""
    angle = canvas.uniform(0, 2 * math.pi)
    where = (canvas.uniform(90, 166), canvas.uniform(80, 150))
    u, v = canvas.turned(angle, where)
    half = canvas.uniform(35, 110)
    nose = half * canvas.uniform(0.2, 1.0)
    beam = np.minimum(
        half - np.abs(v), (nose + half - u) - np.abs(v) * canvas.choice((0.0, 0.5, 1.0))
    )
    on = beam > 0
    height = np.where(on, 0, np.float32(-canvas.uniform(20, 80))).astype(np.float32)
    height += canvas.noise(20) * 0.2
    size = half * canvas.uniform(0.3, 0.75)
    tall = size * canvas.uniform(0.7, 2.0)
    sides = canvas.choice((3, 4, 4, 0))
    turn = canvas.uniform(0, 0.4)
    slant = canvas.uniform(-0.45, 0.45)  # offset of the apex in a tilted view
    if sides:
        corner = np.full(height.shape, -1e3, np.float32)
        for k in range(sides):
            theta = turn + 2 * math.pi * k / sides
            away = 1 + slant * math.cos(theta)
            np.maximum(
                corner, (u * math.cos(theta) + v * math.sin(theta)) / np.float32(away), out=corner
            )
    else:
        corner = np.hypot(u - slant * 0.3 * size, v)
    pyramid = tall * np.maximum(1 - corner / np.float32(size), 0) ** np.float32(
        canvas.uniform(0.8, 1.5)
    )
    blunt = canvas.uniform(1.0, 4.0)
    height += np.where(on, np.minimum(pyramid, tall - blunt), 0)
    mask = on & (corner < size)
    material = np.where(on, np.float32(canvas.uniform(-0.2, 0.5)), 0).astype(np.float32)
    scene = Scene(height.astype(np.float32), material, mask, "tip", "conical", count=1)
    scene.shape = "pyramidal" if sides else "conical"
    scene.kind, scene.sizes = "base width", np.array([2 * size])
    roughen(canvas, scene, on, (4, 2, 1))
    return scene


def _emitters(canvas: Canvas) -> Scene:
    """Cones standing on a substrate in rows or at random, seen at a tilt."""
    number = int(canvas.uniform(2, 26))
    length = canvas.uniform(0.6, 1.5) * 230 / math.sqrt(number + 1)
    if canvas.chance(0.6):
        across = max(1, round(math.sqrt(number * 1.2)))
        pitch = 256 / across
        i, j = np.meshgrid(np.arange(-1, across + 2), np.arange(0, across + 3))
        root = np.stack([pitch * (i + 0.5 * (j % 2)), pitch * (j + 0.7) * 0.8], -1).reshape(-1, 2)
        root = root + canvas.rng.normal(0, canvas.choice((0.0, 0.05)) * pitch, root.shape)
    else:
        root = canvas.scatter(number) + np.array([0, 0.3 * length])
    root = root[np.argsort(root[:, 1])].astype(np.float32)
    heading = np.full(len(root), -math.pi / 2 + canvas.uniform(-0.25, 0.25), np.float32)
    heading += canvas.choice((0.0, 0.06)) * canvas.rng.standard_normal(len(root)).astype(np.float32)
    path = curves(canvas, root, heading, length, 0.0, 1)
    t = np.linspace(0, 1, arc_steps(canvas, length), dtype=np.float32)
    blunt = canvas.uniform(0.6, 2.5)
    base = length * canvas.uniform(0.12, 0.4)
    radius = blunt + base * (1 - t) ** canvas.uniform(0.8, 2.2)
    scatter = np.exp(canvas.rng.normal(0, 0.12, len(root)))[:, None]
    level = np.linspace(0, 40, len(root))[:, None] + np.linspace(-10, 25, len(t))[None]
    painted = tubes(canvas, path, (radius[None] * scatter), level)
    ground = (canvas.noise(canvas.uniform(5, 40)) - 14 + 0.12 * canvas.y).astype(np.float32)
    scene = _threads(canvas, painted, path, blunt * scatter[:, 0], ground, "tip", 1.0)
    scene.shape, scene.kind = "conical", "apex diameter"
    visible = seen(painted.ident, 25 * canvas.scale**2)
    scene.spacing, scene.order = neighbours(root[visible])
    scene.aggregation = "isolated" if painted.mask.mean() < 0.4 else "touching"
    return scene

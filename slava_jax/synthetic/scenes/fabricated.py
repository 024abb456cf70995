"""Patterned surfaces: a unit repeated over the picture by lithography or growth."""

import math

import numpy as np
from scipy import ndimage

from slava_jax.synthetic.scenes.geometry import Canvas
from slava_jax.synthetic.scenes.measure import Scene, roughen, seen


def patterned(canvas: Canvas) -> Scene:
    """A unit repeated over the picture: lines, dots, holes, checks or a grid."""
    kind = canvas.choice(("lines", "dots", "grid", "checks"), (4, 6, 1.5, 1.5))
    angle = canvas.choice((0.0, math.pi / 2, canvas.uniform(0, math.pi)), (2, 1, 4))
    scene = {"lines": _lines, "dots": _dots, "grid": _grid, "checks": _checks}[kind](canvas, angle)
    scene.height += canvas.noise(canvas.uniform(20, 80)) * np.float32(canvas.uniform(0, 0.8))
    roughen(canvas, scene, scene.mask, (4, 2, 1))
    if scene.count is not None and scene.count > 3:
        scene.aggregation = "continuous" if scene.feature == "line" else "isolated"
    return scene


def _profile(canvas: Canvas, inside: np.ndarray, pitch: float) -> np.ndarray:
    """Returns the height at a distance inside an edge (units); walls may slope, or be etched."""
    wall = canvas.log_uniform(0.02, 0.25) * pitch
    tall = canvas.uniform(0.15, 0.5) * pitch * canvas.choice((1, -1), (3, 2))
    return np.clip(inside / np.float32(wall), 0, 1) * np.float32(min(max(tall, -14), 14))


def _squash(canvas: Canvas) -> float:
    """Draws the vertical foreshortening of a tilted stage."""
    return canvas.choice((1.0, canvas.uniform(1.1, 1.9)), (3, 2))


def _turned(canvas: Canvas, angle: float):
    squash = np.float32(_squash(canvas))
    x, y = canvas.x - 128, (canvas.y - np.float32(canvas.height / 2)) * squash
    wobble = np.float32(canvas.choice((0.0, 0.3, 0.8), (4, 2, 1)))
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    u, v = x * c + y * s, y * c - x * s
    if wobble:
        u, v = u + wobble * canvas.noise(6), v + wobble * canvas.noise(6)
    return u, v, float(squash)


def _degrees(angle: float, squash: float = 1.0) -> float:
    seen = math.atan2(-math.sin(angle) / squash, math.cos(angle))
    return round(math.degrees(seen) % 180, 1) % 180


def _lines(canvas: Canvas, angle: float) -> Scene:
    pitch = canvas.log_uniform(6, 50)
    u, v, squash = _turned(canvas, angle)
    phase = u / np.float32(pitch) + np.float32(canvas.uniform(0, 1))
    index = np.floor(phase).astype(np.int32)
    index -= index.min()
    duty = canvas.uniform(0.3, 0.7)
    inside = (0.5 * duty - np.abs(phase - np.floor(phase) - np.float32(0.5))) * np.float32(pitch)
    broken = 0
    if canvas.chance(0.3):  # gaps in some lines
        gap = np.zeros(int(index.max()) + 1, bool)
        gap[canvas.rng.integers(0, len(gap), int(canvas.rng.integers(1, 4)))] = True
        place = canvas.uniform(-60, 60)
        cut = gap[index] & (np.abs(v - place) < canvas.uniform(4, 25)) & (inside > 0)
        broken = len(np.unique(index[cut]))
        inside = np.where(cut, -1, inside)
    mask = inside > 0
    number = np.bincount(index[mask])
    count = int((number > 12 * canvas.scale**2).sum())
    scene = Scene(_profile(canvas, inside, pitch), canvas.zeros(), mask, "line", "rectangular")
    scene.count, scene.kind, scene.spacing = count, "width", pitch
    scene.sizes = np.full(max(count, 1), duty * pitch)
    scene.order, scene.alignment = "ordered", "aligned"
    # Lines run along v.
    dx, dy = -math.sin(angle), math.cos(angle) / squash
    scene.orientation = round(math.degrees(math.atan2(-dy, dx)) % 180, 1) % 180
    scene.defects["broken line"] = broken
    _tone(canvas, scene)
    return scene


def _tone(canvas: Canvas, scene: Scene) -> None:
    if canvas.chance(0.6):
        scene.material += np.where(scene.mask, np.float32(canvas.uniform(-0.7, 0.9)), 0)


def _dots(canvas: Canvas, angle: float) -> Scene:
    """Dots, pillars or holes on a square or hexagonal lattice, with slight displacements."""
    pitch = canvas.log_uniform(11, 52)
    u, v, squash = _turned(canvas, angle)
    hexagonal = canvas.chance(0.5)
    row = np.float32(pitch * (math.sqrt(0.75) if hexagonal else 1.0))
    q, p = v / row, u / np.float32(pitch)
    j = np.floor(q).astype(np.int32)
    shift = (j % 2) * np.float32(0.5) if hexagonal else np.float32(0)
    i = np.floor(p + shift).astype(np.int32)
    i0, j0 = i.min(), j.min()
    wide = int(i.max() - i0) + 1
    ident = (j - j0) * wide + (i - i0)
    cells = wide * (int(j.max() - j0) + 1)
    jitter = canvas.choice((0.0, 0.025, 0.06), (4, 2, 1))
    off = (jitter * canvas.rng.standard_normal((2, cells))).astype(np.float32)
    du = (p + shift - i - np.float32(0.5) - off[0][ident]) * np.float32(pitch)
    dv = (q - j - np.float32(0.5)) * row - off[1][ident] * row
    fill = canvas.uniform(0.22, 0.42)
    varied = canvas.rng.normal(1, canvas.choice((0.01, 0.05)), cells).astype(np.float32)
    radius = (np.float32(fill * pitch) * varied)[ident]
    shape = canvas.choice(("round", "square", "rectangular", "triangular"), (5, 2.5, 1, 1))
    if shape == "round":
        inside = radius - np.hypot(du, dv)
    elif shape == "square":
        inside = radius * np.float32(0.9) - np.maximum(np.abs(du), np.abs(dv))
    elif shape == "rectangular":
        inside = radius - np.maximum(np.abs(du), np.abs(dv) * np.float32(1.8))
    else:
        side = np.maximum(np.abs(du) * np.float32(0.866) + dv * np.float32(0.5), -dv)
        inside = radius * np.float32(0.55) - side
    lost = canvas.rng.random(cells) < canvas.choice((0.0, 0.015, 0.06), (5, 2, 1))
    inside = np.where(lost[ident], np.float32(-1), inside)
    here = (
        np.bincount(ident.ravel(), minlength=cells) / canvas.scale**2 > 0.7 * pitch * float(row) / 2
    )
    mask = inside > 0
    shown = np.bincount(ident[mask], minlength=cells) > 4 * canvas.scale**2
    feature = canvas.choice(("dot", "hole", "pillar"), (3, 3, 2))
    height = np.abs(_profile(canvas, inside, pitch))
    if feature == "hole":
        height = -height
    elif feature == "pillar" and canvas.chance(0.6):  # domes or cones
        dome = np.clip(inside / radius, 0, 1) ** np.float32(canvas.uniform(0.4, 1.0))
        height = dome * np.float32(min(0.6 * pitch, 16))
    scene = Scene(height, canvas.zeros(), mask, feature, shape, count=int(shown.sum()))
    scene.kind = "diameter" if shape == "round" else "width"
    scene.sizes = 2 * fill * pitch * varied[shown].astype(float)
    scene.spacing, scene.order = pitch, "ordered" if jitter < 0.05 else "partly ordered"
    scene.orientation, scene.alignment = _degrees(angle, squash), "aligned"
    scene.defects[f"missing {feature}"] = int((lost & here).sum())
    _tone(canvas, scene)
    return scene


def _grid(canvas: Canvas, angle: float) -> Scene:
    pitch = canvas.log_uniform(12, 50)
    u, v, squash = _turned(canvas, angle)
    duty = canvas.uniform(0.12, 0.35)
    a = np.abs((u / np.float32(pitch)) % 1 - np.float32(0.5))
    b = np.abs((v / np.float32(pitch)) % 1 - np.float32(0.5))
    inside = (np.float32(duty / 2) - np.minimum(a, b)) * np.float32(pitch)
    mask = inside > 0
    scene = Scene(_profile(canvas, inside, pitch), canvas.zeros(), mask, "grid line", "rectangular")
    scene.count = sum(_lines_seen(canvas, w[mask] / pitch) for w in (u, v))
    scene.kind, scene.sizes = "width", np.array([duty * pitch])
    scene.spacing, scene.order = pitch, "ordered"
    scene.orientation, scene.alignment = _degrees(angle, squash), "aligned"
    _tone(canvas, scene)
    return scene


def _lines_seen(canvas: Canvas, phase: np.ndarray) -> int:
    """Counts the visible lines (at half-integer phases) from the phases of pixels on lines."""
    near = np.abs(phase % 1 - 0.5) < 0.06
    index = np.floor(phase[near]).astype(int)
    # Lines that only touch a corner of the frame are not counted.
    return len(seen(index - index.min(), 20 * canvas.scale**2)) if len(index) else 0


def _checks(canvas: Canvas, angle: float) -> Scene:
    pitch = canvas.log_uniform(16, 64)
    u, v, squash = _turned(canvas, angle)
    a = np.sin(2 * math.pi / pitch * u)
    b = np.sin(2 * math.pi / pitch * v)
    wave = a * b if canvas.chance(0.6) else a + b
    inside = (wave - np.float32(canvas.uniform(-0.15, 0.25))) * np.float32(pitch / 6)
    mask = inside > 0
    scene = Scene(_profile(canvas, inside, pitch), canvas.zeros(), mask, "check", "square")
    labels, _ = ndimage.label(mask)
    scene.count = len(seen(labels - 1, 0.1 * canvas.scale**2 * pitch**2 / squash))
    scene.kind, scene.sizes = "width", np.array([pitch / 2])
    scene.spacing, scene.order = pitch * math.sqrt(0.5), "ordered"
    scene.orientation, scene.alignment = _degrees(angle, squash), "aligned"
    _tone(canvas, scene)
    return scene

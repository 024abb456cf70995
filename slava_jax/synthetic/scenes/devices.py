"""Micro-electromechanical devices and electrodes: layouts drawn as polygons, then given relief."""

import itertools
import math

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from slava_jax.synthetic.scenes.geometry import Canvas
from slava_jax.synthetic.scenes.measure import Scene, roughen


class Plan:
    """A layout drawn as polygons at the frame's resolution; stores the top level per pixel."""

    def __init__(self, canvas: Canvas):
        self.canvas = canvas
        self.size = (canvas.columns, canvas.rows)
        self.image = Image.new("L", self.size)
        self.pen = ImageDraw.Draw(self.image)
        self.angle = canvas.choice(
            (0.0, canvas.uniform(-0.12, 0.12), canvas.uniform(0, 6.3)), (2, 3, 2)
        )
        self.squash = 1 / canvas.choice((1.0, canvas.uniform(1.1, 1.6)), (3, 1))
        self.zoom = canvas.uniform(0.75, 1.6)
        self.marks: list[tuple[float, float, float]] = []

    def place(self, points) -> list[tuple[float, float]]:
        """Converts plan coordinates (units, origin in the centre) to pixels."""
        p = np.asarray(points, float) * self.zoom
        c, s = math.cos(self.angle), math.sin(self.angle)
        x = p[:, 0] * c - p[:, 1] * s + 128
        y = (p[:, 0] * s + p[:, 1] * c) * self.squash + self.canvas.height / 2
        return [tuple(q) for q in np.stack([x, y], 1) * self.canvas.scale]

    def mark(self, x: float, y: float, width: float) -> None:
        """Records a countable feature by its centre and width."""
        self.marks.append((x, y, width))

    def counted(self) -> np.ndarray:
        """Returns float[n], the widths (units) of marked features whose centre is in the frame."""
        marks = np.array(self.marks)
        at = np.array(self.place(marks[:, :2]))
        shown = ((at > 0) & (at < self.size)).all(1)
        return marks[shown if shown.any() else slice(None), 2] * self.zoom

    def polygon(self, points, level: int) -> None:
        self.pen.polygon(self.place(points), fill=level)

    def box(self, x0, y0, x1, y1, level: int) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], level)

    def disc(self, x, y, r, level: int) -> None:
        t = np.linspace(0, 2 * math.pi, 32, endpoint=False)
        self.polygon(np.stack([x + r * np.cos(t), y + r * np.sin(t)], 1), level)

    def strip(self, points, width: float, level: int) -> None:
        """Draws a trace of this width along a polyline, with square corners."""
        p = np.asarray(points, float)
        for a, b in itertools.pairwise(p):
            d = (b - a) / max(np.hypot(*(b - a)), 1e-6) * width / 2
            n = np.array([-d[1], d[0]])
            self.polygon([a - d + n, b + d + n, b + d - n, a - d - n], level)


def mems(canvas: Canvas) -> Scene:
    """A device: comb drive, electrodes, cantilevers, a gear, a spring or fanned-out pads."""
    plan = Plan(canvas)
    draw = canvas.choice(
        (_comb, _electrodes, _cantilevers, _gear, _spring, _pads), (3, 3, 2.5, 1.5, 2, 3)
    )
    feature, shape, spacing = draw(canvas, plan)
    widths = plan.counted()
    level = np.asarray(plan.image, np.float32)
    top = np.asarray(plan.image) > 0
    tall = canvas.uniform(3, 12)
    height = level * np.float32(tall / 2)
    if canvas.chance(0.5):  # sloping walls
        height = ndimage.uniform_filter(
            height, 2 * round(canvas.uniform(0.6, 2.0) * canvas.scale) + 1
        )
    height += canvas.noise(canvas.uniform(10, 60)) * np.float32(canvas.uniform(0.05, 0.4))
    material = np.where(top, np.float32(canvas.uniform(-0.5, 0.9)), 0).astype(np.float32)
    material += np.where(level > 1, np.float32(canvas.uniform(-0.4, 0.4)), 0)
    scene = Scene(height, material, top, feature, shape, count=len(widths))
    scene.kind, scene.sizes = "width", widths
    scene.spacing = None if spacing is None else spacing * plan.zoom
    scene.order = "ordered" if spacing is not None else "partly ordered"
    scene.alignment = "aligned"
    run = math.atan2(-math.sin(plan.angle) * plan.squash, math.cos(plan.angle))
    scene.orientation = round(math.degrees(run) % 180, 1) % 180
    scene.aggregation = "isolated"  # fingers, beams and pads are separate except for their bus
    roughen(canvas, scene, top, (4, 2, 1))
    return scene


def _comb(canvas: Canvas, plan: Plan):
    """Two interdigitated combs, the moving one on a shuttle with release holes."""
    pitch = canvas.log_uniform(9, 30)
    width = pitch * canvas.uniform(0.22, 0.36)
    n = int(min(230 / pitch, 20))
    reach, gap = canvas.uniform(30, 60), canvas.uniform(8, 22)
    span = n * pitch / 2
    thick = canvas.uniform(14, 34)
    for side in (-1, 1):
        back = side * (reach / 2 + gap / 2)
        plan.box(-span, min(back, back + side * thick), span, max(back, back + side * thick), 2)
        for k in range(n):
            x = -span + (k + 0.25 + 0.5 * (side > 0)) * pitch
            plan.box(
                x - width / 2,
                min(back, back - side * reach),
                x + width / 2,
                max(back, back - side * reach),
                2,
            )
            plan.mark(x, back - side * reach / 2, width)
        if canvas.chance(0.6):
            for x in np.arange(-span + 7, span - 4, 13):
                plan.box(x - 2, back + side * thick / 2 - 2, x + 2, back + side * thick / 2 + 2, 0)
        if canvas.chance(0.6):
            x = canvas.uniform(-0.6, 0.6) * span
            plan.box(x - 6, min(back, side * 200), x + 6, max(back, side * 200), 2)
    return "comb finger", "rectangular", pitch / 2


def _electrodes(canvas: Canvas, plan: Plan):
    """Flat interdigitated electrodes between two bus bars, with leads."""
    pitch = canvas.log_uniform(10, 44)
    width = pitch * canvas.uniform(0.3, 0.65) / 1.0
    n = int(max(3, min(200 / pitch, 18)))
    half, span = canvas.uniform(40, 75), n * pitch / 2
    bus = canvas.uniform(8, 26)
    plan.box(-span - 4, -half - bus, span + 4, -half, 1)
    plan.box(-span - 4, half, span + 4, half + bus, 1)
    for k in range(n):
        x = -span + (k + 0.5) * pitch
        up = k % 2 == 0
        plan.box(
            x - width / 2,
            -half - 1 if up else -half + 10,
            x + width / 2,
            half - 10 if up else half + 1,
            1,
        )
        plan.mark(x, 0, width)
    for side in (-1, 1):
        x = canvas.uniform(-0.8, 0.8) * span
        lead = canvas.uniform(5, 20)
        plan.box(x - lead, min(side * half, side * 220), x + lead, max(side * half, side * 220), 1)
    return "electrode finger", "rectangular", pitch


def _cantilevers(canvas: Canvas, plan: Plan):
    """Beams anchored in a block, over an etched pit."""
    n = int(canvas.rng.integers(1, 9))
    pitch = 210 / n
    width = pitch * canvas.uniform(0.25, 0.6)
    root = canvas.uniform(-110, -60)
    plan.box(-240, -240, root, 240, 2)
    length = canvas.uniform(60, 160)
    for k in range(n):
        y = -105 + (k + 0.5) * pitch
        reach = root + length * (canvas.uniform(0.6, 1.0) if canvas.chance(0.5) else 1)
        plan.box(root - 1, y - width / 2, reach, y + width / 2, 2)
        plan.mark((root + reach) / 2, y, width)
        if canvas.chance(0.4):
            plan.disc(reach, y, width * canvas.uniform(0.5, 0.7), 2)
        if canvas.chance(0.4):  # a metal strip on top, and its pad
            plan.box(root - 60, y - width / 5, reach - 8, y + width / 5, 3)
            plan.box(root - 60, y - pitch / 4, root - 25, y + pitch / 4, 3)
        for x in np.arange(root + 12, reach - 6, 18) if width > 14 and canvas.chance(0.5) else ():
            plan.box(x - 2.5, y - 2.5, x + 2.5, y + 2.5, 0)
    return "cantilever", "rectangular", pitch if n > 1 else None


def _gear(canvas: Canvas, plan: Plan):
    """Toothed wheels on their hubs."""
    n = int(canvas.rng.integers(1, 4))
    radius = canvas.uniform(55, 95) / math.sqrt(n)
    x, y = -radius * (n - 1), canvas.uniform(-20, 20)
    for _ in range(n):
        teeth = int(radius * canvas.uniform(0.25, 0.5))
        t = np.linspace(0, 2 * math.pi, 4 * teeth, endpoint=False)
        r = radius * np.where(np.arange(4 * teeth) % 4 < 2, 1.0, 0.86)
        plan.polygon(np.stack([x + r * np.cos(t), y + r * np.sin(t)], 1), 2)
        holes = int(canvas.rng.integers(3, 9))
        for k in range(holes):
            a = 2 * math.pi * k / holes
            plan.disc(
                x + 0.52 * radius * math.cos(a),
                y + 0.52 * radius * math.sin(a),
                radius * canvas.uniform(0.08, 0.15),
                0,
            )
        plan.disc(x, y, 0.22 * radius, 0)
        plan.disc(x, y, 0.16 * radius, 3)
        plan.mark(x, y, 2 * radius)
        x += 1.95 * radius
    if canvas.chance(0.5):
        plan.box(-220, y + radius * 1.1, 220, y + radius * 1.1 + canvas.uniform(8, 25), 2)
    return "gear", "toothed", None


def _spring(canvas: Canvas, plan: Plan):
    """A mass suspended by folded beams between anchors."""
    half = canvas.uniform(18, 45)
    tall = canvas.uniform(18, 45)
    width = canvas.uniform(2.5, 7)
    for side in (-1, 1):
        turns = int(canvas.rng.integers(2, 6))
        step = max((105 - half) / turns, 2.2 * width)
        swing = canvas.uniform(0.4, 1.2) * tall
        points = [(side * half, 0.0)]
        for k in range(turns):
            y = swing if k % 2 else -swing
            points += [
                (side * (half + step * (k + 0.5)), points[-1][1]),
                (side * (half + step * (k + 0.5)), y),
            ]
        points.append((side * 125, points[-1][1]))
        plan.strip(points, width, 2)
        y = points[-1][1]
        plan.box(min(side * 108, side * 160), y - 18, max(side * 108, side * 160), y + 18, 3)
        plan.mark(side * half, 0, width)
    plan.box(-half, -tall, half, tall, 2)
    if canvas.chance(0.7):
        for x in np.arange(-half + 7, half - 4, 12):
            for y in np.arange(-tall + 7, tall - 4, 12):
                plan.box(x - 2, y - 2, x + 2, y + 2, 0)
    return "spring beam", "rectangular", None


def _pads(canvas: Canvas, plan: Plan):
    """Contact pads whose traces meet in the centre of the picture."""
    n = int(canvas.rng.integers(2, 13))
    trace = canvas.uniform(2.5, 9)
    pad = canvas.uniform(11, min(34, 260 / n))
    centre = canvas.uniform(6, 30)
    rectangular = canvas.chance(0.6)
    for k in range(n):
        angle = 2 * math.pi * (k + 0.5) / n
        c, s = math.cos(angle), math.sin(angle)
        far = 82 / max(abs(c), abs(s)) if rectangular else 92
        bend = centre + canvas.uniform(0.35, 0.6) * (far - centre)
        knee = (far * c, bend * s) if abs(c) > abs(s) else (bend * c, far * s)
        inner = (centre * c, centre * s)
        middle = (bend * c, bend * s)
        plan.strip([inner, middle, knee if rectangular else (far * c, far * s)], trace, 1)
        end = knee if rectangular else (far * c, far * s)
        plan.mark(*end, 2 * pad)
        if rectangular:
            plan.box(end[0] - pad, end[1] - pad, end[0] + pad, end[1] + pad, 2)
        else:
            plan.disc(*end, pad, 2)
    if canvas.chance(0.6):
        plan.disc(0, 0, centre * 0.55, 2) if canvas.chance(0.5) else plan.box(
            -centre * 0.5, -centre * 0.5, centre * 0.5, centre * 0.5, 2
        )
    return "pad", "rectangular" if rectangular else "round", None

"""Draws surfaces as height maps: smooth noise, cells, tubes and grains.

All lengths here are in *units*. The picture is 256 units wide at any size in pixels, so a scene
looks alike at 256, 512 or 1024 pixels. Heights are in units as well, so that slopes are correct.
"""

import dataclasses
import functools
import math

import numpy as np

WIDTH = 256.0  # units across the picture
SMALLEST = 64  # pixels per side; neither scene nor data bar can be drawn below it
FAR = np.float32(-1e6)


class Canvas:
    """The drawing frame: `rows` x `columns` pixels, `scale` pixels per unit, and a generator."""

    def __init__(self, rng: np.random.Generator, rows: int, columns: int):
        self.rng = rng
        self.rows, self.columns = rows, columns
        self.scale = columns / WIDTH
        self.width, self.height = WIDTH, rows / self.scale
        self.x = ((np.arange(columns, dtype=np.float32) + 0.5) / self.scale)[None, :]
        self.y = ((np.arange(rows, dtype=np.float32) + 0.5) / self.scale)[:, None]

    def zeros(self) -> np.ndarray:
        """Returns zeros, float32[rows, columns]."""
        return np.zeros((self.rows, self.columns), np.float32)

    def noise(self, scale: float, stretch: float = 1.0) -> np.ndarray:
        """Returns smooth noise with grain size `scale`, mean 0 and variance about 1,
        float32[rows, columns].

        `stretch` is the ratio of the grain's length along x to that along y.
        """
        cells_x, weights_x = _spline(self.columns, self.scale, max(scale * stretch, 1.0))
        cells_y, weights_y = _spline(self.rows, self.scale, max(scale, 1.0))
        size = (int(cells_y[-1]) + 4, int(cells_x[-1]) + 4)
        grid = self.rng.standard_normal(size, np.float32)
        # Four taps per axis; a matrix product would work too, but its threads compete for cores.
        wide = sum(grid[:, cells_x + k] * weights_x[k] for k in range(4))
        return sum(wide[cells_y + k] * weights_y[k][:, None] for k in range(4))

    def fractal(self, scale: float, octaves: int = 3, persistence: float = 0.5) -> np.ndarray:
        """Returns noise of several octaves, each half as coarse as the last, as in `noise`."""
        total = self.noise(scale)
        for octave in range(1, octaves):
            total += np.float32(persistence**octave) * self.noise(scale / 2**octave)
        return total

    def turned(self, angle: float, centre: tuple[float, float] | None = None):
        """Returns coordinates (u, v) rotated by `angle` radians about a point,
        float32[rows, columns].
        """
        cx, cy = centre or (self.width / 2, self.height / 2)
        c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        x, y = self.x - np.float32(cx), self.y - np.float32(cy)
        return x * c + y * s, y * c - x * s

    def uniform(self, low: float, high: float) -> float:
        """Draws uniformly."""
        return float(self.rng.uniform(low, high))

    def log_uniform(self, low: float, high: float) -> float:
        """Draws uniformly in the logarithm."""
        return float(np.exp(self.rng.uniform(math.log(low), math.log(high))))

    def chance(self, probability: float) -> bool:
        """Returns True with this probability."""
        return bool(self.rng.random() < probability)

    def choice(self, options, weights=None):
        """Draws one of the options; `weights` need not sum to one."""
        p = None if weights is None else np.asarray(weights, float) / np.sum(weights)
        return options[int(self.rng.choice(len(options), p=p))]

    def scatter(self, count: int, margin: float = 0.0) -> np.ndarray:
        """Returns float32[count, 2], random (x, y) in the frame or up to `margin` outside it."""
        low = np.array([-margin, -margin])
        high = np.array([self.width + margin, self.height + margin])
        return self.rng.uniform(low, high, (count, 2)).astype(np.float32)


@functools.lru_cache(maxsize=256)
def _spline_at(pixels: int, pixels_a_unit: float, scale: float):
    at = (np.arange(pixels) + 0.5) / pixels_a_unit / scale
    cell = np.floor(at).astype(int)
    t = at - cell
    weights = (
        np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3])
        / 6
    )
    # Normalise to a variance of one; 0.479 is the mean of the sum of squared weights.
    return cell, (weights / math.sqrt(0.479)).astype(np.float32)


def _spline(pixels: int, pixels_a_unit: float, scale: float):
    # Steps of 6 % keep the number of cached tables small, with no visible difference.
    return _spline_at(pixels, pixels_a_unit, 1.06 ** round(math.log(scale) / math.log(1.06)))


@dataclasses.dataclass(frozen=True)
class Cells:
    """A mosaic: distances (units) to the nearest and second nearest seed, and the cell index."""

    nearest: np.ndarray  # float32[rows, columns]
    second: np.ndarray  # float32[rows, columns]
    ident: np.ndarray  # int32[rows, columns], index into `seeds`
    seeds: np.ndarray  # float32[n, 2], (x, y) in the coordinates given

    @property
    def wall(self) -> np.ndarray:
        """Approximate distance to the nearest cell wall, float32[rows, columns], units."""
        return 0.5 * (self.second - self.nearest)


def mosaic(rng: np.random.Generator, x, y, pitch: float, jitter: float) -> Cells:
    """Returns the cells of a jittered grid at x, y: float32[rows, columns], warped or not."""
    x, y = np.broadcast_arrays(np.asarray(x, np.float32), np.asarray(y, np.float32))
    gx, gy = x / np.float32(pitch), y / np.float32(pitch)
    low = np.floor([gx.min() - 1, gy.min() - 1]).astype(int)
    nx = int(np.floor(gx.max())) - low[0] + 3
    ny = int(np.floor(gy.max())) - low[1] + 3
    offset = 0.5 + jitter * (rng.random((2, ny, nx), np.float32) - 0.5)
    sx = (offset[0] + np.arange(nx, dtype=np.float32)[None, :]).ravel()
    sy = (offset[1] + np.arange(ny, dtype=np.float32)[:, None]).ravel()
    gx, gy = gx - np.float32(low[0]), gy - np.float32(low[1])
    home = np.floor(gy).astype(np.int32) * nx + np.floor(gx).astype(np.int32)
    best = np.full(gx.shape, 1e9, np.float32)
    second = best.copy()
    ident = home.copy()
    for step in (0, -1, 1, -nx, nx, -nx - 1, -nx + 1, nx - 1, nx + 1):
        near = home + np.int32(step)
        dx, dy = sx[near], sy[near]
        dx -= gx
        dy -= gy
        dx *= dx
        dy *= dy
        dx += dy
        np.minimum(second, np.maximum(best, dx), out=second)
        closer = dx < best
        np.copyto(ident, near, where=closer)
        np.minimum(best, dx, out=best)
    seeds = np.stack([(sx + low[0]) * pitch, (sy + low[1]) * pitch], 1).astype(np.float32)
    p = np.float32(pitch)
    return Cells(np.sqrt(best) * p, np.sqrt(second) * p, ident, seeds)


@dataclasses.dataclass(frozen=True)
class Tubes:
    """The per-pixel result of `tubes`: the curve and the position across and along it."""

    ident: np.ndarray  # int32[rows, columns], curve or -1
    across: np.ndarray  # float32[rows, columns], -1 to 1 over the width
    along: np.ndarray  # float32[rows, columns], 0 to 1 over the curve
    radius: np.ndarray  # float32[rows, columns], units
    level: np.ndarray  # float32[rows, columns], height of the centre line

    @property
    def mask(self) -> np.ndarray:
        """The pixels covered by a tube, bool[rows, columns]."""
        return self.ident >= 0

    def round_height(self, ground: np.ndarray, flatness: float = 1.0) -> np.ndarray:
        """Returns the surface with round tubes on `ground`; `flatness` scales the tubes' height."""
        bulge = np.sqrt(np.maximum(1 - self.across**2, 0)) * self.radius * np.float32(flatness)
        return np.where(self.mask, self.level + bulge, ground)


def tubes(canvas: Canvas, points: np.ndarray, radius: np.ndarray, level: np.ndarray) -> Tubes:
    """Paints N curves of M points, later ones over earlier ones.

    points: float32[N, M, 2] (x, y); radius, level: float32 broadcastable to [N, M]. Neighbouring
    points should be at most 0.7 pixels apart (see `arc_steps`).
    """
    n, m = points.shape[:2]
    radius = np.broadcast_to(np.asarray(radius, np.float32), (n, m)).reshape(-1)
    level = np.broadcast_to(np.asarray(level, np.float32), (n, m)).reshape(-1)
    flow = np.gradient(points, axis=1)
    flow /= np.maximum(np.linalg.norm(flow, axis=2, keepdims=True), 1e-6)
    point, flow = points.reshape(-1, 2) * np.float32(canvas.scale), flow.reshape(-1, 2)
    reach = np.maximum(radius * np.float32(canvas.scale), 0.6)
    inside = (
        (point[:, 0] > -reach)
        & (point[:, 0] < canvas.columns + reach)
        & (point[:, 1] > -reach)
        & (point[:, 1] < canvas.rows + reach)
    )
    keep = np.flatnonzero(inside).astype(np.int32)
    half = np.ceil(reach[keep] / 0.75).astype(np.int32)
    number = 2 * half + 1
    source = np.repeat(keep, number)
    first = np.repeat((np.cumsum(number) - number).astype(np.int32), number)
    step = (np.arange(len(source), dtype=np.int32) - first).astype(np.float32)
    w = (step / np.repeat(half, number) - 1) * reach[source]
    column = np.floor(point[source, 0] - flow[source, 1] * w).astype(np.int32)
    row = np.floor(point[source, 1] + flow[source, 0] * w).astype(np.int32)
    good = (column >= 0) & (column < canvas.columns) & (row >= 0) & (row < canvas.rows)
    painted = np.full(canvas.rows * canvas.columns, -1, np.int32)
    painted[(row * canvas.columns + column)[good]] = source[good]
    painted = painted.reshape(canvas.rows, canvas.columns)
    at = np.maximum(painted, 0)
    dx = np.arange(canvas.columns, dtype=np.float32)[None, :] + 0.5 - point[at, 0]
    dy = np.arange(canvas.rows, dtype=np.float32)[:, None] + 0.5 - point[at, 1]
    across = np.clip((dy * flow[at, 0] - dx * flow[at, 1]) / reach[at], -1, 1)
    return Tubes(
        ident=np.where(painted >= 0, at // m, -1).astype(np.int32),
        across=across,
        along=((at % m) / np.float32(max(m - 1, 1))).astype(np.float32),
        radius=radius[at],
        level=level[at],
    )


def arc_steps(canvas: Canvas, length: float) -> int:
    """Returns how many points a curve of `length` units needs to be painted without gaps."""
    return max(4, math.ceil(length * canvas.scale / 0.7))


def curves(canvas: Canvas, start, heading, length: float, bend: float, waves: int = 3):
    """Returns N smooth curves from `start` [N, 2] along `heading` [N] (radians), float32[N, M, 2].

    `bend` is the standard deviation, in radians, of the heading along the curve.
    """
    n, m = len(start), arc_steps(canvas, length)
    t = np.linspace(0, 1, m, dtype=np.float32)
    k = np.arange(1, waves + 1, dtype=np.float32)
    amplitude = canvas.rng.standard_normal((n, waves)).astype(np.float32) * bend / np.sqrt(k)
    phase = canvas.rng.uniform(0, 2 * np.pi, (n, waves)).astype(np.float32)
    wander = np.zeros((n, m), np.float32)
    for j in range(waves):
        wander += amplitude[:, j, None] * np.sin(np.pi * k[j] * t + phase[:, j, None])
    angle = np.asarray(heading, np.float32)[:, None] + wander
    step = np.float32(length / m)
    path = np.stack([np.cos(angle), np.sin(angle)], 2) * step
    return np.cumsum(path, axis=1) + np.asarray(start, np.float32)[:, None, :]


@dataclasses.dataclass(frozen=True)
class Outline:
    """The shape of grains: `lobes` roughen the outline, `facets` cut planes, `aspect` elongates."""

    lobes: float = 0.0
    facets: int = 0
    aspect: float = 1.0
    power: float = 0.5  # 0.5 is a sphere; larger is more pointed, smaller is flatter
    flatten: float = 1.0  # height over radius
    angle: float | None = None  # of the long axis; None for random


def grains(canvas: Canvas, centres, radii, level, outline: Outline, ground: np.ndarray):
    """Adds grains to the surface `ground`; higher grains hide lower ones.

    centres: float32[n, 2]; radii, level: float32[n], where `level` is the height of the equator.
    Returns the new height map and int32[rows, columns], the visible grain or -1.
    """
    height = ground.astype(np.float32, copy=True)
    ident = np.full(height.shape, -1, np.int32)
    n = len(radii)
    order = np.argsort(radii)
    reach = np.asarray(radii) * canvas.scale * (1 + 1.3 * outline.lobes) * outline.aspect**0.5
    for chunk in np.array_split(order, max(1, math.ceil(n / 24))):
        if not len(chunk):
            continue
        half = math.ceil(float(reach[chunk].max())) + 1
        corner = np.floor(centres[chunk] * canvas.scale).astype(int) - half
        surface = _grain_patches(canvas, centres[chunk], radii[chunk], corner, half, outline)
        surface += np.asarray(level, np.float32)[chunk][:, None, None]
        for k, grain in enumerate(chunk):
            x0, y0 = corner[k]
            xa, ya = max(x0, 0), max(y0, 0)
            xb, yb = min(x0 + 2 * half, canvas.columns), min(y0 + 2 * half, canvas.rows)
            if xa >= xb or ya >= yb:
                continue
            patch = surface[k, ya - y0 : yb - y0, xa - x0 : xb - x0]
            under = height[ya:yb, xa:xb]
            seen = patch > under
            np.copyto(under, patch, where=seen)
            np.copyto(ident[ya:yb, xa:xb], np.int32(grain), where=seen)
    return height, ident


def _grain_patches(canvas, centres, radii, corner, half, outline: Outline) -> np.ndarray:
    rng, n = canvas.rng, len(radii)
    grid = np.arange(2 * half, dtype=np.float32) + 0.5
    unit = (np.asarray(radii, np.float32) * canvas.scale)[:, None, None]
    px = (grid[None, None, :] + (corner[:, 0] - centres[:, 0] * canvas.scale)[:, None, None]) / unit
    py = (grid[None, :, None] + (corner[:, 1] - centres[:, 1] * canvas.scale)[:, None, None]) / unit
    px, py = px.astype(np.float32), py.astype(np.float32)
    turn = rng.uniform(0, 2 * np.pi, n) if outline.angle is None else np.full(n, outline.angle)
    c = np.cos(turn).astype(np.float32)[:, None, None]
    s = np.sin(turn).astype(np.float32)[:, None, None]
    stretch = np.float32(outline.aspect**0.5)
    px, py = (px * c + py * s) / stretch, (py * c - px * s) * stretch
    if outline.facets:
        return _faceted(rng, px, py, outline, unit / np.float32(canvas.scale))
    square = px * px + py * py
    if outline.lobes:
        radius = np.sqrt(square) + np.float32(1e-6)
        cos, sin = px / radius, py / radius
        edge = np.ones_like(square)
        ck, sk = cos, sin  # cos kθ and sin kθ by the addition theorem, avoiding a slow arctan2
        for k in range(2, 6):
            ck, sk = ck * cos - sk * sin, sk * cos + ck * sin
            weight = rng.standard_normal((2, n, 1, 1)).astype(np.float32)
            weight *= np.float32(outline.lobes * 1.3 / k)
            edge += weight[0] * ck + weight[1] * sk
        edge = np.maximum(edge, np.float32(0.25))
        square = square / (edge * edge)
    rise = np.maximum(1 - square, 0)
    rise = np.sqrt(rise) if outline.power == 0.5 else rise ** np.float32(outline.power)
    rise *= unit / np.float32(canvas.scale) * np.float32(outline.flatten)
    return np.where(square < 1, rise, FAR)


def _faceted(rng, px, py, outline: Outline, radius) -> np.ndarray:
    n = px.shape[0]
    rise = np.full(px.shape, 1.2, np.float32)
    around = np.arange(outline.facets) * 2 * np.pi / outline.facets
    wobble = outline.lobes * 2
    for j in range(outline.facets):
        theta = around[j] + wobble * rng.uniform(-0.5, 0.5, n)
        tilt = rng.uniform(0.9, 2.6, n)
        away = 0.85 * (1 - wobble * rng.uniform(0, 0.35, n))
        a = (np.cos(theta) * tilt).astype(np.float32)[:, None, None]
        b = (np.sin(theta) * tilt).astype(np.float32)[:, None, None]
        np.minimum(
            rise, (away * tilt).astype(np.float32)[:, None, None] - a * px - b * py, out=rise
        )
    top = rng.uniform(0.55, 0.9, (n, 1, 1)).astype(np.float32)
    lean = rng.uniform(-0.35, 0.35, (2, n, 1, 1)).astype(np.float32)
    inside = rise > 0
    np.minimum(rise, top + lean[0] * px + lean[1] * py, out=rise)
    return np.where(inside, rise * radius * np.float32(outline.flatten), FAR)

"""Renders a height map as a scanning electron microscope would show it.

Nothing here depends on the category, so imaging conditions reveal nothing about the contents.
"""

import dataclasses
import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage, signal

from slava_jax.synthetic.scenes.geometry import Canvas
from slava_jax.synthetic.scenes.measure import Scene

FILM_WIDTH_NM = 114.3e6  # magnifications refer to a print 4.5 inches wide
BAR_ROWS = 24  # for a picture 256 pixels wide


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """Imaging conditions; `field_nm` is the width of the field of view."""

    field_nm: float
    kv: float
    working_distance_mm: float
    detector: str

    @property
    def magnification(self) -> int:
        """Print width divided by field width, to three significant digits."""
        value = FILM_WIDTH_NM / self.field_nm
        return max(1, round(value, 2 - math.floor(math.log10(value))).__int__())


def draw_acquisition(rng: np.random.Generator) -> Acquisition:
    """Draws instrument settings from a distribution shared by all categories."""
    field = 10 ** rng.uniform(math.log10(600), math.log10(400e3))
    return Acquisition(
        field_nm=float(f"{field:.4g}"),
        kv=float(rng.choice([1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 20.0])),
        working_distance_mm=round(float(rng.uniform(2.0, 15.0)), 1),
        detector=str(rng.choice(["SE2", "InLens", "ETD", "BSE"])),
    )


def shade(canvas: Canvas, scene: Scene, detector: str) -> np.ndarray:
    """Returns the secondary-electron yield of the surface, float32[rows, columns], arbitrary units.

    Slopes emit more (edge brightening), slopes facing the detector more still, pits less.
    """
    height = scene.height
    gy, gx = np.gradient(height * np.float32(canvas.scale))
    steep = np.minimum(gx * gx + gy * gy, np.float32(canvas.uniform(6, 20)))
    edge = np.sqrt(1 + steep) - 1
    rim = canvas.uniform(0.5, 1.6) * canvas.scale
    edge = 0.5 * edge + 0.5 * ndimage.uniform_filter(edge, 2 * round(rim) + 1)
    around = _wide_mean(height, canvas.uniform(5, 14) * canvas.scale)
    depth = canvas.uniform(4, 12)
    pit = np.clip((height - around) / np.float32(depth), -1.2, 0.8)
    towards = canvas.uniform(0, 2 * math.pi)
    tilt = (gx * math.cos(towards) + gy * math.sin(towards)) / np.sqrt(1 + steep)
    # Weights of edge, direction, pits and material that are typical of each detector.
    weight = {
        "SE2": (0.35, 0.30, 0.35, 0.5),
        "ETD": (0.30, 0.45, 0.30, 0.5),
        "InLens": (0.55, 0.05, 0.30, 0.6),
        "BSE": (0.12, 0.35, 0.20, 1.0),
    }[detector]
    by = canvas.rng.uniform(0.7, 1.4, 4)
    e, d, p, m = (np.float32(a * b) for a, b in zip(weight, by, strict=True))
    far = np.clip((height - height.max()) / np.float32(60), -1, 0) * np.float32(0.35)
    return e * edge + d * tilt.astype(np.float32) + p * pit + m * scene.material + far


def _wide_mean(image: np.ndarray, sigma: float) -> np.ndarray:
    size = max(3, 2 * round(sigma) + 1)
    return ndimage.uniform_filter(ndimage.uniform_filter(image, size, mode="nearest"), size)


def expose(canvas: Canvas, scene: Scene, detector: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the picture, float32[rows, columns] in 0..255, and the artefacts applied to it.

    Drift moves lines and the scene's mask alike. It is no recorded artefact: without the undrifted
    picture nobody can tell a bent line from one that drifted, and no method did.
    """
    artefacts = []
    image = shade(canvas, scene, detector)
    image = _focus(canvas, scene, image)
    if canvas.chance(0.22):
        image = _charge(canvas, image)
        artefacts.append("charging")
    if canvas.chance(0.22):
        shift = _drift(canvas)
        image, scene.mask = image[shift], scene.mask[shift]
    low, high = np.quantile(image[::3, ::3], [0.01, canvas.uniform(0.975, 0.998)])
    image = (image - low) / max(high - low, 1e-6)
    if canvas.chance(0.3):
        image = image + _shading(canvas)
        artefacts.append("shading")
    image = np.clip(image, -0.3, 1.5)
    gamma = canvas.uniform(0.8, 1.3)
    image = np.maximum(image + 0.3, 0) ** gamma / 1.3**gamma
    if _noise(canvas, image):
        artefacts.append("noise")
    contrast = canvas.uniform(105, 230)
    black = canvas.uniform(-25, max(0.0, 235 - contrast))
    return np.clip(black + contrast * image, 0, 255), tuple(sorted(artefacts))


def _focus(canvas: Canvas, scene: Scene, image: np.ndarray) -> np.ndarray:
    """Blurs by the spot size and, with a shallow depth of field, more away from the focal plane."""
    spot = canvas.uniform(0.3, 1.0) * canvas.scale
    sharp = ndimage.gaussian_filter(image, spot, truncate=2.5)
    if not canvas.chance(0.2):
        return sharp
    blurred = _wide_mean(sharp, canvas.uniform(1.0, 2.4) * canvas.scale)
    focus = np.quantile(scene.height[::4, ::4], canvas.uniform(0.4, 1.0))
    depth = np.float32(canvas.uniform(10, 40))
    off = np.clip(np.abs(scene.height - focus) / depth, 0, 1)
    return sharp + (blurred - sharp) * off


def _charge(canvas: Canvas, image: np.ndarray) -> np.ndarray:
    """Adds charging: bright regions bleed along the scan line and whole lines change brightness."""
    decay = math.exp(-1 / (canvas.uniform(8, 40) * canvas.scale))
    bright = np.maximum(image - np.quantile(image[::4, ::4], 0.85), 0)
    tail = signal.lfilter([1 - decay], [1, -decay], bright, axis=1).astype(np.float32)
    spread = np.float32(image.std())
    lines = canvas.noise(1.5, stretch=400)[:, :1]
    jump = np.where(np.abs(lines) > 1.5, lines, 0) * spread * np.float32(canvas.uniform(0.15, 0.5))
    return image + np.float32(canvas.uniform(-2.0, 2.0)) * tail + jump


def _drift(canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Returns index arrays that shift each line sideways, varying smoothly down the picture."""
    wave = canvas.noise(canvas.uniform(15, 60), stretch=400)[:, 0] * canvas.uniform(1.0, 3.5)
    slant = canvas.uniform(-0.06, 0.06) * (canvas.y[:, 0] - canvas.height / 2)
    shift = np.round((wave + slant) * canvas.scale).astype(int)
    columns = np.arange(canvas.columns)[None, :] + shift[:, None]
    columns = np.abs(columns)  # mirror at the borders
    columns = np.where(columns >= canvas.columns, 2 * canvas.columns - 1 - columns, columns)
    return np.arange(canvas.rows)[:, None], columns


def _shading(canvas: Canvas) -> np.ndarray:
    u, v = canvas.turned(canvas.uniform(0, 2 * math.pi))
    slope = np.float32(canvas.uniform(0.15, 0.5) / 128)
    bowl = np.float32(canvas.uniform(-0.2, 0.1) / 128**2)
    return slope * u + bowl * (u * u + v * v)


def _noise(canvas: Canvas, image: np.ndarray) -> bool:
    """Adds shot noise in place; returns whether it is strong enough to count as an artefact."""
    level = canvas.log_uniform(0.02, 0.11)
    grain = canvas.rng.standard_normal(image.shape, np.float32)
    if canvas.chance(0.4):  # slow electronics smear noise along the scan line
        grain[:, 1:] = np.float32(0.8) * (grain[:, 1:] + np.float32(0.6) * grain[:, :-1])
    grain *= np.sqrt(np.maximum(image, 0) + np.float32(0.15)) * np.float32(level)
    image += grain
    return level > 0.07


def bar_height(size: int) -> int:
    """Returns the number of data-bar rows under a picture `size` pixels wide."""
    return round(size * BAR_ROWS / 256)


def data_bar(taken: Acquisition, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the data bar, uint8[bar_height(size), size], with a scale bar and the settings."""
    length, text = scale_bar(taken.field_nm)
    factor = max(1, size // 256)
    bar = np.zeros((BAR_ROWS, 256), np.uint8)
    pixels = round(length / taken.field_nm * 256)
    _write(bar, text, 3 + max(0, (pixels - 6 * len(text)) // 2), 1)
    bar[16:18, 3 : 3 + pixels] = 1
    bar[13:21, [3, 2 + pixels]] = 1
    zoom = taken.magnification
    mag = f"{zoom / 1000:.4g} K X" if zoom >= 1000 else f"{zoom} X"
    _write(bar, f"Mag={mag}", 84, 1)
    _write(bar, f"EHT={taken.kv:.1f}kV", 181, 1)
    _write(bar, f"WD={taken.working_distance_mm:.1f} mm", 84, 12)
    _write(bar, f"Sig={taken.detector}", 181, 12)
    ink, paper = (235, 10) if rng.random() < 0.7 else (15, 240)
    picture = np.where(bar > 0, ink, paper).astype(np.uint8)
    picture = np.kron(picture, np.ones((factor, factor), np.uint8)) if factor > 1 else picture
    if picture.shape != (bar_height(size), size):
        picture = np.asarray(Image.fromarray(picture).resize((size, bar_height(size)), Image.BOX))
    return picture


def scale_bar(field_nm: float) -> tuple[float, str]:
    """Returns a length in nm (1, 2 or 5 x 10^k, at most a quarter of the field) and its text."""
    power = 10.0 ** math.floor(math.log10(0.25 * field_nm))
    length = max(m * power for m in (1, 2, 5) if m * power <= 0.25 * field_nm)
    return length, f"{length:.0f} nm" if length < 1000 else f"{length / 1000:.0f} µm"


@functools.lru_cache(maxsize=128)
def _glyph(letter: str) -> np.ndarray:
    page = Image.new("L", (6, 11))
    ImageDraw.Draw(page).text((0, 0), letter, fill=1, font=ImageFont.load_default_imagefont())
    return np.asarray(page)


def _write(bar: np.ndarray, text: str, column: int, row: int) -> None:
    for k, letter in enumerate(text[: (bar.shape[1] - column) // 6]):
        bar[row : row + 11, column + 6 * k : column + 6 * k + 6] |= _glyph(letter)

"""The data bar is found to the row in any style and height; nothing else is mistaken for one."""

import functools
import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from slava_jax.data.bar import picture_rows
from slava_jax.data.images import read_image
from slava_jax.synthetic.micrographs import draw
from slava_jax.synthetic.records import CATEGORIES

SIDE = 512
TEXT = ("10 µm", "Mag = 12.34 K X", "EHT = 15.00 kV", "WD = 5.6 mm", "Signal A = SE2")
WHITE, BLACK, GREY = (255, 0), (0, 255), (60, 230)  # (background, text)


drawn = functools.lru_cache(draw)


def picture(category, columns=SIDE, rows=SIDE):
    """A drawn micrograph without its bar, at another size."""
    micrograph = drawn(category, 1)
    bare = Image.fromarray(micrograph.image[: -micrograph.bar_height])
    return np.asarray(bare.resize((columns, rows), Image.Resampling.BILINEAR))


def bar(height, columns, colours, frame=0):
    """A bar with a scale line and text through Pillow's font, in one line or two."""
    ground, ink = colours
    band = Image.new("L", (columns, height), ground)
    pen = ImageDraw.Draw(band)
    lines = 2 if height >= 48 else 1
    size = max(9, round(0.6 * height / lines))
    font = ImageFont.load_default(size)
    for i, text in enumerate(TEXT[: 3 if lines == 1 else 5]):
        line, place = i % lines, i // lines
        down = round(height * (line + 0.15) / lines)
        at = (20 + place * (columns - 30) // 3, down)
        pen.text(at, text, fill=ink, font=font)
    pen.line((20, height - 5, 20 + columns // 6, height - 5), fill=ink, width=2)
    if frame:
        pen.rectangle((0, 0, columns - 1, height - 1), outline=ink, width=frame)
    return np.asarray(band)


def jpeg(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


CASES = [
    (height, colours, frame, quality)
    for height in (20, 36, 64, 100)
    for colours in (WHITE, BLACK, GREY)
    for frame in (0, 2)
    for quality in (None, 75)
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_bars_of_every_height_and_style_are_found(case):
    height, colours, frame, quality = CASES[case]
    category = CATEGORIES[case % len(CATEGORIES)]
    shown = np.concatenate([picture(category), bar(height, SIDE, colours, frame)])
    shown = shown if quality is None else jpeg(shown, quality)
    top, bottom = picture_rows(shown)
    # JPEG smears the border over a block; losing a row at a frame is harmless.
    assert top == 0 and abs(bottom - SIDE) <= (2 if quality is None else 8)


@pytest.mark.parametrize("colours", [WHITE, BLACK])
def test_a_bar_at_the_top_and_one_with_picture_on_both_sides(colours):
    specimen = picture("Nanowires")
    band = bar(40, SIDE, colours)
    assert picture_rows(np.concatenate([band, specimen])) == (40, SIDE + 40)
    within = specimen.copy()
    within[430:470] = band  # as in files of some instruments
    assert picture_rows(within) == (0, 430)


def test_the_bars_of_drawn_micrographs():
    wrong = []
    for category in CATEGORIES:
        for seed in (1, 2, 3):
            micrograph = drawn(category, seed)
            if picture_rows(micrograph.image) != (0, 256 - micrograph.bar_height):
                wrong.append((category, seed))
    assert not wrong


def test_drawn_micrographs_without_a_bar_are_unchanged():
    wrong = []
    for category in CATEGORIES:
        for seed in (1, 2, 3):
            micrograph = drawn(category, seed)
            bare = micrograph.image[: -micrograph.bar_height]
            if picture_rows(bare) != (0, len(bare)):
                wrong.append((category, seed))
    assert not wrong


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (20, 20), (200, 1)])
def test_any_size(shape):
    assert picture_rows(np.full(shape, 7, np.uint8)) == (0, shape[0])


def test_uniform_pictures_and_pages_are_unchanged():
    black = np.zeros((300, 300), np.uint8)
    assert picture_rows(black) == (0, 300)
    dark_below = picture("Tips", 300, 300).copy()
    dark_below[260:] = 0  # no text there
    assert picture_rows(dark_below) == (0, 300)
    page = np.concatenate([bar(40, 300, WHITE) for _ in range(8)])
    top, bottom = picture_rows(page)
    assert bottom - top >= 0.5 * len(page)


@pytest.mark.parametrize(("soft", "found"), [(1, True), (6, False)])
def test_blurred_marks_are_not_text(soft, found):
    """Out-of-focus grains in a row on a uniform dark background are specimen, not a bar."""
    rows, columns = np.mgrid[:60, :SIDE]
    away = np.hypot(rows - 30, (columns + 30) % 60 - 30)
    band = np.uint8(90 * np.exp(-((away / soft) ** 2) / 2) if soft > 1 else 90 * (away < 5))
    pixels = np.concatenate([picture("Powder"), band])
    assert picture_rows(pixels) == (0, SIDE if found else len(pixels))


def test_a_large_sixteen_bit_picture_is_scaled_by_the_specimen_only(tmp_path):
    specimen = picture("Porous_Sponge", 2000, 1700).astype(np.uint16) * 40  # to 10,200
    band = bar(120, 2000, WHITE).astype(np.uint16) * 257
    Image.fromarray(np.concatenate([specimen, band])).save(tmp_path / "with.tif")
    Image.fromarray(specimen).save(tmp_path / "without.tif")
    cropped = read_image(tmp_path / "with.tif", 100, 1, crop_bar=True).astype(int)
    expected = read_image(tmp_path / "without.tif", 100, 1)
    assert np.abs(cropped - expected).mean() < 2
    assert np.abs(read_image(tmp_path / "with.tif", 100, 1).astype(int) - expected).mean() > 20


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("elpv_dataset"), reason="needs elpv-dataset")
def test_no_solar_cell_has_a_bar():
    place = Path(importlib.util.find_spec("elpv_dataset").submodule_search_locations[0])
    cells = sorted((place / "data" / "images").glob("*.png"))
    assert len(cells) == 2624
    assert not [c.name for c in cells if picture_rows(np.asarray(Image.open(c))) != (0, 300)]

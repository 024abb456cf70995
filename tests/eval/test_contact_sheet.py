"""The contact sheet: the right pictures in the right places."""

import io

import numpy as np
from PIL import Image

from slava_jax.data.datasets.base import ImageSet
from slava_jax.data.images import encode_png
from slava_jax.eval.contact_sheet import contact_sheet

NAMES = ["gold", "A_category_with_a_very_long_name_that_no_picture_is_as_wide_as"]


def image_set(values, labels):
    pictures = [encode_png(np.full((9, 9), value, np.uint8)) for value in values]
    return ImageSet([f"i{v}" for v in values], labels, NAMES, pictures)


def test_every_picture_stands_in_its_row_and_group():
    queries, pool = image_set([10, 20], [0, 1]), image_set([100, 110, 120], [0, 1, 1])
    chosen = {
        "most similar": (np.asarray([[0, 2], [2, 1]]), np.asarray([[0.9, 0.8], [0.7, 0.6]])),
        "least similar": (np.asarray([[1], [0]]), np.asarray([[-0.5], [-0.25]])),
    }
    sheet = np.asarray(contact_sheet(queries, [1, 0], pool, chosen, side=48))
    grey = np.ptp(sheet, 2) == 0
    found = {}
    for value in (10, 20, 100, 110, 120):
        there = grey & (sheet[..., 0] == value)
        # A picture is a filled square; letters never fill a row of this length.
        corners = [
            (y, x)
            for y, x in zip(*np.nonzero(there), strict=True)
            if there[y : y + 48, x : x + 48].sum() == 48 * 48
        ]
        for corner in corners:
            found[corner] = value
    rows = sorted({y for y, _ in found})
    lines = [[found[y, x] for y, x in sorted(found) if y == row] for row in rows]
    assert lines == [[20, 100, 120, 110], [10, 120, 110, 100]]


def test_a_name_never_runs_into_the_next_picture():
    queries, pool = image_set([255], [1]), image_set([255, 255 - 1], [1, 1])
    chosen = {"a": (np.asarray([[0]]), np.asarray([[1.0]]))}
    sheet = np.asarray(contact_sheet(queries, [0], pool, chosen, side=60).convert("L"))
    ink = np.flatnonzero((sheet[-50:] < 128).any(0))
    gaps = np.diff(ink)
    assert gaps.max() >= 20, "white between the columns"
    assert ink.max() < sheet.shape[1] - 10


def test_it_can_be_saved():
    queries = image_set([1], [0])
    chosen = {"a": (np.asarray([[0]]), np.asarray([[1.0]]))}
    buffer = io.BytesIO()
    contact_sheet(queries, [0], queries, chosen).save(buffer, "PNG")
    assert Image.open(buffer).mode == "RGB"

"""The measurement of a real micrograph, on discs of known size. Needs `make real`."""

import numpy as np
import pytest

pytest.importorskip("skimage", reason="scikit-image is not installed: make real")

from experiments.real_micrographs import NM_PER_PIXEL, measured, squares

pytestmark = pytest.mark.slow


def test_discs_are_measured():
    """Sixteen dark discs of 20 pixels, two of them touching."""
    y, x = np.mgrid[:200, :200]
    picture = np.full((200, 200), 180, np.uint8)
    centres = [(25 + 50 * i, 25 + 50 * j) for i in range(4) for j in range(4)]
    centres[1] = (25, 25 + 19)
    for row, column in centres:
        picture[(y - row) ** 2 + (x - column) ** 2 <= 10**2] = 60
    found = measured(picture)
    assert found["count"] == 16
    assert found["mean_size_nm"] == pytest.approx(20 * NM_PER_PIXEL, rel=0.06)
    assert found["coverage"] == pytest.approx(16 * np.pi * 100 / 200**2, rel=0.06)


def test_squares_tile_the_picture():
    tiles = squares(np.zeros((691, 1024), np.uint8))
    assert [len(tile) for tile in tiles] == [690] + [345] * 4 + [230] * 12
    assert all(tile.shape[0] == tile.shape[1] for tile in tiles)

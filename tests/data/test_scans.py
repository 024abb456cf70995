"""JPEG files of many scans are refused before they are decoded."""

import io
import time

import numpy as np
import pytest
from PIL import Image
from tiff_files import SHORT, tiff_bytes

from slava_jax.data.images import ImageError, read_image
from slava_jax.data.picture import MAX_PIXELS
from slava_jax.data.scans import check_scans


def jpeg(size=(64, 64), **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **{"progressive": True, **options})
    return file.getvalue()


def repeated(file: bytes, times: int) -> bytes:
    """With the last scan so many times more."""
    last = file.rindex(b"\xff\xda")
    return file[:-2] + file[last:-2] * times + file[-2:]


def test_ordinary_files_are_read_whatever_lies_around_their_scans():
    exif = Image.Exif()
    exif[0x010E] = "\u00ff\u00da" * 400  # in UTF-8 or Latin-1, a marker or not
    for file in (jpeg(), jpeg(progressive=False), jpeg(exif=exif), jpeg() + b"\xff\xda" * 1000):
        expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        assert (read_image(file, 64, 3) == expected).all()
    marked = jpeg()[:2] + b"\xff\xe5" + (2002).to_bytes(2) + b"\xff\xda" * 1000 + jpeg()[2:]
    assert (read_image(marked, 64, 3) == read_image(jpeg(), 64, 3)).all()


def test_thousands_of_scans_are_refused(tmp_path):
    assert read_image(repeated(jpeg(), 100), 8, 1).any()
    path = tmp_path / "x.jpg"
    path.write_bytes(repeated(jpeg((640, 640)), 5000))  # half a minute to decode
    start = time.process_time()
    for source in (path, path.read_bytes()):
        with pytest.raises(ImageError, match="a JPEG file of more than 200 scans"):
            read_image(source, 8, 1)
    assert time.process_time() - start < 1


def test_a_part_of_a_tiff_file_has_the_same_limit():
    part = repeated(jpeg(), 300)
    tags = [(259, SHORT, [7]), (262, SHORT, [6]), (277, SHORT, [3]), (258, SHORT, [8, 8, 8])]
    with pytest.raises(ImageError, match="more than 200 scans"):
        read_image(tiff_bytes(64, 64, 8, [part], tags), 8, 1)


def test_the_larger_the_picture_the_fewer():
    file = repeated(jpeg(), 50)
    check_scans("x.jpg", file, 10_000, 10_000)
    with pytest.raises(ImageError, match=r"x\.jpg: a JPEG file of more than 20 scans"):
        check_scans("x.jpg", file, MAX_PIXELS, 1)


def test_a_megabyte_of_markers_takes_no_time():
    start = time.process_time()
    for part in (b"\xff", b"\xff\x00", b"\xff\xd0", b"\xff\xd8", b"\xff\x01", b"\xff\xe1\x00\x02"):
        check_scans("x.jpg", b"\xff\xd8" + part * (10**6 // len(part)), 64, 64)
    assert time.process_time() - start < 3

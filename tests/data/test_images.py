"""Reading image files as squares, errors for bad files, and augmentation."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from slava_jax.data.images import (
    MAX_PIXELS,
    ImageError,
    augment,
    encode_png,
    list_images,
    read_image,
)


def saved(path, pixels, **options):
    Image.fromarray(np.asarray(pixels)).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_reads_each_format(tmp_path, suffix, channels):
    path = saved(tmp_path / f"x.{suffix}", np.full((30, 50, 3), (200, 100, 50), np.uint8))
    image = read_image(path, 24, channels)
    assert image.shape == (24, 24, channels) and image.dtype == np.uint8
    # Grey is the ITU-R 601 luma of the colour.
    expected = (200, 100, 50) if channels == 3 else (0.299 * 200 + 0.587 * 100 + 0.114 * 50,)
    assert np.abs(image[12, 12] - np.asarray(expected)).max() < 4
    assert np.array_equal(read_image(path.read_bytes(), 24, channels), image)


def test_shrinking_averages_and_stretches():
    checker = np.indices((64, 128)).sum(0) % 2 * 255
    checker[:, 64:] = 0
    image = read_image(encode_png(checker.astype(np.uint8)), 16, 1)[..., 0]
    assert np.abs(image[:, :8] - 127.5).max() < 1
    assert not image[:, 8:].any()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 65535]], np.uint16), (0, 255)),
        (np.array([[0, 40000]], np.uint16), (0, 40000 * 255 / 65535)),
        (np.array([[1000, 3000]], np.uint16), (0, 255)),
        (np.array([[0, 0]], np.uint16), (0, 0)),
        (np.array([[-2.0, 6.0]], np.float32), (0, 255)),
        (np.array([[0.5, 0.5]], np.float32), (0, 0)),
        (np.array([[-100000, 100000]], np.int32), (0, 255)),
    ],
)
def test_wide_samples_are_scaled(tmp_path, values, expected):
    path = saved(tmp_path / "wide.tif", np.repeat(np.repeat(values, 8, 1), 16, 0))
    image = read_image(path, 16, 1)
    assert np.abs(image[0, [0, -1], 0] - np.asarray(expected)).max() <= 1


def test_sixteen_bit_png(tmp_path):
    path = saved(tmp_path / "w.png", np.full((4, 4), 257 * 99, np.uint16))
    assert (read_image(path, 4, 3) == 99).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_in_which_zero_is_white(tmp_path, dtype):
    """Pillow inverts only 8-bit files."""
    ramp = np.linspace(0, np.iinfo(dtype).max, 16).astype(dtype)[None].repeat(16, 0)
    Image.fromarray(ramp).save(tmp_path / "white.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "white.tif") as image:
        assert image.tag_v2[262] == 0
    stored = dtype == np.uint8  # Pillow inverts it when writing as well
    first, last = read_image(tmp_path / "white.tif", 16, 1)[0, [0, -1], 0].tolist()
    assert (first, last) == ((0, 255) if stored else (255, 0))


def test_pixels_that_are_not_finite(tmp_path):
    path = saved(tmp_path / "nan.tif", np.array([[0.0, np.nan]], np.float32))
    with pytest.raises(ImageError, match=r"nan\.tif.*not finite"):
        read_image(path, 4, 1)


def test_alpha_is_composited_on_black(tmp_path):
    half = saved(tmp_path / "a.png", np.full((4, 4, 4), (200, 100, 0, 128), np.uint8))
    assert np.abs(read_image(half, 4, 3)[0, 0] - np.array([100, 50, 0])).max() <= 1
    clear = saved(tmp_path / "c.png", np.full((4, 4, 4), (200, 100, 0, 0), np.uint8))
    assert not read_image(clear, 4, 1).any()


def test_palettes_cmyk_and_single_bits(tmp_path):
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(tmp_path / "p.png")
    assert (read_image(tmp_path / "p.png", 4, 3) == [10, 200, 30]).all()
    palette.save(tmp_path / "t.png", transparency=1)
    assert not read_image(tmp_path / "t.png", 4, 3).any()
    Image.new("CMYK", (4, 4), (0, 0, 0, 0)).save(tmp_path / "k.tif")
    assert (read_image(tmp_path / "k.tif", 4, 3) == 255).all()
    Image.new("1", (4, 4), 1).save(tmp_path / "one.tif")
    assert (read_image(tmp_path / "one.tif", 4, 1) == 255).all()


def test_exif_orientation(tmp_path):
    image = Image.fromarray(np.repeat([[0, 255]], 8, 0).repeat(8, 1).astype(np.uint8))
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "o.png", exif=exif)
    pixels = read_image(tmp_path / "o.png", 8, 1)
    assert pixels[0, 0, 0] == 255 and pixels[0, -1, 0] == 0


def test_one_pixel():
    assert (read_image(encode_png(np.array([[77]], np.uint8)), 32, 3) == 77).all()


@pytest.mark.parametrize("shape", [(20000, 2), (3, 20000), (3201, 1601)])
def test_long_and_large_images_agree_with_plain_averaging(shape):
    ramp = np.linspace(0, 125, shape[0])[:, None] + np.linspace(0, 125, shape[1])
    pixels = (ramp + np.random.default_rng(0).integers(0, 5, shape)).astype(np.uint8)
    image = read_image(encode_png(pixels), 20, 1)[..., 0].astype(int)
    expected = Image.fromarray(pixels)
    for target in ((20, expected.height), (20, 20)):
        grows = expected.width < 20 if target[1] != 20 else expected.height < 20
        resample = Image.Resampling.BILINEAR if grows else Image.Resampling.BOX
        expected = expected.resize(target, resample)
    assert np.abs(image - np.asarray(expected)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_twenty_thousand_pixels_square_stay_in_memory(tmp_path, mode):
    path = tmp_path / "huge.png"
    Image.new(mode, (20000, 20000)).save(path, compress_level=1)
    code = (
        "import re, sys\nfrom slava_jax.data.images import read_image\n"
        "assert read_image(sys.argv[1], 224, 3).shape == (224, 224, 3)\n"
        # Not ru_maxrss, which a child inherits from its parent.
        "status = open('/proc/self/status').read()\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2000  # MiB; the decoded picture alone takes up to 1526


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_more_pixels_than_allowed(tmp_path):
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    path = tmp_path / "vast.png"
    path.write_bytes(data + struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 9) + b"IDAT")
    with pytest.raises(ImageError, match=r"vast\.png.*30000 x 30000.*tiles") as caught:
        read_image(path, 8, 1)
    assert f"{MAX_PIXELS:,}" in str(caught.value)
    # Above twice the limit, Pillow itself raises an error.
    path.write_bytes(data.replace(header[:8], struct.pack(">II", 90000, 90000)))
    with pytest.raises(ImageError, match=r"vast\.png"):
        read_image(path, 8, 1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
@pytest.mark.parametrize("keep", [0, 3, 0.3, 0.8])
def test_truncated_files_are_named(tmp_path, suffix, keep):
    rng = np.random.default_rng(0)
    path = saved(tmp_path / f"cut.{suffix}", rng.integers(0, 256, (300, 300), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    with pytest.raises(ImageError, match=rf"cut\.{suffix}"):
        read_image(path, 32, 1)


def test_files_that_are_not_images(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("not an image\n" * 50)
    for path in (text, tmp_path, tmp_path / "absent.png"):
        with pytest.raises(ImageError, match=path.name):
            read_image(path, 8, 1)
    with pytest.raises(ImageError, match="image 7"):
        read_image(b"junk", 8, 1, name="image 7")


def test_list_images(tmp_path):
    for name in ("b.PNG", "a.tif", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.tif", "b.PNG"]
    with pytest.raises(ImageError, match="contains no images"):
        list_images(tmp_path / "folder.png")
    with pytest.raises(ImageError, match="not a folder"):
        list_images(tmp_path / "absent")


def test_augment_reaches_the_eight_symmetries_and_no_more():
    image = np.arange(25, dtype=np.uint8).reshape(5, 5, 1)
    seen = {augment(image, np.random.default_rng(i), True, 4, 0).tobytes() for i in range(200)}
    turned = [np.rot90(image, k) for k in range(4)]
    assert seen == {t.tobytes() for t in turned} | {t[:, ::-1].tobytes() for t in turned}
    seen = {augment(image, np.random.default_rng(i), True, 2, 0).tobytes() for i in range(200)}
    kept = [image, image[::-1], image[:, ::-1], image[::-1, ::-1]]
    assert seen == {k.tobytes() for k in kept}  # columns stay columns
    for i in range(20):
        kept = augment(image, np.random.default_rng(i), False, 1, 0)
        assert np.array_equal(kept, image)


def test_shifts_reflect_at_the_border():
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 1), np.uint8)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = {padded[i : i + 9, j : j + 9].tobytes() for i in range(9) for j in range(9)}
    seen = {augment(image, np.random.default_rng(i), False, 1, 4).tobytes() for i in range(900)}
    assert seen == windows


def test_augment_depends_only_on_its_generator():
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    first, again = (augment(image, np.random.default_rng(5), True, 4, 3) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == image.shape and first.dtype == np.uint8

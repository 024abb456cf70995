"""Which files are opened, and how large they may be."""

import base64
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import slava_jax
from slava_jax.data.decoding import read_header
from slava_jax.data.formats.image_files import ImageFiles
from slava_jax.data.images import ImageError, read_image
from slava_jax.data.instructions import InstructionError
from slava_jax.data.picture import MAX_SIDE
from slava_jax.data.png_rows import has_all_rows

RAMP = np.linspace(0, 4095, 32 * 32).reshape(32, 32).astype(np.uint16)  # a 12-bit camera


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


END = chunk(b"IEND", b"")


def png(samples: np.ndarray, kind: int, size=None, before=b"", after=b"", bits=16) -> bytes:
    """A PNG file; kind 0 is grey, 2 RGB, 4 grey with alpha, 6 RGBA. Below 8 bits: two columns."""
    height, width = size or samples.shape[:2]
    if bits < 8:
        samples = (samples[:, :1] << 8 - bits) + (samples[:, 1:] << 8 - 2 * bits)
    rows = b"".join(b"\0" + row.astype(f">u{max(1, bits // 8)}").tobytes() for row in samples)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    data = before + chunk(b"IDAT", zlib.compress(rows)) + after
    return b"\x89PNG\r\n\x1a\n" + head + data + END


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_wide_png_files_keep_their_levels(kind, channels):
    """Pillow keeps the high byte of each sample, 16 of 256 levels."""
    samples = np.repeat(RAMP[..., None], channels, -1)
    if channels in (2, 4):
        samples[..., -1] = 65535
    shown = read_image(png(samples, kind), 32, 1)[..., 0]
    assert np.abs(shown - RAMP / 4095 * 255).max() <= 1


def test_transparency_of_wide_png_files():
    samples = np.full((8, 8, 2), 40000, np.uint16)
    samples[:, 4:, 1] = 0
    samples[:, :4, 1] = 65535
    shown = read_image(png(samples, 4), 8, 3)
    assert (shown[:, :4] == round(40000 / 257)).all() and not shown[:, 4:].any()
    clear = chunk(b"tRNS", struct.pack(">H", 40000))
    assert not read_image(png(samples[..., 0], 0, before=clear), 8, 1).any()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_transparent_grey_of_few_bits(bits):
    """Pillow compares it with samples that it has widened to 8 bits."""
    most = (1 << bits) - 1
    for clear in {1, most // 2 or 1, most}:
        samples = np.array([[clear, most - clear], [clear, most]])
        file = png(samples, 0, before=chunk(b"tRNS", struct.pack(">H", clear)), bits=bits)
        expected = np.where(samples == clear, 0, samples * 255 // most)
        assert (read_image(file, 2, 1)[..., 0] == expected).all()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", [0, 2, 6])
@pytest.mark.parametrize("rows", [4, 7])
def test_a_png_file_whose_last_rows_are_missing(tmp_path, bits, kind, rows):
    """Its data end as they should, after too few rows. Black rows are no fault."""
    samples = np.full((8, 8, {0: 1, 2: 3, 6: 4}[kind]), 200)
    path = tmp_path / "x.png"
    path.write_bytes(png(samples[:rows], kind, (8, 8), bits=bits))
    for source in (path, path.read_bytes()):
        with pytest.raises(ImageError, match="Not enough image data"):
            read_image(source, 8, 1)
    samples[rows:] = 0
    assert not read_image(png(samples, kind, bits=bits), 8, 1)[rows:].any()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_whole_files_have_all_rows(mode):
    """Also black ones, of any size."""
    for size in ((1, 1), (5, 7), (17, 3), (2000, 1500)):
        file = io.BytesIO()
        Image.new(mode, size).save(file, "PNG")
        assert has_all_rows(file.getvalue()) and not read_image(file.getvalue(), 4, 3).any()


def test_an_interlaced_file_has_all_rows_or_not():
    """In passes over every eighth pixel, then those between."""
    starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2))  # fmt: skip
    samples = np.random.default_rng(0).integers(1, 256, (9, 8))
    rows = [row for x, y, dx, dy in starts for row in samples[y::dy, x::dx] if row.size]
    for count, whole in ((len(rows), True), (len(rows) - 1, False), (1, False)):
        data = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in rows[:count])
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 9, 8, 0, 0, 0, 1))
        file = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + END
        if whole:
            assert has_all_rows(file) and read_image(file, 8, 1).any()
        else:
            with pytest.raises(ImageError, match="Not enough image data"):
                read_image(file, 8, 1)


def test_an_unknown_variant_is_said_without_the_address_of_a_buffer():
    with pytest.raises(ImageError, match="its header is damaged, or of a variant") as error:
        read_image(b"\xff\xd8\xff\xe0" + bytes(100), 8, 1)
    assert "0x" not in str(error.value)


def test_opacity_of_as_few_bits_as_the_colours():
    samples = np.stack([RAMP, RAMP, RAMP, np.full_like(RAMP, 4095)], -1)
    assert np.abs(read_image(png(samples, 6), 32, 1)[..., 0] - RAMP / 4095 * 255).max() <= 1


def test_orientation_of_wide_png_files():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for place in ("before", "after"):
        file = png(RAMP, 0, **{place: chunk(b"eXIf", exif.tobytes()[6:])})
        assert (np.diff(read_image(file, 32, 1)[..., 0].astype(int), axis=0) <= 0).all()


def test_a_wide_png_file_that_is_cut(tmp_path):
    path = tmp_path / "x.png"
    for cut in (60, 900, -14):
        path.write_bytes(png(np.random.default_rng(0).integers(0, 65536, (32, 32)), 0)[:cut])
        with pytest.raises(ImageError, match=r"x\.png"):
            read_image(path, 8, 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PPM", "TGA", "JPEG2000", "EPS", "PCX", "DDS"])
def test_other_formats_are_not_opened(tmp_path, kind, monkeypatch):
    path, buffer = tmp_path / "x.png", io.BytesIO()
    Image.new("RGB", (32, 32), (200, 0, 0)).save(buffer, kind)
    path.write_bytes(buffer.getvalue())
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("started a program"))
    for source in (path, path.read_bytes()):
        with pytest.raises(ImageError, match="not a BMP, JPEG, PNG or TIFF file"):
            read_image(source, 8, 1)
    with pytest.raises(ImageError, match="not a BMP, JPEG, PNG or TIFF file"):
        read_header(path)


def test_the_content_decides_not_the_suffix(tmp_path):
    path = tmp_path / "x.jpg"
    for kind in ("PNG", "TIFF", "BMP"):
        Image.new("L", (20, 10), 70).save(path, kind)
        assert (read_image(path, 4, 1) == 70).all() and read_header(path).size == (20, 10)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(1, 300_000_000), (300_000_000, 1), (25_000, 30_000)])
def test_sizes_are_checked_before_anything_is_decoded(size, monkeypatch):
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("was decoded"))
    with pytest.raises(ImageError, match=rf"{size[1]} x {size[0]} pixels exceed .*{MAX_SIDE:,}"):
        read_image(png(RAMP, 0, size), 8, 1)
    with pytest.raises(ImageError, match="20000 x 20000 pixels of 8 bytes exceed"):
        read_image(png(RAMP, 6, (20_000, 20_000)), 8, 1)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(ImageError, match="is empty"):
        read_image(tmp_path / "x.png", 8, 1)


def test_pages_of_a_png_file(tmp_path):
    frames = [Image.new("L", (8, 8), value) for value in (90, 10)]
    frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:])
    assert read_header(tmp_path / "x.png").note == "page 1 of 2 is used"
    assert (read_image(tmp_path / "x.png", 8, 1) == 90).all()


def test_no_other_module_opens_images_in_any_format():
    package = Path(slava_jax.__file__).parent
    for path in package.rglob("*.py"):
        for line in path.read_text().splitlines():
            assert "Image.open(" not in line or "formats=" in line, f"{path}: {line}"


@pytest.mark.parametrize("kind", ["EPS", "GIF"])
def test_images_in_data_urls_are_not_opened_in_any_format(tmp_path, kind):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    with pytest.raises(InstructionError, match="not a BMP, JPEG, PNG or TIFF file"):
        ImageFiles(tmp_path, writes=True).key("image", url)
    assert not list(tmp_path.iterdir())

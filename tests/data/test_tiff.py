"""TIFF files of every sample type and layout show the same picture, or are refused."""

import io
import struct
import time

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiff_files import LONG, SHORT, tiff_bytes

from slava_jax.data import tiff
from slava_jax.data.decoding import read_header
from slava_jax.data.images import ImageError, read_image

ROWS, COLUMNS = 32, 48
RAMP = np.add.outer(np.linspace(0, 0.4, ROWS), np.linspace(0, 0.6, COLUMNS))  # 0 to 1
DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")


def ramp(dtype) -> np.ndarray:
    """The ramp over the whole range of an integer type, or from -50 to 50."""
    if np.dtype(dtype).kind == "f":
        return (RAMP * 100 - 50).astype(dtype)
    info = np.iinfo(dtype)
    steps = np.rint(RAMP * 10000).astype(int).astype(object)
    return (int(info.min) + steps * (int(info.max) - int(info.min)) // 10000).astype(dtype)


def colours(values: np.ndarray) -> np.ndarray:
    return np.stack([values, values[::-1], values[:, ::-1]], -1)


def encoded(samples, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, metadata=None, **options)
    return file.getvalue()


def averaged(picture: np.ndarray) -> np.ndarray:
    """What a square of 16 pixels shows of [ROWS, COLUMNS, channels]."""
    return picture.reshape(16, 2, 16, 3, -1).mean((1, 3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"byteorder": ">", "rowsperstrip": 5},
        {"compression": "zlib", "predictor": True, "byteorder": ">"},
        {"compression": "lzw", "tile": (16, 16)},
        {"compression": "zstd", "tile": (32, 32), "predictor": True},
    ],
)
def test_every_sample_type_and_layout(dtype, layout):
    if np.dtype(dtype) in (np.uint64, np.int64):
        layout = {**layout, "predictor": False}  # tifffile writes none for them
    grey = read_image(encoded(ramp(dtype), photometric="minisblack", **layout), 16, 1)
    assert np.abs(grey - averaged(RAMP[..., None] * 255)).max() <= 1
    expected, rgb = averaged(colours(RAMP) * 255), colours(ramp(dtype))
    for planes, samples in (("contig", rgb), ("separate", np.moveaxis(rgb, -1, 0))):
        file = encoded(samples, photometric="rgb", planarconfig=planes, **layout)
        assert np.abs(read_image(file, 16, 3) - expected).max() <= 1


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
@pytest.mark.parametrize("order", "<>")
def test_samples_that_are_not_whole_bytes(bits, order):
    values = np.rint(RAMP * (2**bits - 1)).astype(int)
    rows = ["".join(f"{value:0{bits}b}" for value in row) for row in values]
    data = b"".join(int(row, 2).to_bytes(len(row) // 8) for row in rows)
    shown = read_image(tiff_bytes(COLUMNS, ROWS, bits, [data], order=order), 16, 1)
    expected = averaged((values / (2**bits - 1) * 255)[..., None])
    assert np.abs(shown - expected).max() <= 2


@pytest.mark.parametrize("bits", [17, 24, 31])
def test_integers_whose_order_of_bits_is_unknown_are_refused(bits):
    data = bytes(COLUMNS * ROWS * bits // 8)
    with pytest.raises(ImageError, match=f"samples of {bits} bits"):
        read_image(tiff_bytes(COLUMNS, ROWS, bits, [data]), 16, 1)


def test_twelve_bit_colours_have_as_many_levels_as_grey():
    values = (RAMP * 4095).astype(np.uint16)
    grey = encoded(values, photometric="minisblack")
    rgb = encoded(np.stack([values] * 3, -1), photometric="rgb")
    assert np.array_equal(read_image(rgb, 32, 1), read_image(grey, 32, 1))


def test_large_integers_keep_their_differences():
    values = (RAMP * 1000).astype(np.uint64) + np.uint64(2**63)  # one value as float64
    shown = read_image(encoded(values, photometric="minisblack"), 16, 1)
    assert np.abs(shown - averaged(RAMP[..., None] * 255)).max() <= 1


def test_a_range_larger_than_float64():
    shown = read_image(encoded((RAMP - 0.5) * 1.7e308 * 2, photometric="minisblack"), 16, 1)
    assert np.abs(shown - averaged(RAMP[..., None] * 255)).max() <= 1


@pytest.mark.parametrize("kind", ["RGBA", "LA"])
@pytest.mark.parametrize(
    ("extra", "share"), [("unassalpha", 0.5), ("assocalpha", 1), ("unspecified", 1)]
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_transparency(kind, extra, share, dtype):
    values = ramp(dtype) - ramp(dtype).min()
    opacity = 0.5 if dtype == "f4" else np.iinfo(dtype).max * 0.5
    channels = [values] * (3 if kind == "RGBA" else 1) + [np.full_like(values, opacity)]
    options = {"photometric": "rgb" if kind == "RGBA" else "minisblack", "extrasamples": [extra]}
    file = encoded(np.stack(channels, -1), planarconfig="contig", **options)
    if kind == "LA" and extra == "unspecified":
        with pytest.raises(ImageError, match="2 channels whose colours are not stated"):
            read_image(file, 16, 1)
        return
    expected = averaged(RAMP[..., None] * 255 * share)
    assert np.abs(read_image(file, 16, 1).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "packbits", "jpeg"])
def test_what_pillow_writes(tmp_path, compression):
    bilevel = compression not in ("packbits", "jpeg")
    picture = (RAMP > 0.5) * 255 if bilevel else RAMP * 255
    image = Image.fromarray(picture.astype(np.uint8)).convert("1" if bilevel else "RGB")
    image.save(tmp_path / "x.tif", compression=compression)
    shown = read_image(tmp_path / "x.tif", 16, 1)
    assert np.abs(shown - averaged(picture[..., None])).max() <= (6 if compression == "jpeg" else 1)


@pytest.mark.parametrize("most", [255, 65535])
def test_palettes_of_8_and_16_bits(most):
    table = []
    for channel in ((0, 3, 0, 1), (0, 0, 3, 2), (0, 0, 0, 3)):
        table += [value * most // 3 for value in channel] + [0] * 12
    data = bytes([0x01, 0x23])
    file = tiff_bytes(4, 1, 4, [data], [(262, SHORT, [3]), (320, SHORT, table)])
    expected = [[0, 0, 0], [255, 0, 0], [0, 255, 0], [85, 170, 255]]
    shown = read_image(file, 4, 3)[0].astype(int)
    assert np.abs(shown - expected).max() <= 1


NO_PHOTOMETRIC = tiff_bytes(4, 4, 8, [bytes(16)]).replace(
    struct.pack("<HH", 262, SHORT), struct.pack("<HH", 263, SHORT)
)
FOUR = ((277, SHORT, [4]), (258, SHORT, [8] * 4))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (encoded(RAMP.astype("c8")), "samples of 64 bits in format 6"),
        (encoded(ramp("u1"), compression="jpeg2000"), "compressed by method"),
        (encoded(np.zeros((16, 32, 32), "u1"), volumetric=True, tile=(16, 16, 16)), "photometric"),
        (tiff_bytes(2, 1, 8, [bytes(2)], [(262, SHORT, [32803])]), "photometric kind 32803"),
        (tiff_bytes(2, 1, 8, [bytes(6)], [(262, SHORT, [6]), (277, SHORT, [3])]), "YCbCr"),
        (tiff_bytes(2, 1, 8, [bytes(2)], [(262, SHORT, [3])]), "no palette"),
        (tiff_bytes(4, 4, 12, [bytes(24)], [(317, SHORT, [2]), (259, SHORT, [8])]), "predictor"),
        (tiff_bytes(4, 4, 8, [bytes(16)], [(338, SHORT, [2])]), "1 channels, of which 1 are extra"),
        (tiff_bytes(4, 0, 8, [b""]), "4 x 0 pixels"),
        (NO_PHOTOMETRIC, "not say whether 0 is black or white"),
        (tiff_bytes(2, 1, 8, [bytes(8)], [(262, SHORT, [5]), *FOUR, (332, SHORT, [2])]), "inks"),
        (tiff_bytes(4, 4, 8, [bytes(16)], [(273, LONG, [10**6])]), "outside the file"),
        (tiff_bytes(4, 4, 8, [bytes(16)], [(279, LONG, [8])]), "outside the file"),
    ],
)
def test_what_cannot_be_shown_rightly_is_refused(file, message):
    with pytest.raises(ImageError, match=f"the file: .*{message}"):
        read_image(file, 8, 1, name="the file")


@pytest.mark.parametrize("tiles", [{}, {"tile": (16, 16)}])
def test_colours_in_jpeg_in_planes_of_their_own(tiles):
    picture = np.stack([ramp("u1"), ramp("u1")[::-1], np.full((ROWS, COLUMNS), 90, np.uint8)])
    file = encoded(
        picture, photometric="rgb", planarconfig="separate", compression="jpeg",
        compressionargs={"level": 100}, **tiles,
    )  # fmt: skip
    shown = read_image(file, 16, 3).astype(float)
    assert np.abs(shown - averaged(np.moveaxis(picture, 0, -1))).max() <= 2


def test_a_part_in_jpeg_that_is_larger_than_stated():
    """The decoder would allocate what the part says."""
    part = io.BytesIO()
    Image.new("L", (640, 640)).save(part, "JPEG")
    with pytest.raises(ImageError, match="larger than its tiles"):
        read_image(tiff_bytes(8, 8, 8, [part.getvalue()], [(259, SHORT, [7])]), 8, 1)


@pytest.mark.parametrize("width", [60000, 2_000_000])
def test_sizes_are_checked_before_anything_is_decoded(width):
    file = tiff_bytes(8, 8, 8, [bytes(64)], [(256, LONG, [width]), (257, LONG, [60000])])
    with pytest.raises(ImageError, match=f"{width} x 60000 pixels exceed"):
        read_image(file, 8, 1)
    wide = [(256, LONG, [20000]), (257, LONG, [20000]), (258, SHORT, [64])]
    with pytest.raises(ImageError, match="20000 x 20000 pixels of 8 bytes exceed"):
        read_image(tiff_bytes(8, 8, 8, [bytes(64)], wide), 8, 1)


def test_which_page_is_used(tmp_path):
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(np.full((4, 4), 50, np.uint8), subfiletype=1)  # a thumbnail
        file.write(np.full((8, 6), 100, np.uint8))
        file.write(np.full((8, 6), 200, np.uint8))
    header = read_header(path)
    assert (header.size, header.page, header.pages) == ((6, 8), 2, 3)
    assert header.note == "page 2 of 3 is used"
    assert (read_image(path, 4, 1) == 100).all()
    tifffile.imwrite(path, np.zeros((5, 8, 8), np.uint8), imagej=True)
    assert read_header(path).note == "page 1 of 5 is used"
    Image.new("L", (8, 8)).save(path)
    assert read_header(path).note == ""


def test_pages_in_a_circle(tmp_path):
    """Longer than the circles that tifffile notices."""
    count, path = 150, tmp_path / "circle.tif"
    tifffile.imwrite(path, np.zeros((count, 4, 4), np.uint8), photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        pages = [page.offset for page in file.pages]
    data = bytearray(path.read_bytes())
    last = pages[-1] + 2 + 12 * struct.unpack_from("<H", data, pages[-1])[0]
    assert data[last : last + 4] == bytes(4)
    data[last : last + 4] = struct.pack("<I", pages[0])
    path.write_bytes(data)
    start = time.process_time()
    assert read_header(path).pages == count
    assert time.process_time() - start < 5


def test_tags_are_read_up_to_a_limit(tmp_path):
    path = tmp_path / "x.tif"
    path.write_bytes(tiff_bytes(1, 1, 8, [b"x"], [(34118, 7, b"a" * (5 << 20))]))
    with tiff.opened(path) as page:
        assert len(page.raw(34118)) == 4 << 20
        assert page.raw(34682) == b"" and page.raw(256) == b""
        assert page.value(256) == 1 and page.value(34682) is None

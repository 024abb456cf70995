"""Pixel size and magnification as written by microscopes; nothing is reported if unknown."""

import struct
import time

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from tiff_files import ASCII, RATIONAL, SHORT, UNDEFINED, tiff_bytes

from slava_jax.data.images import ImageError, read_image
from slava_jax.data.scale import ScaleError, check_scale, read_scale

# Keys and labels of a Zeiss file, including those of other columns, with made-up values.
ZEISS = "\r\n".join(
    (
        "0",
        "3.593750e-008",
        "DP_LOW_MAG",
        "Low Mag = Off",
        "AP_MINMAG",
        "Min Mag =    118 X",
        "AP_MAG",
        "Mag =  25.00 K X",
        "AP_PIXEL_SIZE",
        "Pixel Size = 9.0 nm",
        "AP_IMAGE_PIXEL_SIZE",
        "Image Pixel Size = {}",
        "AP_FIB_PIXEL_SIZE",
        "FIB Pixel Size = 0.0 fm",
        "",
    )
)
FEI = "[User]\r\nDate=1/1/2020\r\n\r\n[Scan]\r\nInternalScan=true\r\nPixelWidth={}\r\n[Stage]\r\n"
JEOL = "$CM_FORMAT JEOL/SEM\r\n$CM_MAG 5000\r\n$$SM_MICRON_BAR 200\r\n$$SM_MICRON_MARKER {}\r\n"


def tif(tmp_path, tags=None, size=(4, 4), **options):
    path = tmp_path / "x.tif"
    known = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, text in (tags or {}).items():
        known[tag] = text
    Image.new("L", size).save(path, tiffinfo=known, **options)
    return path


@pytest.mark.parametrize(
    ("length", "nm"),
    [("543.0 pm", 0.543), ("2.791 nm", 2.791), ("1.5 µm", 1500.0), ("1.5 ?m", 1500.0)],
)
def test_zeiss(tmp_path, length, nm):
    known = read_scale(tif(tmp_path, {34118: ZEISS.format(length).encode("latin-1")}))
    assert known == {"nm_per_pixel": pytest.approx(nm), "magnification": 25000}


def test_zeiss_without_the_newer_key(tmp_path):
    text = ZEISS.replace("AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = {}\r\n", "")
    assert read_scale(tif(tmp_path, {34118: text}))["nm_per_pixel"] == 9.0


def zeiss(length: str, store: str = "", key: str = "AP_IMAGE_PIXEL_SIZE") -> dict[int, str]:
    text = f"0\r\n{key}\r\nPixel Size = {length}\r\nAP_MAG\r\nMag = 100 X\r\n"
    if store:
        text += f"DP_IMAGE_STORE\r\nStore resolution = {store}\r\n"
    return {34118: text}


@pytest.mark.parametrize(
    ("size", "nm"),
    [
        ((1024, 768), 6.0),
        ((1024, 700), 6.0),  # the bar is cut off
        ((512, 384), 12.0),
        ((341, 256), 6.0 * 1024 / 341),
        ((2048, 1536), 3.0),
        ((2048, 100), None),  # may be enlarged three times and cropped to twice the width
        ((512, 512), None),  # cropped, resized or both
    ],
)
def test_an_image_stored_at_another_size_than_the_scan(tmp_path, size, nm):
    known = read_scale(tif(tmp_path, zeiss("6 nm", "1024 * 768"), size))
    assert known.pop("magnification") == 100
    assert known == ({} if nm is None else {"nm_per_pixel": pytest.approx(nm)})


@pytest.mark.parametrize(
    ("width", "store", "nm"),
    [(1024, "", 6.0), (2048, "", 3.0), (3072, "3072 * 2304", 2.0), (512, "", 12.0),
     (1536, "3072 * 2304", 4.0), (700, "", 6.0)],
)  # fmt: skip
def test_zeiss_pixels_of_the_screen(tmp_path, width, store, nm):
    """AP_PIXEL_SIZE belongs to 1024 pixels across, whatever is stored (hyperspy#2056)."""
    tags = zeiss("6 nm", store, "AP_PIXEL_SIZE")
    known = read_scale(tif(tmp_path, tags, (width, width * 3 // 4)))
    assert known["nm_per_pixel"] == pytest.approx(nm)


@pytest.mark.parametrize("tag", [34680, 34682])
@pytest.mark.parametrize("section", ["Scan", "EScan", "IScan"])
def test_fei(tmp_path, tag, section):
    text = FEI.format("2.5e-009").replace("[Scan]", f"[{section}]")
    assert read_scale(tif(tmp_path, {tag: text})) == {"nm_per_pixel": pytest.approx(2.5)}


@pytest.mark.parametrize(
    ("size", "nm"),
    [((64, 48), 2.5), ((64, 52), 2.5), ((32, 26), 5.0), ((32, 24), 5.0), ((32, 9), None)],
)
def test_fei_stored_at_another_size(tmp_path, size, nm):
    text = FEI.format("2.5e-009") + "[Image]\r\nResolutionX=64\r\nResolutionY=48\r\n"
    known = read_scale(tif(tmp_path, {34682: f"{text}[PrivateFei]\nDatabarHeight=4\n"}, size))
    assert known == ({} if nm is None else {"nm_per_pixel": pytest.approx(nm)})


@pytest.mark.parametrize(
    ("text", "nm"),
    [
        ('<FeiImage><pixelWidth unit="nm">29.5</pixelWidth></FeiImage>', 29.5),
        ('<?xml version="1.0"?>\n<FeiImage><pixelWidth unit="um">0.5</pixelWidth></FeiImage>', 500),
        ("<FeiImage><pixelWidth>7</pixelWidth></FeiImage>", 7),
        ('<FeiImage><pixelWidth unit="px">7</pixelWidth></FeiImage>', None),
        ("<FeiImage><pixelWidth/></FeiImage>", None),
        ("<FeiImage><pixelWidth>7", None),
        ('<!DOCTYPE a [<!ENTITY b "7">]><FeiImage><pixelWidth>x</pixelWidth></FeiImage>', None),
    ],
)
def test_phenom(tmp_path, text, nm):
    path = tif(tmp_path, {34683: text})
    assert read_scale(path) == ({} if nm is None else {"nm_per_pixel": pytest.approx(nm)})


@pytest.mark.parametrize("name", ["x.txt", "x.TXT", "x.Txt", "X.TXT"])
def test_a_side_file_in_any_case(tmp_path, name):
    path = tif(tmp_path)
    (tmp_path / name).write_text(JEOL.format("5um"))
    assert read_scale(path)["nm_per_pixel"] == pytest.approx(25.0)


@pytest.mark.parametrize(("size", "nm"), [((128, 96), 25.0), ((64, 51), 50.0), ((64, 48), 50.0)])
def test_jeol_stored_at_another_size(tmp_path, size, nm):
    path = tif(tmp_path, size=size)
    path.with_suffix(".txt").write_text(JEOL.format("5um") + "$CM_FULL_SIZE 128 96\r\n")
    assert read_scale(path)["nm_per_pixel"] == pytest.approx(nm)
    path.with_suffix(".txt").write_text(JEOL.format("5um") + "$CM_FULL_SIZE 4 96\r\n")
    assert "nm_per_pixel" not in read_scale(path)  # no image of this shape comes from that scan


@pytest.mark.parametrize(
    ("said", "zoom"),
    [("10,000", 10_000), ("1,200,000", 1_200_000), ("10 000", 10_000), ("10'000", 10_000),
     ("5000", 5000), ("x2,500.5", 2500.5), ("7,5", 7.5), ("10,00,0", None), ("1.2.3", None),
     ("1e300", None), ("inf", None), ("5000 or so", None)],
)  # fmt: skip
def test_jeol_groups_thousands(tmp_path, said, zoom):
    path = tif(tmp_path)
    path.with_suffix(".txt").write_text(f"$CM_MAG {said}\r\n")
    assert read_scale(path) == ({} if zoom is None else {"magnification": zoom})


def test_no_other_pixel_size_stands_in_for_a_damaged_one(tmp_path):
    (tag,) = zeiss("6 nm", key="\0\xffAP_IMAGE_PIXEL_SIZE").values()
    tags = {34118: tag + "AP_PIXEL_SIZE\r\nPixel Size = 6 nm\r\n"}
    assert "nm_per_pixel" not in read_scale(tif(tmp_path, tags, (512, 384)))


def test_a_comma_that_may_be_either_is_not_guessed(tmp_path):
    assert read_scale(tif(tmp_path, zeiss("2,75 nm")))["nm_per_pixel"] == pytest.approx(2.75)
    assert "nm_per_pixel" not in read_scale(tif(tmp_path, zeiss("2,750 nm")))


@pytest.mark.parametrize("length", ["1e300 nm", "1e-300 nm", "0 nm", "-3 nm", "nan nm", "inf nm"])
def test_implausible_pixel_sizes_are_unknown(tmp_path, length):
    assert "nm_per_pixel" not in read_scale(tif(tmp_path, zeiss(length)))


def test_a_scale_that_a_user_gives():
    assert check_scale("nm_per_pixel", 0.02, "--x") == 0.02
    for value in (0, -1, 1e-300, 1e300, float("nan"), float("inf")):
        for fact in ("nm_per_pixel", "magnification"):
            with pytest.raises(ScaleError, match="--x must be a number above 0"):
                check_scale(fact, value, "--x")


@pytest.mark.parametrize("suffix", ["tif", "bmp", "jpg"])
def test_jeol_writes_a_file_next_to_the_image(tmp_path, suffix):
    path = tmp_path / f"scan.{suffix}"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    path.with_suffix(".txt").write_text(JEOL.format("5um"))
    assert read_scale(path) == {"nm_per_pixel": pytest.approx(25.0), "magnification": 5000}


IMAGEJ = [
    ("nm", 4.0), ("micron", 4000.0), ("microns", 4000.0), ("micrometer", 4000.0), ("um", 4000.0),
    (r"\u00B5m", 4000.0), (r"\u03bcm", 4000.0),
]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_imagej_micro_signs(tmp_path, encoding):
    for sign in "µ" if encoding == "latin-1" else "µμ":
        text = f"ImageJ=1.54f\nunit={sign}m\nloop=false\n".encode(encoding)
        tags = [(270, ASCII, text + b"\0"), (282, RATIONAL, struct.pack("<II", 10, 1))]
        (tmp_path / "x.tif").write_bytes(tiff_bytes(1, 1, 8, [b"x"], tags))
        assert read_scale(tmp_path / "x.tif") == {"nm_per_pixel": 100.0}


def test_imagej_in_centimetres(tmp_path):
    described = {270: "ImageJ=1.53t\nunit=cm\n", 282: 10.0, 283: 10.0, 296: 3}
    assert read_scale(tif(tmp_path, described)) == {"nm_per_pixel": 1e6}


@pytest.mark.parametrize(("unit", "nm"), IMAGEJ)
def test_imagej(tmp_path, unit, nm):
    described = {270: f"ImageJ=1.53t\nunit={unit}\n", 282: 0.25, 283: 0.25, 296: 1}
    assert read_scale(tif(tmp_path, described)) == {"nm_per_pixel": pytest.approx(nm)}


def test_a_tiff_resolution_counts_if_finer_than_print(tmp_path):
    assert read_scale(tif(tmp_path, resolution_unit="cm", resolution=5e6)) == {
        "nm_per_pixel": pytest.approx(2.0)
    }
    for unit, resolution in (("inch", 72), ("inch", 300), ("inch", 4800), ("cm", 118), (1, 1)):
        assert read_scale(tif(tmp_path, resolution_unit=unit, resolution=resolution)) == {}


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {34118: "AP_PIXEL_SIZE\r\nPixel Size = 0.0 fm\r\nAP_MAG\r\nMag = Off\r\n"},
        {34118: "AP_PIXEL_SIZE\r\nPixel Size = 1.2.3 nm\r\n"},
        {34682: FEI.format("0")},
        {34682: FEI.format("")},
        {34682: "[Scan]\r\n[Vacuum]\r\nPixelWidth=1e-9\r\n"},
        {270: "ImageJ=1.53t\nunit=pixel\n", 282: 0.25, 283: 0.25, 296: 1},
        {270: "unit=nm", 282: 0.25, 283: 0.25, 296: 1},
    ],
)
def test_an_unknown_scale_is_not_reported(tmp_path, tags):
    assert read_scale(tif(tmp_path, tags)) == {}


@pytest.mark.parametrize("text", ["notes on this sample", JEOL.format("wide"), "$CM_MAG big"])
def test_unrelated_text_files_next_to_an_image(tmp_path, text):
    path = tif(tmp_path)
    path.with_suffix(".txt").write_text(text)
    assert "nm_per_pixel" not in read_scale(path)


def test_a_file_whose_suffix_is_wrong(tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path, "PNG")
    assert read_scale(path) == {}


@pytest.mark.parametrize("code", [270, 282, 296, 34118, 34680, 34682, 34683])
@pytest.mark.parametrize("kind", [ASCII, SHORT, RATIONAL, UNDEFINED])
@pytest.mark.parametrize("count", [0, 1, 3, 2**31])
def test_a_picture_that_can_be_read_has_no_scale_that_cannot(tmp_path, code, kind, count):
    """Above all a tag without a value, which many files have."""
    path = tmp_path / "x.tif"
    tags = [(code, kind, bytes(8))]
    path.write_bytes(tiff_bytes(2, 2, 8, [bytes(4)], tags, counts={code: count}))
    assert read_image(path, 2, 1).shape == (2, 2, 1)
    assert read_scale(path) == {}


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "x.tif").write_bytes(b"II*\0\xff\xff\0\0")
    with pytest.raises(ImageError, match=r"x\.tif"):
        read_scale(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (34118, "AP_PIXEL_SIZE" + " " * 10**6),
        (34118, "AP_PIXEL_SIZE\r\nPixel Size =" + " " * 10**6 + "5 nm"),
        (34118, "AP_MAG " * 150_000),
        (34118, "AP_MAG\r\nMag =" + "1" * 10**6),
        (34682, "[Scan]" * 150_000),
        (34682, "[Scan]\nPixelWidth=" + "1." * 500_000),
        (34683, "<a>" * 300_000),
        (270, "ImageJ\n" + "unit=" * 200_000),
        (270, "ImageJ" + "\n" * 10**6),
        (None, "$CM_MAG" + " " * 10**6),
        (None, "$SM_MICRON_MARKER " + "1," * 500_000),
        (None, "$" * 10**6),
        (None, "\r" * 10**6),
    ],
)
def test_a_megabyte_of_text_is_searched_at_once(tmp_path, code, text):
    path = tmp_path / "x.tif"
    resolution = (282, RATIONAL, struct.pack("<II", 10, 1))
    tags = [(code, ASCII, text.encode() + b"\0"), resolution] if code else []
    path.write_bytes(tiff_bytes(1, 1, 8, [b"x"], tags))
    if not code:
        path.with_suffix(".txt").write_text(text)
    start = time.process_time()
    read_scale(path)
    assert time.process_time() - start < 2

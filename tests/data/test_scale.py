"""Pixel size and magnification as written by microscopes; nothing is reported if unknown."""

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from slava_jax.data.scale import read_scale

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


def tif(tmp_path, tags=None, **options):
    path = tmp_path / "x.tif"
    known = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, text in (tags or {}).items():
        known[tag] = text
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path, tiffinfo=known, **options)
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


@pytest.mark.parametrize("tag", [34680, 34682])
@pytest.mark.parametrize("section", ["Scan", "EScan", "IScan"])
def test_fei(tmp_path, tag, section):
    text = FEI.format("2.5e-009").replace("[Scan]", f"[{section}]")
    assert read_scale(tif(tmp_path, {tag: text})) == {"nm_per_pixel": pytest.approx(2.5)}


@pytest.mark.parametrize("suffix", ["tif", "bmp", "jpg"])
def test_jeol_writes_a_file_next_to_the_image(tmp_path, suffix):
    path = tmp_path / f"scan.{suffix}"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    path.with_suffix(".txt").write_text(JEOL.format("5um"))
    assert read_scale(path) == {"nm_per_pixel": pytest.approx(25.0), "magnification": 5000}


@pytest.mark.parametrize(("unit", "nm"), [("nm", 4.0), ("micron", 4000.0), (r"\u00B5m", 4000.0)])
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

"""Kinds of input: image files, and the scale that instruments write into them."""

import functools
import io
import json
import re
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from experiments.fuzz.mutators import chance, chosen, damaged_bytes, damaged_text
from experiments.fuzz.trial import Files, Kind
from slava_jax.data.decoding import read_header
from slava_jax.data.images import read_image
from slava_jax.data.scale import read_scale

SIDE = 32  # of every picture, so that none is stretched unless its size is damaged
_PLAIN_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_ZEISS = (
    "0\r\n0\r\nAP_MAG\r\nMag = 5.00 K X\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 2.791 nm\r\n"
    "AP_PIXEL_SIZE\r\nPixel Size = 2.791 nm\r\nDP_IMAGE_STORE\r\nStore resolution = 32 * 32\r\n"
)
_ZEISS_SIZE = re.compile(rf"AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = {_PLAIN_NUMBER} nm\r\n")
_FEI = "[User]\r\nDate=1\r\n[Image]\r\nResolutionX=32\r\nResolutionY=32\r\n[EScan]\r\n" \
       "PixelWidth=2.5e-009\r\nPixelHeight=2.5e-009\r\n[PrivateFei]\r\nDatabarHeight=0\r\n"
_PHENOM = '<?xml version="1.0"?><FeiImage><pixelWidth unit="nm">29.7</pixelWidth></FeiImage>'
_IMAGEJ = "ImageJ=1.53t\nimages=1\nunit=nm\nmin=0\nmax=255\n"
_JEOL = "$CM_MAG 5000\n$CM_FULL_SIZE 32 32\n$$SM_MICRON_BAR 10\n$$SM_MICRON_MARKER 100nm\n"
_JEOL_SIZE = re.compile(
    rf"\$\$SM_MICRON_BAR {_PLAIN_NUMBER}\n\$\$SM_MICRON_MARKER {_PLAIN_NUMBER}nm\n"
)


@functools.cache
def _pictures() -> tuple[bytes, ...]:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (SIDE, SIDE), np.uint8)
    colour = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    wide = rng.integers(0, 65536, (SIDE, SIDE), np.uint16)
    images = {"L": grey, "RGB": colour, "RGBA": np.dstack([colour, grey]), "LA": colour[..., :2]}
    found = [_saved(Image.fromarray(pixels, mode), "PNG") for mode, pixels in images.items()]
    found += [_saved(Image.fromarray(grey).convert(mode), "PNG") for mode in ("P", "1")]
    for form in ("BMP", "JPEG"):
        found += [_saved(Image.fromarray(pixels), form) for pixels in (grey, colour)]
    found += [_saved(Image.fromarray(colour), "JPEG", progressive=True)]
    found += [imagecodecs.png_encode(wide), imagecodecs.png_encode(colour.astype(np.uint16) << 8)]
    for pixels, options in (
        (grey, {}), (grey, {"compression": "zlib", "predictor": True}), (grey, {"tile": (16, 16)}),
        (grey, {"compression": "packbits", "rowsperstrip": 5}), (grey, {"bigtiff": True}),
        (grey, {"compression": "lzw"}), (colour, {"photometric": "rgb"}),
        (colour, {"compression": "jpeg", "photometric": "ycbcr"}), (wide, {"byteorder": ">"}),
        (colour.transpose(2, 0, 1).astype(np.uint16) << 8,
         {"photometric": "rgb", "planarconfig": "separate"}),
        (grey.astype(np.float32), {}), (grey.astype(np.int16), {}), (grey > 99, {}),
        (grey, {"photometric": "palette", "colormap": rng.integers(0, 65536, (3, 256), np.uint16)}),
        (np.dstack([colour, grey]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (grey.astype(np.float16), {"photometric": "miniswhite"}),
    ):  # fmt: skip
        found.append(_tiff(pixels, **options))
    return tuple(found)


def _saved(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _tiff(pixels: np.ndarray, bigtiff: bool = False, byteorder: str = "<", **options) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=bigtiff, byteorder=byteorder) as writer:
        writer.write(pixels, metadata=None, **options)
    return file.getvalue()


def _picture(rng: np.random.Generator) -> Files:
    raw = chosen(rng, _pictures())
    return {"picture.tif": damaged_bytes(raw, rng) if chance(rng, 0.95) else raw}


def _pixels(folder: Path) -> np.ndarray:
    read_header(folder / "picture.tif")
    return read_image(folder / "picture.tif", SIDE, 3)


def _other_pixels(files: Files, pixels: np.ndarray) -> str:
    raw = files["picture.tif"]
    try:
        found = _of_tiff(raw) if raw[:2] in (b"II", b"MM") else _of_pillow(raw)
    except Exception as error:  # a reader that is less tolerant than the library's use of it
        return f"not read otherwise: {error!r}" if _is_clean(raw) else ""
    if found is None or found.shape[:2] != (SIDE, SIDE):
        return ""
    found = np.broadcast_to(found if found.ndim == 3 else found[..., None], pixels.shape)
    wrong = int((found != pixels).sum())
    return f"{wrong} of {pixels.size} samples differ" if wrong else ""


def _is_clean(raw: bytes) -> bool:
    return raw in _pictures()


def _of_pillow(raw: bytes) -> np.ndarray | None:
    with Image.open(io.BytesIO(raw), formats=("BMP", "JPEG", "PNG")) as image:
        plain = image.mode in ("L", "RGB", "P", "1") and "transparency" not in image.info
        wide = image.format == "PNG" and raw[24] == 16
        if not plain or wide or image.getexif().get(274, 1) != 1:
            return None
        return np.asarray(image.convert("RGB"))


def _of_tiff(raw: bytes) -> np.ndarray | None:
    """Plain pages, and 16 bits that reach the upper half of their range."""
    with tifffile.TiffFile(io.BytesIO(raw)) as file:
        page = file.pages[0]
        rgb = page.photometric == 2 and page.planarconfig == 1 and page.samplesperpixel == 3
        grey = page.photometric == 1 and page.samplesperpixel == 1
        if page.subfiletype or page.tags.valueof(274, 1) != 1 or not (rgb or grey):
            return None
        samples = page.asarray(maxworkers=1)
    if samples.dtype == np.uint16 and samples.max() > 32767:
        return np.rint(samples * (255 / 65535)).astype(np.uint8)
    return samples if samples.dtype == np.uint8 and page.bitspersample == 8 else None


def _scaled(rng: np.random.Generator) -> Files:
    """A TIFF file with a scale in one of its tags, or in a text beside it."""
    kind = chosen(rng, ("zeiss", "fei", "phenom", "imagej", "resolution", "jeol"))
    texts = {"zeiss": _ZEISS, "fei": _FEI, "phenom": _PHENOM, "imagej": _IMAGEJ, "jeol": _JEOL}
    text = texts.get(kind, "")
    if kind == "zeiss" and chance(rng, 0.3):
        text = text.replace("2.791", str(round(float(10 ** rng.uniform(-4, 8)), 4)))
    elif chance(rng, 0.7):
        text = damaged_text(text, rng)
    content = text.encode(chosen(rng, ("utf-8", "latin-1", "utf-16")), "replace")
    tags = {"zeiss": 34118, "fei": 34682, "phenom": 34683}
    options = {"extratags": [(tags[kind], 7, len(content), content, True)]} if kind in tags else {}
    if kind == "imagej":
        options = {"description": content.decode("ascii", "replace").encode("ascii", "replace"),
                   "resolution": (0.4, 0.4), "resolutionunit": 1}
    elif kind == "resolution":
        options = {"resolution": (4e6, 4e6), "resolutionunit": chosen(rng, (1, 2, 3))}
    raw = _tiff(np.zeros((SIDE, SIDE), np.uint8), **options)
    files = {"picture.tif": damaged_bytes(raw, rng) if chance(rng, 0.4) else raw}
    return {**files, "picture.txt": content} if kind == "jeol" else files


def _other_scale(files: Files, known: dict[str, float]) -> str:
    """A size that one plain line states is that one, or unknown."""
    for name, value in known.items():
        low, high = {"nm_per_pixel": (1e-3, 1e6), "magnification": (1, 1e9)}[name]
        if not low <= value <= high:
            return f"{name} is {value}"
    nm = known.get("nm_per_pixel")
    stated = []
    raw = files["picture.tif"].decode("latin-1")
    if raw.count("PIXEL_SIZE") == 2 and (found := _ZEISS_SIZE.search(raw)):
        stated.append(float(found[1]))
    beside = files.get("picture.txt", b"").decode("latin-1")
    if beside.count("SM_MICRON") == 2 and (found := _JEOL_SIZE.search(beside)):
        stated.append(float(found[2]) / float(found[1]) if float(found[1]) else 0)
    if nm is None or not stated or "Store resolution = 32 * 32" not in raw + _ZEISS * bool(beside):
        return ""
    return "" if np.isclose(nm, stated, rtol=1e-9).any() else f"{nm} where {json.dumps(stated)}"


PICTURES = {
    "images": Kind(_picture, _pixels, _other_pixels),
    "TIFF tags": Kind(_scaled, lambda folder: read_scale(folder / "picture.tif"), _other_scale),
}

"""Image files as a data set: copies, bad files, depths, facts, the data bar, and memory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiff_files import tiff_bytes

from slava_jax.data.datasets.base import DataError
from slava_jax.data.datasets.folder import Folder
from slava_jax.data.datasets.store import image_sets
from slava_jax.data.images import ImageError, read_image
from slava_jax.synthetic.micrographs import draw


def noise(seed, side=24, dtype=np.uint8):
    most = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, most, (side, side), dtype, endpoint=True)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    for c, label in enumerate(("gold", "iron")):
        for i in range(6):
            save(tmp_path / "mine" / label / f"{i}.png", noise(10 * c + i))
    return tmp_path / "mine"


def build(folder, **settings):
    return image_sets(Folder(folder, folder.parent / "data", size=16, **settings))


def keys(sets):
    return sorted(key for images in sets.values() for key in images.keys)


def notes(folder):
    (path,) = (folder.parent / "data").rglob("metadata.json")
    return json.loads(path.read_text())


def test_copies_in_any_file_format_are_left_out(folder, capsys):
    whole = keys(build(folder))
    for i in range(4):
        save(folder / "gold" / f"x{i}.bmp", noise(0))
        save(folder / "iron" / f"x{i}.tif", noise(13))
    (folder.parent / "data").rename(folder.parent / "before")
    assert keys(build(folder)) == whole  # the first by name is kept
    said = capsys.readouterr().err
    assert "folder: 8 duplicates dropped" in said and "gold/x0.bmp = gold/0.png" in said
    assert notes(folder)["copies"][-1] == "iron/x3.tif = iron/3.png"
    assert not notes(folder)["in_several_classes"]


def test_a_picture_in_two_classes_is_left_out_of_both_and_named(folder, capsys):
    save(folder / "iron" / "wrong.bmp", noise(2))
    left = keys(build(folder))
    assert "gold/2.png" not in left and "iron/wrong.bmp" not in left and len(left) == 11
    assert notes(folder)["in_several_classes"] == ["gold/2.png = iron/wrong.bmp"]
    assert "1 image(s) found in several classes dropped" in capsys.readouterr().err


def test_a_class_made_of_copies_of_others_is_an_error(folder):
    save(folder / "iron" / "wrong.bmp", noise(2))  # of two other classes
    for i in range(3):
        save(folder / "tin" / f"{i}.png", noise(10 + i))
    with pytest.raises(DataError, match=r"every image of the class 'tin' .*iron/0\.png = tin/0"):
        build(folder)


def test_copies_do_not_make_a_class_large_enough(folder):
    for i in range(5):
        save(folder / "tin" / f"{i}.png", noise(99))
    with pytest.raises(DataError, match=r"class 'tin' has 1 image\(s\) \(tin/0\.png\) but needs 3"):
        build(folder)


def test_a_small_class_that_may_be_misspelt(folder):
    save(folder / "glod" / "0.png", noise(99))
    with pytest.raises(DataError, match=r"class 'glod' has 1 .*did you mean class 'gold'\?"):
        build(folder)


def test_bad_files_are_named_together(folder):
    (folder / "gold" / "1.png").write_bytes(b"")
    half = folder / "iron" / "4.png"
    half.write_bytes(half.read_bytes()[:300])
    (folder / "iron" / "text.jpg").write_text("not an image")
    with pytest.raises(ImageError) as caught:
        build(folder)
    text = str(caught.value)
    assert text.startswith("3 images cannot be read:")
    assert "gold/1.png: is empty (0 bytes)" in text
    assert "iron/4.png: cannot be decoded" in text and "iron/text.jpg: cannot" in text
    assert not list((folder.parent / "data").rglob("*.array_record*"))


@pytest.mark.parametrize("names", [("Gold", "gold"), ("iron oxide", "iron_oxide")])
def test_class_names_that_are_too_similar(tmp_path, names):
    rows = [f"{i}.png,{names[i % 2]}" for i in range(8)]
    for i in range(8):
        save(tmp_path / "mine" / f"{i}.png", noise(i))
    (tmp_path / "mine" / "labels.csv").write_text("\n".join(["file,label", *rows]))
    with pytest.raises(DataError, match=f"classes '{names[0]}' and '{names[1]}' differ only in"):
        build(tmp_path / "mine")


@pytest.mark.parametrize(
    "table",
    [
        "file,label\n0.png,bruité\n".encode("cp1252"),
        b"file,label\n0.png," + b"x" * 2**18,
        b'file,label,note\n0.png,gold,"5 um\n1.png,gold,\n2.png,iron,\n',
    ],
    ids=["not UTF-8", "a field without end", "a quote that is never closed"],
)
def test_a_table_that_is_not_csv_is_named(tmp_path, table):
    save(tmp_path / "mine" / "0.png", noise(0))
    (tmp_path / "mine" / "labels.csv").write_bytes(table)
    with pytest.raises(DataError, match=r"labels\.csv: is not a CSV file in UTF-8 .*save it"):
        build(tmp_path / "mine")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0.png,gold, polished", "labels.csv:2: has more fields than the header; quote"),
        ("x" * 300 + ".png,gold", "labels.csv:2: .*is not a file in"),
    ],
)
def test_an_invalid_line_is_named(tmp_path, line, said):
    save(tmp_path / "mine" / "0.png", noise(0))
    (tmp_path / "mine" / "labels.csv").write_text(f"file,label\n{line}\n")
    with pytest.raises(DataError, match=said):
        build(tmp_path / "mine")


def test_images_that_would_be_skipped_silently(folder):
    """Unsupported formats, and broken links such as git-annex files that were not fetched."""
    Image.fromarray(noise(3)).save(folder / "gold" / "7.webp")
    with pytest.raises(DataError, match=r"1 image\(s\) are in an unsupp.*such as gold/7\.webp"):
        build(folder)
    (folder / "gold" / "7.webp").unlink()
    (folder / "iron" / "8.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"broken links, such as iron/8\.png; save"):
        build(folder)


def table(folder, text, count=6):
    for i in range(count):
        save(folder / f"{i}.png", noise(i))
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return folder


def rows(delimiter=",", *more):
    return "\n".join(delimiter.join((f"{i}.png", "ab"[i % 2], *more)) for i in range(6)) + "\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_of_spreadsheets(tmp_path, delimiter):
    header = delimiter.join(("file", "label", "pixel_size_nm", "alloy"))
    folder = table(tmp_path / "mine", f"\ufeff{header}\n{rows(delimiter, '2.5', 'x' )}")
    for images in build(folder, facts=("alloy",)).values():
        assert all((f["nm_per_pixel"], f["alloy"]) == (2.5, "x") for f in images.facts)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label,label\n" + rows(",", "b"), "labels.csv:1: has two columns label; rename"),
        ("file;label;pixel_size_nm\n" + rows(";", "2,5"), "a decimal point, is '2,5'"),
        ("file;label;pores\n" + rows(";", "2,5"), "column pores holds '2,5'; write numbers with"),
        ("file,label,pores\n" + rows(",", '"10,000"'), "column pores holds '10,000'; write"),
        ("file,label,pores\n0.png,a,\x1b[2J\n", r"control characters, is '\x1b[2J'"),
        ("file,label,pores\n0.png,a\x1b[2J,\n", r"a name has a control character, \x1b"),
        ('file,label,pores\n0.png,"a\nb",\n', r"a name has a control character, \n"),
        ("file,label,pores\n0.png,a <image>,\n", "'a <image>' must not contain <image>"),
    ],
)
def test_tables_that_would_be_misread(tmp_path, text, said):
    with pytest.raises(DataError) as caught:
        build(table(tmp_path / "mine", text), facts=("pores",) if "pores" in text else ())
    assert said in str(caught.value)


def test_a_number_with_an_underscore_is_a_word(tmp_path):
    sets = build(table(tmp_path / "mine", "file,label,run\n" + rows(",", "12_5")), facts=("run",))
    assert sets["train"].facts[0]["run"] == "12_5"


def test_a_table_may_list_links_as_class_folders_hold_them(tmp_path):
    """The files of a large collection are often linked, not copied."""
    folder = table(tmp_path / "mine", "file,label\n" + rows())
    (folder / "0.png").rename(tmp_path / "elsewhere.png")
    (folder / "0.png").symlink_to(tmp_path / "elsewhere.png")
    assert "0.png" in keys(build(folder))
    (folder / "labels.csv").write_text("file,label\n../elsewhere.png,a\n")
    with pytest.raises(DataError, match=r"labels\.csv:2: '\.\./elsewhere\.png' is not a file in"):
        build(folder)


NFC, NFD = "caf\xe9", "cafe\u0301"


@pytest.mark.parametrize("stored", [NFC, NFD])
def test_accents_are_composed_however_they_are_stored(tmp_path, stored):
    """macOS and its archives store a letter and its accent as two characters."""
    for i in range(6):
        save(tmp_path / "mine" / (stored if i % 2 else "tin") / f"{stored}{i}.png", noise(i))
    sets = build(tmp_path / "mine")
    assert sets["train"].class_names == [NFC, "tin"]
    assert keys(sets) == sorted(f"{NFC if i % 2 else 'tin'}/{NFC}{i}.png" for i in range(6))
    forms = [NFC, NFD, NFC, "b", "b", "b"]
    lines = [f"{key},{form}" for key, form in zip(keys(sets), forms, strict=True)]
    (tmp_path / "mine" / "labels.csv").write_text("\n".join(["file,label", *lines]))
    assert keys(build(tmp_path / "mine")) == keys(sets)


def test_names_that_differ_only_in_the_form_of_their_accents(folder):
    (folder / "iron" / "0.png").rename(folder / "iron" / f"{NFC}.png")
    (folder / "iron" / "1.png").rename(folder / "iron" / f"{NFD}.png")
    with pytest.raises(DataError, match=f"two files are named 'iron/{NFC}.png', once with"):
        build(folder)
    for name in (NFC, NFD):
        save(folder / name / "0.png", noise(50))
    with pytest.raises(DataError, match=f"two class folders are named '{NFC}', once with"):
        build(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (b"\xff", r"the name '\udcff/0.png' is not UTF-8; rename it"),
        (b"\x1b[2J", r"the name '\x1b[2J/0.png' has a control character, \x1b; rename it"),
        (b"a\nb", r"has a control character, \n; rename it"),
        ("a\u202eb".encode(), r"has a control character, \u202e; rename it"),
    ],
)
def test_a_class_folder_whose_name_is_no_text(folder, name, said):
    save(folder / os.fsdecode(name) / "0.png", noise(50))
    with pytest.raises(DataError) as caught:
        build(folder)
    assert said in str(caught.value) and str(caught.value).isprintable()


def test_a_file_name_with_an_escape_sequence(folder):
    (folder / "iron" / "0.png").rename(folder / "iron" / "\x1b]0;x\x07.png")
    with pytest.raises(DataError, match=r"name 'iron/\\x1b\]0;x\\x07.png' has a control character"):
        build(folder)


def test_a_file_name_that_is_not_utf8(folder):
    (folder / "iron" / "0.png").rename(folder / "iron" / os.fsdecode(b"\xff.png"))
    with pytest.raises(ImageError, match=r"iron: the name .* is not UTF-8; rename the file"):
        build(folder)


@pytest.mark.parametrize("kind", ["tif", "jpg", "png", "bmp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_format_and_bit_depth_gives_the_same_picture(tmp_path, kind, dtype):
    if dtype == np.uint16 and kind in ("jpg", "bmp"):
        pytest.skip("has 8 bits")
    level = np.arange(0, 256, 8, dtype=np.uint8)
    for i in range(3):
        ramp = np.tile(np.roll(level, i), (32, 1)).astype(dtype)
        save(tmp_path / "mine" / "a" / f"{i}.{kind}", ramp * (257 if dtype == np.uint16 else 1))
    sets = image_sets(Folder(tmp_path / "mine", tmp_path / "data", size=32))
    images = {key: s.encoded(i) for s in sets.values() for i, key in enumerate(s.keys)}
    for i in range(3):
        stored = read_image(images[f"a/{i}.{kind}"], 32, 1)[..., 0].astype(int)
        assert np.abs(stored - np.roll(level, i)).max() <= (12 if kind == "jpg" else 0)


def test_pixel_size_and_magnification_from_table_and_file(tmp_path):
    mine = tmp_path / "mine"
    for i in range(4):
        save(mine / f"{i}.tif", noise(i), tiffinfo={34682: "[Scan]\nPixelWidth=5e-9\n"})
    rows = ["file,label,pixel_size_nm,magnification", "0.tif,a,2.5,40000", "1.tif,a,,"]
    table = mine / "labels.csv"
    table.write_text("\n".join([*rows, "2.tif,a,,300", "3.tif,a,7,"]))
    sets = build(mine)
    facts = {key: dict(s.facts[i]) for s in sets.values() for i, key in enumerate(s.keys)}
    assert {known.pop("width_px") for known in facts.values()} == {noise(0).shape[1]}
    assert facts["0.tif"] == {"category": "a", "nm_per_pixel": 2.5, "magnification": 40000}
    assert facts["1.tif"] == {"category": "a", "nm_per_pixel": 5.0}  # from the file
    assert facts["2.tif"] == {"category": "a", "nm_per_pixel": 5.0, "magnification": 300}
    assert facts["3.tif"]["nm_per_pixel"] == 7
    for bad in ("-1", "0", "nan", "2,5", "5 nm", "1e300", "1e-300"):
        table.write_text(f'file,label,pixel_size_nm\n0.tif,a,1\n1.tif,a,"{bad}"\n')
        with pytest.raises(DataError, match=r"labels\.csv:3: pixel_size_nm must be a number above"):
            build(mine)


def test_columns_are_facts_on_request(tmp_path):
    """A column is numbers only if every cell is one."""
    mine = tmp_path / "mine"
    for i in range(4):
        save(mine / f"{i}.png", noise(i))
    rows = ["file,label,alloy,pores,batch", "0.png,a,AlSi,3,1", "1.png,a,,2.5,2", "2.png,a,Ti, ,3"]
    rows[1:3] = ["0.png,a,AlSi,3,A", "1.png,a,,2.5,2"]
    (mine / "labels.csv").write_text("\n".join([*rows, "3.png,a,Ti,1e3,x"]))
    wanted = [
        {"alloy": "AlSi", "pores": 3.0, "batch": "A"},
        {"pores": 2.5, "batch": "2"},
        {"alloy": "Ti", "batch": "3"},
        {"alloy": "Ti", "pores": 1000.0, "batch": "x"},
    ]
    sets = build(mine, facts=("alloy", "pores", "batch"))
    for images in sets.values():
        for key, known in zip(images.keys, images.facts, strict=True):
            assert known.pop("width_px") and known.pop("category") == "a"
            assert known == wanted[int(key[0])]
    assert all(len(known) == 2 for images in build(mine).values() for known in images.facts)
    with pytest.raises(DataError, match=r"labels\.csv:1: lacks the columns grain of data\.facts"):
        build(mine, facts=("alloy", "grain"))


@pytest.mark.parametrize(
    ("header", "cells", "said"),
    [
        ("x", ["1.5", "2", "nan"], "but 'nan' is none; correct it or leave it empty"),
        ("x", ["1.5", "2", "1e400"], "but '1e400' is none"),
        ("x", ["12.5", "12.5", "N/A"], "but 'N/A' is none"),
        ("x,x", ["5,7"] * 3, "has two columns x; rename one"),
        ("x", ["a", "b", "an <image>"], "labels.csv:4: a fact must not contain <image>"),
    ],
)
def test_cells_that_cannot_be_facts_are_named(tmp_path, header, cells, said):
    mine = tmp_path / "mine"
    for i in range(3):
        save(mine / f"{i}.png", noise(i))
    lines = [f"{i}.png,a,{cell}" for i, cell in enumerate(cells)]
    (mine / "labels.csv").write_text("\n".join([f"file,label,{header}", *lines]))
    with pytest.raises(DataError, match=re.escape(said)):
        build(mine, facts=("x",))


def test_columns_need_a_table(folder):
    with pytest.raises(DataError, match=r"there is no labels\.csv; add one"):
        build(folder, facts=("alloy",))


def test_the_bar_is_cropped_on_request(tmp_path):
    drawn = [draw("Particles", seed, 256) for seed in range(3)]
    for i, micrograph in enumerate(drawn):
        save(tmp_path / "mine" / "a" / f"{i}.png", micrograph.image)
    for crop in (False, True):
        sets = image_sets(Folder(tmp_path / "mine", tmp_path / "data", size=64, crop_bar=crop))
        stored = {key: s.encoded(i) for s in sets.values() for i, key in enumerate(s.keys)}
        for i, micrograph in enumerate(drawn):
            shown = micrograph.image[: -micrograph.bar_height] if crop else micrograph.image
            save(tmp_path / "shown.png", shown)
            expected = read_image(tmp_path / "shown.png", 64, 1)
            assert np.array_equal(read_image(stored[f"a/{i}.png"], 64, 1), expected)


def test_pictures_that_differ_only_in_their_bars_are_copies(tmp_path):
    picture = draw("Powder", 1, 256)
    other = picture.image.copy()
    other[-picture.bar_height :] = 255 - other[-picture.bar_height :]
    for name, pixels in (("a", picture.image), ("b", other), ("c", draw("Powder", 2).image)):
        save(tmp_path / "mine" / "x" / f"{name}.png", pixels)
    save(tmp_path / "mine" / "x" / "d.png", draw("Powder", 3).image)
    assert len(keys(image_sets(Folder(tmp_path / "mine", tmp_path / "data")))) == 4
    cropped = image_sets(Folder(tmp_path / "mine", tmp_path / "data", crop_bar=True))
    assert keys(cropped) == ["x/a.png", "x/c.png", "x/d.png"]


MEMORY = """
import re, sys
from slava_jax.data.datasets.folder import Folder
from slava_jax.data.datasets.store import image_sets
def peak():  # not ru_maxrss, which a child inherits from its parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
image_sets(Folder(sys.argv[1] + "/few", sys.argv[2], size=1000))
few = peak()
sets = image_sets(Folder(sys.argv[1] + "/many", sys.argv[2], size=1000))
assert sum(map(len, sets.values())) == 50
print((peak() - few) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_images_are_streamed(tmp_path):
    for i in range(50):
        pixels = np.full((1000, 1000), i, np.uint8)
        pixels[0, 0] = 255
        for name in ("many", *(["few"] if i < 4 else [])):
            save(tmp_path / name / "a" / f"{i:02d}.png", pixels, compress_level=1)
    command = [sys.executable, "-c", MEMORY, tmp_path, tmp_path / "data"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(re.search(r"-?\d+", done.stdout)[0]) < 25  # MiB; decoding all at once takes 48


def test_files_with_several_pages_are_listed(tmp_path, capsys):
    mine = tmp_path / "mine"
    for i in range(4):
        save(mine / "a" / f"{i}.tif", noise(i))
    first, second = (Image.fromarray(noise(i)) for i in (8, 9))
    first.save(mine / "a" / "stack.tif", save_all=True, append_images=[second])
    build(mine)
    said = capsys.readouterr().err
    assert "1 file(s) with several pages" in said and "a/stack.tif: page 1 of 2 is used" in said


def test_a_tag_without_a_value_does_not_stop_a_folder(tmp_path):
    mine = tmp_path / "mine"
    for i in range(4):
        save(mine / "a" / f"{i}.tif", noise(i))
    tags = [(34118, 2, b""), (282, 5, b""), (270, 2, b"")]
    (mine / "a" / "odd.tif").write_bytes(tiff_bytes(8, 8, 8, [bytes(range(64))], tags))
    assert sum(map(len, (s.keys for s in build(mine).values()))) == 5

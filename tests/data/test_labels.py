"""The table labels.csv: how spreadsheets write it, scales and facts, and what is misread."""

import re
from pathlib import Path

import pytest
from image_folders import build, keys, noise, save, two_classes

from slava_jax.data.datasets.base import DataError


@pytest.fixture
def folder(tmp_path) -> Path:
    return two_classes(tmp_path / "mine")


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
    folder = table(tmp_path / "mine", f"\ufeff{header}\n{rows(delimiter, '2.5', 'x')}")
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
        ("x", ["1.5", "2", "nan"], "x holds 'nan', which is not a finite number; correct it or"),
        ("x", ["1.5", "2", "1e400"], "x holds '1e400', which is not"),
        ("x", ["NaN", "NaN", "2"], "x holds 'NaN', which is not"),
        ("x", ["a", "b", "-Infinity"], "x holds '-Infinity', which is not"),
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


@pytest.mark.parametrize("name", ["category", "width_px", "nm_per_pixel", "magnification"])
def test_a_column_cannot_replace_what_is_known_of_every_image(tmp_path, name):
    """A column of widths would have changed all lengths."""
    folder = table(tmp_path / "mine", f"file,label,{name}\n{rows(',', '5')}")
    with pytest.raises(DataError, match=rf"labels\.csv:1: data\.facts: {name} is already a fact"):
        build(folder, facts=(name,))


def test_a_table_that_is_not_read_is_not_passed_over(folder):
    """The classes would be those of the folders, without a word."""
    (folder / "labels.csv").symlink_to("nowhere.csv")
    with pytest.raises(DataError, match=r"labels\.csv: is not a readable file called"):
        build(folder)
    (folder / "labels.csv").unlink()
    (folder / "Labels.CSV").write_text("file,label\n")
    with pytest.raises(DataError, match=r"Labels\.CSV: .* restore, rename or remove it"):
        build(folder)

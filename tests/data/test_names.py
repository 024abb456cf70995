"""Names of files and classes: accents, lookalikes, and what changes a terminal."""

import os
import re
from pathlib import Path

import pytest
from image_folders import build, keys, noise, save, two_classes

from slava_jax.data.datasets.base import DataError
from slava_jax.data.images import ImageError


@pytest.fixture
def folder(tmp_path) -> Path:
    return two_classes(tmp_path / "mine")


@pytest.mark.parametrize(
    "names",
    [("Gold", "gold"), ("iron oxide", "iron_oxide"), ("gold", "gold\u200b"), ("gold", "go\xadld"),
     ("gold", "\uff47old")],
)  # fmt: skip
def test_class_names_that_are_too_similar(tmp_path, names):
    rows = [f"{i}.png,{names[i % 2]}" for i in range(8)]
    for i in range(8):
        save(tmp_path / "mine" / f"{i}.png", noise(i))
    (tmp_path / "mine" / "labels.csv").write_text("\n".join(["file,label", *rows]))
    said = re.escape(f"classes {names[0]!r} and {names[1]!r} differ only in")
    with pytest.raises(DataError, match=said):
        build(tmp_path / "mine")


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

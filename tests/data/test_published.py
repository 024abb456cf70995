"""Reads the paper's data sets in the layout of their archives; errors on misspelt names."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from slava_jax.data.datasets import catalogue
from slava_jax.data.datasets.base import DataError
from slava_jax.data.datasets.catalogue import PUBLISHED, find_images
from slava_jax.data.datasets.published import Published
from slava_jax.data.datasets.store import image_sets
from slava_jax.train.datasets import ON_DISK

STEEL = list(PUBLISHED["neu"].counts)
EACH = 4  # images per class in these tests


def write(path, rng, mode="L", side=24):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (side, side, 3) if mode == "RGB" else (side, side)
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(path)


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """Sets the published counts to four per class."""
    for name, published in PUBLISHED.items():
        few = dataclasses.replace(published, counts=dict.fromkeys(published.counts, EACH))
        monkeypatch.setitem(catalogue.PUBLISHED, name, few)


def sem(root, rng):
    for name in PUBLISHED["sem"].counts:
        for i in range(EACH):
            write(root / name / f"L{i}_{rng.integers(10**9):x}.jpg", rng)


def neu_first_release(root, rng):
    for short in ("Cr", "In", "Pa", "PS", "RS", "Sc"):
        for i in range(EACH):
            write(root / "NEU surface defect database" / f"{short}_{i + 1}.bmp", rng)


def neu_det(root, rng):
    for name in STEEL:
        for i in range(EACH):
            write(root / "NEU-DET" / "IMAGES" / f"{name}_{i + 1}.jpg", rng)
            boxes = root / "NEU-DET" / "ANNOTATIONS" / f"{name}_{i + 1}.xml"
            boxes.parent.mkdir(exist_ok=True)
            boxes.write_text("<annotation/>")


def neu_det_in_class_folders(root, rng):
    for name in STEEL:
        for i in range(EACH):
            part = "validation" if i == EACH - 1 else "train"
            write(root / "NEU-DET" / part / "images" / name / f"{name}_{i + 1}.jpg", rng)
            boxes = root / "NEU-DET" / part / "annotations" / f"{name}_{i + 1}.xml"
            boxes.parent.mkdir(exist_ok=True)
            boxes.write_text("<annotation/>")


def neu_cls_in_class_folders(root, rng):
    folders = {"Crazing": "Cr", "Inclusion": "In", "Patches": "Pa", "Pitted": "PS"}
    for folder, short in {**folders, "Rolled": "RS", "Scratches": "Sc"}.items():
        for i, part in enumerate(("train", "train", "valid", "test")):
            write(root / part / folder / f"{short}_{i + 1}.bmp", rng)
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._Cr_1.bmp").write_bytes(b"not an image")


def cmi(root, rng):
    renamed = root / "DATA_SET_FOR_RELEASE" / "renamed"
    for score in range(5, 10):
        for i in range(EACH):
            first = renamed / "cross_val_1" / "train" / str(score) / f"{score}_{i}.jpg"
            if i == 0:
                first = renamed / "test" / str(score) / f"{score}_{i}.jpg"
            write(first, rng, "RGB")
            if i:  # the second fold contains the same images
                part = "val" if i == 1 else "train"
                copy = renamed / "cross_val_2" / part / str(score) / first.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(first.read_bytes())


def kth_tips(root, rng):
    for name in PUBLISHED["kth_tips"].counts:
        for i in range(EACH):
            write(root / "KTH_TIPS" / name / f"15-scale_{i + 1}_im_1_col.png", rng, "RGB")


LAYOUTS = {
    "sem": [sem],
    "neu": [neu_first_release, neu_det, neu_det_in_class_folders, neu_cls_in_class_folders],
    "cmi": [cmi],
    "kth_tips": [kth_tips],
}
CASES = [(name, layout) for name, layouts in LAYOUTS.items() for layout in layouts]


def test_the_innermost_folder_gives_the_class(tmp_path):
    kth_tips(tmp_path / "cotton", np.random.default_rng(0))
    found = find_images(PUBLISHED["kth_tips"], tmp_path)
    assert len({label for _, label in found}) == 10
    assert all(path.parent.name == label for path, label in found)


@pytest.mark.parametrize(("which", "layout"), CASES, ids=lambda case: getattr(case, "__name__", 0))
def test_every_layout_gives_the_published_classes_and_counts(which, layout, tmp_path, capsys):
    layout(tmp_path / "unpacked", np.random.default_rng(0))
    channels = 3 if which in ("cmi", "kth_tips") else 1
    sets = image_sets(Published(which, tmp_path / "unpacked", tmp_path / "data", 16, channels))
    names = list(PUBLISHED[which].counts)
    found = Counter(s.category(i) for s in sets.values() for i in range(len(s)))
    assert found == dict.fromkeys(names, EACH)
    for images in sets.values():
        assert images.class_names == names and images.name.startswith(f"{which} ")
        for facts in images.facts:  # the scale is unknown
            assert set(facts) == {"category", "width_px"}
    keys = [key for s in sets.values() for key in s.keys]
    assert len(set(keys)) == len(keys) == EACH * len(names)
    said = capsys.readouterr().err
    assert "published" not in said  # nothing differs
    assert ("15 duplicates dropped" in said) == (which == "cmi")


def test_the_counts_are_those_of_the_papers(monkeypatch):
    monkeypatch.undo()
    totals = {name: sum(published.counts.values()) for name, published in PUBLISHED.items()}
    # Aversa et al. (2018); sections 4.12.1 to 4.12.3 of the paper.
    assert totals == {"sem": 21282, "neu": 1800, "cmi": 600, "kth_tips": 810}
    assert [len(PUBLISHED[name].counts) for name in totals] == [10, 6, 5, 10]
    assert set(ON_DISK) == {"folder", *PUBLISHED}
    for published in PUBLISHED.values():
        assert set(published.other_names.values()) <= set(published.counts)


def test_a_differing_count_is_reported_but_not_an_error(tmp_path, capsys):
    rng = np.random.default_rng(0)
    kth_tips(tmp_path / "kth", rng)
    write(tmp_path / "kth" / "KTH_TIPS" / "linen" / "44-scale_9_im_9_col.png", rng, "RGB")
    (tmp_path / "kth" / "KTH_TIPS" / "sponge" / "15-scale_1_im_1_col.png").unlink()
    sets = image_sets(Published("kth_tips", tmp_path / "kth", tmp_path / "data", 16))
    said = capsys.readouterr().err
    assert "kth_tips: linen: 5 images, 4 published" in said
    assert "kth_tips: sponge: 3 images, 4 published" in said
    assert said.count("published") == 2
    assert sum(map(len, sets.values())) == 40


def test_misspelt_folders_are_listed_with_suggestions(tmp_path):
    root = tmp_path / "sem"
    sem(root, np.random.default_rng(0))
    (root / "Nanowires").rename(root / "Nanowire")
    (root / "Tips").rename(root / "holiday")
    (root / "Powder").rename(root / "powder ")  # case and spaces are ignored
    with pytest.raises(DataError) as caught:
        find_images(catalogue.PUBLISHED["sem"], root)
    text = str(caught.value)
    assert str(root) in text and "third_party/sem-dataset.md" in text
    assert "Nanowire: 4 image(s) of unknown class (did you mean Nanowires?)" in text
    assert "holiday: 4 image(s) of unknown class (the classes: Biological, Fibres," in text
    assert "Nanowires: no image" in text and "Tips: no image" in text
    assert "owder" not in text.split("\n", 1)[1].replace("Powder, Tips)", "")


def test_misspelt_file_names(tmp_path):
    rng = np.random.default_rng(0)
    neu_det(tmp_path, rng)
    images = tmp_path / "NEU-DET" / "IMAGES"
    write(images / "scratchs_5.jpg", rng)
    with pytest.raises(DataError, match=r"IMAGES/scratchs: 1 .*did you mean scratches\?"):
        find_images(catalogue.PUBLISHED["neu"], tmp_path)
    (images / "scratchs_5.jpg").unlink()
    (images / "crazing_1.jpg").rename(tmp_path / "poster.jpg")
    with pytest.raises(DataError, match=r"poster\.jpg: 1 image"):
        find_images(catalogue.PUBLISHED["neu"], tmp_path)


def test_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: is not a folder.*third_party/cmi\.md"):
        Published("cmi", tmp_path / "nowhere", tmp_path / "data")

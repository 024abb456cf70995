"""Runs on images from disk: the right builder, and prompts with the known facts."""

import numpy as np
from PIL import Image
from tiny_run import get_config

from slava_jax.data.datasets.catalogue import PUBLISHED
from slava_jax.train import loop
from slava_jax.train.datasets import prepare


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20), np.uint8)
    Image.fromarray(pixels).save(path)


def on_disk(name, folder):
    config = get_config()
    config.data.update(name=name, folder=str(folder), size=32)
    return config


def test_the_scale_of_an_image_is_in_its_prompts(tmp_path):
    rows = ["file,label,pixel_size_nm,magnification"]
    for i in range(12):
        save(tmp_path / "mine" / f"{i}.png", i)
        rows.append(f"{i}.png,{'ab'[i % 2]},{'' if i < 4 else 2.5},{'' if i < 8 else 40000}")
    (tmp_path / "mine" / "labels.csv").write_text("\n".join(rows))
    datasets = prepare(on_disk("folder", tmp_path / "mine"), tmp_path / "run")
    said = {}
    for split in (datasets.train, datasets.validation, datasets.test):
        said |= {item.images[0]: item.metadata["supplement"] for item in split.instructions}
    assert len(said) == 12
    for key, supplement in said.items():
        i = int(key.removesuffix(".png"))
        known = ("", "Pixel size 2.5 nm.", "Pixel size 2.5 nm, magnification 40,000x.")
        assert supplement == known[i // 4]


def test_a_published_set_is_read_by_its_name(tmp_path):
    names = list(PUBLISHED["cmi"].counts)
    for c in range(5):
        for i in range(4):
            save(tmp_path / "cmi" / "test" / str(5 + c) / f"{i}.jpg", 10 * c + i)
    datasets = prepare(on_disk("cmi", tmp_path / "cmi"), tmp_path / "run")
    assert datasets.class_names == names
    assert datasets.class_answers[0] == "corrosion 5"
    assert len(datasets.test.images) == 5


def test_a_report_shows_drawn_images_and_ones_own_alone():
    """A report may be shared, but no other data set has a licence that allows it."""
    for name in (*PUBLISHED, "elpv"):
        assert loop._why_images_withheld(name)
    assert not loop._why_images_withheld("procedural") and not loop._why_images_withheld("folder")


def test_a_name_is_no_formula_in_a_spreadsheet():
    rows = [("", "=1+1.png", "@sum", -0.5), ("shuffled", "a.png", "-5C", 1)]
    table = loop._table(["@sum", "-5C"], rows)
    assert table.splitlines() == [
        "control,image,class,log p @sum,log p -5C", ",'=1+1.png,'@sum,-0.5", "shuffled,a.png,'-5C,1"
    ]  # fmt: skip

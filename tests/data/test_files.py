"""Image files as a data set: copies, bad files, depths, the data bar, pages, and memory."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_folders import build, keys, noise, save, two_classes
from PIL import Image
from tiff_files import tiff_bytes

from slava_jax.data.datasets.base import DataError
from slava_jax.data.datasets.folder import Folder
from slava_jax.data.datasets.store import image_sets
from slava_jax.data.images import ImageError, read_image
from slava_jax.synthetic.micrographs import draw


@pytest.fixture
def folder(tmp_path) -> Path:
    return two_classes(tmp_path / "mine")


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


def test_a_stored_set_that_is_damaged_is_named(folder):
    """Whatever the libraries raise; it can be built again."""
    whole = keys(build(folder))
    files = [path for path in (folder.parent / "data").rglob("*") if path.is_file()]
    files = [path for path in files if path.name == "dataset_info.json" or "array" in path.name]
    assert len(files) == 4
    for path in files:
        content = path.read_bytes()
        for damaged in (b"", content[: len(content) // 2], b"{" + content[1:-9], None):
            path.write_bytes(damaged) if damaged is not None else path.unlink()
            try:
                assert keys(build(folder)) == whole  # such as padding
            except DataError as error:
                assert "delete that folder" in str(error)
        path.write_bytes(content)
    assert keys(build(folder)) == whole


def test_images_that_would_be_skipped_silently(folder):
    """Unsupported formats, and broken links such as git-annex files that were not fetched."""
    Image.fromarray(noise(3)).save(folder / "gold" / "7.webp")
    with pytest.raises(DataError, match=r"1 image\(s\) are in an unsupp.*such as gold/7\.webp"):
        build(folder)
    (folder / "gold" / "7.webp").unlink()
    (folder / "iron" / "8.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"broken links, such as iron/8\.png; save"):
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

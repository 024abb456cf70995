"""The TFDS builders: storage, splits and errors for bad data."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from glob import glob
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slava_jax.data.datasets.base import DataError
from slava_jax.data.datasets.drawing import draw_all
from slava_jax.data.datasets.elpv import Elpv
from slava_jax.data.datasets.folder import Folder
from slava_jax.data.datasets.procedural import Procedural, image_seed
from slava_jax.data.datasets.store import image_sets, split_stratified
from slava_jax.data.images import ImageError, read_image
from slava_jax.synthetic.micrographs import draw
from slava_jax.synthetic.records import CATEGORIES, GroundTruth

SIZE = 64
FOLDER = {"gold": (10, 0), "iron": (5, 105), "tin": (3, 155)}  # count, value of the first


def write_image(path, value=100, side=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for label, (count, first) in FOLDER.items():
        for i in range(count):
            write_image(tmp_path / "mine" / label / f"{label}{i}.png", first + 10 * i)
    return tmp_path / "mine"


def test_class_folders(folder, tmp_path):
    sets = image_sets(Folder(folder, tmp_path / "data", size=16))
    assert {split: len(images) for split, images in sets.items()} == {
        "train": 7 + 3 + 1,
        "validation": 1 + 1 + 1,
        "test": 2 + 1 + 1,
    }
    keys = [key for images in sets.values() for key in images.keys]
    assert sorted(keys) == sorted(p.relative_to(folder).as_posix() for p in folder.glob("*/*"))
    for images in sets.values():
        assert images.class_names == ["gold", "iron", "tin"]
        for i, key in enumerate(images.keys):
            label = key.split("/")[0]
            value = FOLDER[label][1] + 10 * int(key[-5])
            assert images.index[key] == i and images.category(i) == label
            assert set(images.facts[i]) == {"category", "width_px"} and images.records[i] is None
            assert images.facts[i]["category"] == label
            assert (read_image(images.encoded(i), 16, 1) == value).all()


def test_a_data_set_is_built_once_and_rebuilt_when_it_changes(folder, tmp_path):
    builder = Folder(folder, tmp_path / "data")
    first = image_sets(builder)
    stamp = os.stat(builder.data_path).st_mtime_ns
    again = image_sets(Folder(folder, tmp_path / "data"))
    assert os.stat(builder.data_path).st_mtime_ns == stamp
    assert all(first[split].keys == again[split].keys for split in first)
    write_image(folder / "tin" / "more.png", 240)
    more = image_sets(Folder(folder, tmp_path / "data", size=16))
    assert sum(map(len, more.values())) == 19
    write_image(folder / "tin" / "more.png", 250)
    more = image_sets(Folder(folder, tmp_path / "data", size=16))
    (images,) = [images for images in more.values() if "tin/more.png" in images.index]
    pixels = read_image(images.encoded(images.index["tin/more.png"]), 16, 1)
    assert (pixels == 250).all()


def test_labels_file(tmp_path):
    for i in range(6):
        write_image(tmp_path / "mine" / f"{i}.png", 10 * i)
    table = tmp_path / "mine" / "labels.csv"
    table.write_text("file,label,note\n" + "".join(f"{i}.png,{'ab'[i % 2]},x\n" for i in range(6)))
    sets = image_sets(Folder(tmp_path / "mine", tmp_path / "data", channels=3))
    found = {k: s.category(i) for s in sets.values() for i, k in enumerate(s.keys)}
    assert found == {f"{i}.png": "ab"[i % 2] for i in range(6)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,class\n0.png,a\n", r"labels\.csv:1: must name the columns file and label"),
        ("file,label\n0.png,a\nno.png,a\n", r"labels\.csv:3: 'no\.png' is not a file"),
        ("file,label\n0.png,a\n1.png\n", r"labels\.csv:3: file or label is empty"),
        ("file,label\n0.png,a\n0.png,b\n", r"labels\.csv:3: '0\.png' is already listed in line 2"),
        ("file,label\n../mine.png,a\n", r"labels\.csv:2: .* is not a file in"),
        ("file,label\n", r"labels\.csv: lists no images"),
    ],
)
def test_bad_labels_files(tmp_path, text, message):
    write_image(tmp_path / "mine" / "0.png")
    write_image(tmp_path / "mine" / "1.png")
    write_image(tmp_path / "mine.png")
    (tmp_path / "mine" / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        Folder(tmp_path / "mine", tmp_path / "data")


def test_bad_folders(folder, tmp_path):
    with pytest.raises(DataError, match="absent: is not a folder"):
        Folder(tmp_path / "absent", tmp_path / "data")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="bare: has neither"):
        Folder(tmp_path / "bare", tmp_path / "data")
    (folder / "tin" / "tin0.png").unlink()
    with pytest.raises(DataError, match=r"class 'tin' has 2 image.*add images or remove the class"):
        image_sets(Folder(folder, tmp_path / "data"))
    (folder / "zinc").mkdir()
    with pytest.raises(ImageError, match="zinc: contains no images"):
        Folder(folder, tmp_path / "data")


@pytest.mark.parametrize("stray", ["top.png", "gold/deeper/a.TIF"])
def test_an_image_that_is_in_no_class_folder_is_named(folder, tmp_path, stray):
    path = folder / stray
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"any")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "thumb.png").write_bytes(b"any")
    with pytest.raises(DataError, match=f"1 image.s. are not directly .* such as {stray}; move"):
        Folder(folder, tmp_path / "data")


def test_a_bad_file_is_named_and_no_work_is_lost(folder, tmp_path):
    bad = folder / "iron" / "iron3.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"iron/iron3\.png"):
        image_sets(Folder(folder, tmp_path / "data"))
    assert not list((tmp_path / "data").rglob("*.array_record*"))
    bad.write_bytes(whole)
    assert sum(map(len, image_sets(Folder(folder, tmp_path / "data")).values())) == 18


def split_of(keys, seed=0):
    strata = [("even", "odd")[len(key) % 2] for key in keys]
    parts = split_stratified(keys, strata, seed, "set")
    assert sorted(i for rows in parts.values() for i in rows) == list(range(len(keys)))
    return {keys[i]: split for split, rows in parts.items() for i in rows}


def test_splits_are_stratified_and_stable():
    keys = ["a" * (1 + i % 2) + f"{i:03d}" for i in range(200)]
    split = split_of(keys)
    for odd in range(2):
        counts = [split[key] for key in keys if len(key) % 2 == odd]
        shares = [counts.count(part) for part in ("train", "validation", "test")]
        assert shares == [70, 10, 20]
    assert split_of(keys[::-1]) == split  # independent of the order
    assert split_of(keys, seed=1) != split
    more = split_of([*keys, "a200", "aa201"])
    assert sum(more[key] != split[key] for key in keys) <= 4
    with pytest.raises(DataError, match="set: contains no images"):
        split_of([])


def test_other_shares_give_another_data_set(folder, tmp_path):
    """The files of the default shares are not reused."""
    first = image_sets(Folder(folder, tmp_path / "data", size=16))
    second = image_sets(Folder(folder, tmp_path / "data", size=16, shares=(0.2, 0.4)))
    assert len(first["test"]) == 4 and len(second["test"]) == 4 + 2 + 1
    assert len(second["validation"]) == 2 + 1 + 1


def test_procedural_micrographs(tmp_path):
    sets = image_sets(Procedural(tmp_path, images_per_category=3, size=SIZE, seed=5))
    assert {split: len(images) for split, images in sets.items()} == dict.fromkeys(sets, 10)
    images = sets["train"]
    assert images.class_names == list(CATEGORIES)
    for i in (0, 4, 9):
        category, number = images.keys[i].split("/")
        drawn = draw(category, image_seed(5, int(number)), SIZE)
        assert np.array_equal(read_image(images.encoded(i), SIZE, 1)[..., 0], drawn.image)
        assert images.category(i) == category and images.facts[i] == {}
        known = images.with_facts(lambda truth: {"category": truth.category, "n": truth.kv})
        assert known.facts[i] == {"category": category, "n": drawn.truth.kv}
        assert GroundTruth(**{**images.records[i], "size_nm": None, "artefacts": ()}).category
    fewer = {image_seed(5, i) for i in range(3)}
    assert fewer < {image_seed(5, i) for i in range(9)} and fewer != {0, 1, 2}


def test_drawing_in_processes_gives_the_same_images():
    jobs = [(category, i, SIZE) for i in range(3) for category in CATEGORIES]
    assert list(draw_all(jobs, 2)) == list(draw_all(jobs, 1))


def children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # The process has ended in the meantime.
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_killed_build_is_restarted_and_leaves_no_process(tmp_path):
    code = (
        "import sys\n"
        "from slava_jax.data.datasets.procedural import Procedural\n"
        "from slava_jax.data.datasets.store import image_sets\n"
        'if __name__ == "__main__":\n'
        f"    image_sets(Procedural({str(tmp_path)!r}, 400, size=64, workers=2))\n"
    )
    script = tmp_path / "build.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    build = subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.DEVNULL)
    # glob ignores a folder that is moved away in the meantime; Path.rglob raises.
    begun = f"{tmp_path}/**/incomplete.*"
    wait_for(lambda: glob(begun, recursive=True) and len(children(build.pid)) >= 3)
    workers = children(build.pid)
    build.send_signal(signal.SIGKILL)
    build.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    # The remains of the build, moved next to a smaller set of the same name.
    leftover = next(tmp_path.rglob("incomplete.*"))
    builder = Procedural(tmp_path, 3, size=SIZE)
    target = Path(builder.data_path).parent
    target.mkdir(parents=True)
    leftover.rename(target / leftover.name)
    assert len(image_sets(builder)["train"]) == 10
    assert not list(target.glob("incomplete.*"))


def wait_for(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited too long"
        time.sleep(0.05)


def test_no_tensorflow_and_no_network(folder, tmp_path):
    code = (
        "import socket, sys\n"
        'def refuse(*_): raise OSError("a connection was tried")\n'
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
        "from slava_jax.data.datasets.folder import Folder\n"
        "from slava_jax.data.datasets.store import image_sets\n"
        "sets = image_sets(Folder(*sys.argv[1:]))\n"
        "import slava_jax.data.assistant_batches, slava_jax.data.datasets.elpv\n"
        'assert len(sets["train"]) == 11 and sets["train"].encoded(0)[1:4] == b"PNG"\n'
        'assert "tensorflow" not in sys.modules\n'
    )
    arguments = [sys.executable, "-c", code, folder, tmp_path / "data"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""  # TFDS's messages about downloads are suppressed
    assert "18/18" in done.stderr  # the progress bar


def make_elpv(root, lines):
    for i in range(16):
        write_image(root / "elpv_dataset" / "data" / "images" / f"cell{i:04d}.png", 15 * i, 30)
    (root / "elpv_dataset" / "__init__.py").write_text("")
    (root / "elpv_dataset" / "data" / "labels.csv").write_text("\n".join(lines) + "\n")


def test_elpv_is_read_from_the_installed_package(tmp_path, monkeypatch):
    levels, cells = ["0.0", "0.3333333333333333", "0.6666666666666666", "1.0"], ["mono", "poly"]
    lines = [f"images/cell{i:04d}.png  {levels[i % 4]}   {cells[i // 8]}" for i in range(16)]
    make_elpv(tmp_path / "site", lines)
    monkeypatch.syspath_prepend(tmp_path / "site")
    sets = image_sets(Elpv(tmp_path / "data", size=SIZE))
    found = {k: (s, i) for s in sets.values() for i, k in enumerate(s.keys)}
    assert len(found) == 16
    for part in sets.values():  # stratified by class and cell type
        kinds = zip(part.labels.tolist(), (f["cell_type"] for f in part.facts), strict=True)
        assert len(set(kinds)) == 4
    images, i = found["cell0002"]
    assert images.category(i) == "defective" and images.class_names == ["functional", "defective"]
    assert images.facts[i] == {
        "category": "defective",
        "defect_probability": 2 / 3,
        "cell_type": "monocrystalline",
    }
    assert (read_image(images.encoded(i), SIZE, 1) == 30).all()
    images, i = found["cell0009"]
    assert images.category(i) == "functional"
    assert images.facts[i]["cell_type"] == "polycrystalline"
    make_elpv(tmp_path / "site", [*lines, "images/cell0001.png much mono"])
    with pytest.raises(DataError, match=r"labels\.csv:17"):
        image_sets(Elpv(tmp_path / "other"))


def test_elpv_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(DataError, match=r'pip install "slava_jax\[elpv\]"'):
        image_sets(Elpv(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("elpv_dataset"), reason="needs elpv-dataset")
def test_elpv_as_published(tmp_path):
    sets = image_sets(Elpv(tmp_path))
    levels = [f["defect_probability"] for s in sets.values() for f in s.facts]
    values, counts = np.unique(np.round(levels, 2), return_counts=True)
    # Counts of the four annotated probabilities: Deitsch et al. (2019).
    assert dict(zip(values, counts, strict=True)) == {0: 1508, 0.33: 295, 0.67: 106, 1: 715}
    labels = np.concatenate([s.labels for s in sets.values()])
    assert np.bincount(labels).tolist() == [1803, 821]

"""From a LLaVA file and a folder of images to a trained assistant."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import get_config

from slava_jax.commands.reformat import main
from slava_jax.data.datasets.base import DataError
from slava_jax.data.instructions import read_jsonl
from slava_jax.data.pipeline import PipelineError
from slava_jax.errors import UserError
from slava_jax.files import seal
from slava_jax.train import loop
from slava_jax.train.datasets import prepare
from slava_jax.train.loop import run
from slava_jax.train.workdir import INPUTS, WorkdirError


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("round", "square"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 255, (20, 20), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def config(images, tmp_path):
    """Instructions from a LLaVA file: two turns about each image, and one about two images."""
    records = []
    for path in sorted(images.glob("*/*")):
        key = path.relative_to(images).as_posix()
        turns = [
            {"from": "human", "value": "<image>\nWhat is its edge like?"},
            {"from": "gpt", "value": f"As of {path.parent.name} number {path.stem}."},
            {"from": "human", "value": "Is it large?"},
            {"from": "gpt", "value": "No."},
        ]
        records.append({"id": key, "image": key, "conversations": turns})
    (tmp_path / "llava.json").write_text(json.dumps(records))
    command = ("--from", tmp_path / "llava.json", "--to", tmp_path / "mine.jsonl")
    main([str(a) for a in (*command, "--images", images)])
    config = get_config()
    config.data.update(
        name="folder", folder=str(images), size=32, instructions=str(tmp_path / "mine.jsonl")
    )
    return config


def test_every_split_gets_its_own(config, tmp_path, capsys):
    pair = json.loads((tmp_path / "mine.jsonl").read_text().splitlines()[0])
    keys = [f"round/{i}.png" for i in range(12)]
    pair.update(id="all", images=keys, question="<image>" * len(keys), turns=[])
    with (tmp_path / "mine.jsonl").open("a") as file:
        file.write(json.dumps(pair) + "\n")
    datasets = prepare(config, tmp_path / "run")
    folder = tmp_path / "run" / "data" / "instructions"
    assert f"left out 1 instructions that show images of other splits: {folder}" in (
        capsys.readouterr().err
    )
    assert [item.id for item in read_jsonl(folder / "left_out.jsonl")] == ["all"]
    for name in ("train", "validation", "test"):
        split = getattr(datasets, name)
        types = [item.question_type for item in split.instructions]
        assert types.count("vqa") == 2 * len(split.images)
        assert types.count("class") == types.count("caption") == len(split.images)
        assert {item.target for item in split.instructions} == set(split.images.keys)
        assert all(item.category == item.target.split("/")[0] for item in split.instructions)
        written = read_jsonl(folder / f"{name}.jsonl")
        assert split.instructions == [turn for item in written for turn in item.each_turn()]
        assert len([item for item in written if item.turns]) == len(split.images)
    again = prepare(config, tmp_path / "run")
    assert again.test.instructions == datasets.test.instructions


@pytest.mark.parametrize("wrong", ["no file", "no image", "no line"])
def test_a_corrected_path_may_take_the_same_directory(config, tmp_path, wrong):
    right = config.data.instructions
    config.data.instructions = str(tmp_path / "other.jsonl")
    if wrong != "no file":
        line = (tmp_path / "mine.jsonl").read_text().splitlines()[0]
        line = line.replace("round/0.png", "round/none.png") if wrong == "no image" else ""
        (tmp_path / "other.jsonl").write_text(line)
    config.stages = ("vision",)
    with pytest.raises(DataError, match=r"other\.jsonl") as caught:
        run(config, tmp_path / "run")
    assert isinstance(caught.value, UserError)
    config.data.instructions = right
    assert run(config, tmp_path / "run")


def test_a_corrected_file_is_read_anew(config, tmp_path):
    """An answer longer than any bucket is found after preparation; nothing is left behind."""
    config.language.length = 8  # else the few texts fill no batch
    mine, run_dir = Path(config.data.instructions), tmp_path / "run"
    right = mine.read_text()
    (run_dir / "data/instructions").mkdir(parents=True)
    (run_dir / "data/instructions/journal.jsonl").write_text("of a teacher")
    long = json.loads(right.splitlines()[0])
    long["answer"] = "long " * 10_000
    mine.write_text(right + json.dumps({**long, "id": "long"}) + "\n")
    with pytest.raises(PipelineError, match="instruction 'long/2': needs"):
        run(config, run_dir)
    assert [p.name for p in (run_dir / "data/instructions").iterdir()] == ["journal.jsonl"]
    assert not (run_dir / "config.json").exists()
    mine.write_text(right)
    ids = {item.id for item in prepare(config, run_dir).train.instructions}
    assert ids and "long" not in ids


def test_one_class_alone_is_refused_before_anything_is_written(images, tmp_path):
    config = get_config()
    config.data.update(name="folder", folder=str(images), size=32)
    (images / "round").rename(tmp_path / "round")
    with pytest.raises(DataError, match=r"all images are of one class, 'square'.* second class"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    (tmp_path / "round").rename(images / "round")
    assert len(prepare(config, tmp_path / "run").class_names) == 2


@pytest.mark.slow
def test_a_llava_file_trains(config, tmp_path):
    config.language.update(length=16, batch_size=4)  # there is little text
    metrics = run(config, tmp_path / "run")
    assert metrics["vqa.rougeL"] >= 0
    assert metrics["classification.top1"] >= 0


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_what_a_run_began_with_must_stay(config, images, tmp_path):
    """A touch is no change; an edited, added or missing input is, and is named."""
    run_dir, config.stages = tmp_path / "run", ("vision",)
    run_dir.mkdir()
    train = run_dir / "data/instructions/train.jsonl"

    def start(new=False):
        loop._datasets(config, run_dir, new)

    start(new=True)
    for path in (*images.rglob("*.png"), train, tmp_path / "mine.jsonl"):
        os.utime(path, (1, 1))
    start()
    kept = {path: path.read_bytes() for path in (train, images / "round/3.png")}

    train.write_text("".join(train.read_text().splitlines(keepends=True)[:20]))
    with pytest.raises(WorkdirError, match=r"\n  data/instructions/train\.jsonl: the file changed"):
        start()
    train.write_bytes(kept[train])

    tokens = run_dir / "data/tokenizer"
    before = (tokens / "tokenizer.json").read_bytes()
    for old, new in (('"e":', '"?!":'), ('"a":', '"e":'), ('"?!":', '"a":')):
        change(tokens / "tokenizer.json", old, new)
    seal(tokens)
    with pytest.raises(WorkdirError, match=r"\n  data/tokenizer/tokenizer\.json: the file changed"):
        start()
    (tokens / "tokenizer.json").write_bytes(before)
    seal(tokens)

    change(tmp_path / "mine.jsonl", "round number 3", "square number 3")
    with pytest.raises(WorkdirError, match=r"data\.instructions: .*mine\.jsonl changed"):
        start()
    change(tmp_path / "mine.jsonl", "square number 3", "round number 3")

    Image.new("L", (20, 20), 77).save(images / "round/3.png")
    with pytest.raises(WorkdirError, match=r"images: round/3\.png changed\nRestore it"):
        start()
    (images / "round/3.png").write_bytes(kept[images / "round/3.png"])
    start()

    (run_dir / INPUTS).write_text("{")
    with pytest.raises(WorkdirError, match=rf"{INPUTS}: damaged"):
        start()


def test_a_run_of_an_older_version_goes_on_and_is_told(config, tmp_path, capsys):
    run_dir, config.stages = tmp_path / "run", ("vision",)
    (run_dir / "vision/last").mkdir(parents=True)
    for _ in range(2):
        loop._datasets(config, run_dir, new=False)
    assert capsys.readouterr().err.count("which did not record its inputs") == 1

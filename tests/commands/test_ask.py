"""`ask` on the terminal, and its errors for invalid checkpoints and images."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from tiny_run import get_config

from slava_jax import files
from slava_jax.commands import ask
from slava_jax.eval.calibration import Calibration
from slava_jax.inference.assistant import (
    CALIBRATION,
    MODEL,
    Answer,
    Assistant,
    load_assistant,
    save_assistant,
)
from slava_jax.train import stages
from slava_jax.train.datasets import prepare

ROOT = Path(__file__).parents[2]
QUESTION = "What is shown?"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The files of a run, with untrained weights."""
    directory = tmp_path_factory.mktemp("run")
    config = get_config()
    datasets = prepare(config, directory)
    language = stages.language_stage(config, datasets).params
    start = stages.assistant_start(config, datasets, None, language)
    variables = {"params": start.params, "frozen": start.frozen}
    names = tuple(datasets.class_names)
    save_assistant(Assistant(start.model, variables, datasets.tokenizer, names), config, directory)
    return directory


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("image"), (40, 60), np.uint8)


def save(folder: Path, shape, dtype) -> Path:
    limit = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, limit, shape).astype(dtype)
    path = folder / f"{len(shape)}-{shape[0]}-{np.dtype(dtype).name}.png"
    Image.fromarray(pixels).save(path)
    return path


def answer(capsys, workdir, *arguments) -> str:
    ask.main(["--checkpoint", str(workdir), "--max_tokens", "5", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert not err
    assert out.endswith("\n")
    return out[:-1]


def refusal(workdir, *arguments) -> str:
    with pytest.raises(SystemExit) as caught:
        ask.main(["--checkpoint", str(workdir), *map(str, arguments)])
    assert str(caught.value.code).startswith("error: ")
    return str(caught.value.code)


def test_it_prints_the_answer_of_the_assistant(capsys, workdir, image):
    assistant = load_assistant(workdir)
    got = answer(capsys, workdir, image, QUESTION)
    assert got == assistant.ask(image, QUESTION, max_tokens=5)
    drawn = {"temperature": 2.0, "top_p": 0.9, "seed": 3}
    options = [text for name, value in drawn.items() for text in (f"--{name}", value)]
    got = answer(capsys, workdir, image, QUESTION, *options, "--rank", 2)
    assert got == assistant.ask(image, QUESTION, max_tokens=5, rank=2, **drawn)
    assert got != assistant.ask(image, QUESTION, max_tokens=5, rank=2, **{**drawn, "seed": 4})


def test_the_scale_is_put_into_the_answer_by_the_program(capsys, workdir, image, monkeypatch):
    """The model reads and writes shares of the width; this image is 60 pixels wide."""
    asked = []

    def answers(self, batch, max_tokens, **sampling):
        asked.append(self.tokenizer.decode(batch["tokens"][0][: batch["length"][0]]))
        return ["About 30 percent of the width, magnified as given."], np.zeros(1)

    monkeypatch.setattr(Assistant, "scored_answers", answers)
    options = ["--pixel_size", "2", "--magnification", "50000", "--detailed"]
    got = answer(capsys, workdir, image, "Is it larger than 10 nm?", *options)
    assert got == "About 36 nm, magnified 50,000 times."
    assert "8 percent of the width? Answer in detail." in asked[0] and "50" not in asked[0]
    got = answer(capsys, workdir, image, "Is it larger than 10 nm?")
    assert got == "About 30 percent of the width." and "10 nm" in asked[1]


def test_the_scale_of_the_file_is_used_by_default(capsys, workdir, tmp_path, monkeypatch):
    said = (["About 10 percent of the width."], np.zeros(1))
    monkeypatch.setattr(Assistant, "scored_answers", lambda *_, **__: said)
    path = tmp_path / "scaled.tif"
    description = "ImageJ=1.53\nunit=nm\n"
    Image.fromarray(np.zeros((20, 50), np.uint8)).save(
        path, tiffinfo={270: description, 282: IFDRational(1, 4), 283: IFDRational(1, 4)}
    )
    assert answer(capsys, workdir, path, QUESTION) == "About 20 nm."
    assert answer(capsys, workdir, path, QUESTION, "--pixel_size", "40") == "About 200 nm."


def test_a_scale_that_no_microscope_has_is_refused(workdir, image):
    assert "pixel_size must be" in refusal(workdir, image, QUESTION, "--pixel_size", "1e300")
    assert "magnification must be" in refusal(workdir, image, QUESTION, "--magnification", "1e-300")


def test_which_page_of_several_is_used_is_said(capsys, workdir, tmp_path):
    path = tmp_path / "pages.tif"
    pages = [Image.new("L", (20, 20), value) for value in (30, 60)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    ask.main(["--checkpoint", str(workdir), "--max_tokens", "2", str(path), QUESTION])
    assert capsys.readouterr().err == f"{path}: page 1 of 2 is used\n"


ESTIMATED = "estimated probability that the stated fact is right"


def test_a_calibrated_assistant_says_how_sure_it_is(capsys, workdir, image, tmp_path):
    shutil.copytree(workdir / MODEL, tmp_path / "copied")
    Calibration(0.0, 0.8473).write(tmp_path / "copied" / CALIBRATION)
    arguments = ["--checkpoint", str(tmp_path / "copied"), str(image), QUESTION, "--probability"]
    ask.main(arguments)
    out, err = capsys.readouterr()
    assert "probability" not in out and err == f"{ESTIMATED}: 0.70\n"
    (tmp_path / "copied" / CALIBRATION).unlink()
    ask.main(arguments)
    assert capsys.readouterr().err == f"{ESTIMATED}: unknown\n"
    wrong = ('{"slope": 1.0, "offset": "much"}', '{"slope": NaN, "offset": 0.0}')
    for damaged in ("", "{}", "[" * 200_000, *wrong):
        (tmp_path / "copied" / CALIBRATION).write_text(damaged)
        files.seal(tmp_path / "copied", [CALIBRATION])
        assert "not a calibration; delete it" in refusal(tmp_path / "copied", image, QUESTION)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((30, 20, 4), np.uint8), ((30, 20), np.uint16), ((1, 1), np.uint8)]
)
def test_images_with_alpha_of_16_bits_and_of_one_pixel_are_read(
    capsys, workdir, tmp_path, shape, dtype
):
    answer(capsys, workdir, save(tmp_path, shape, dtype), QUESTION)


def test_a_text_file_and_a_missing_one_are_no_images(workdir, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    assert str(text) in refusal(workdir, text, QUESTION)
    assert "there is no such file" in refusal(workdir, tmp_path / "missing.png", QUESTION)


def test_a_folder_is_no_image(workdir, tmp_path):
    assert refusal(workdir, tmp_path, QUESTION) == (
        f"error: {tmp_path}: is a folder; give an image file in it"
    )


def test_a_question_may_be_longer_than_a_file_name(capsys, workdir, image, monkeypatch):
    monkeypatch.setattr(Assistant, "answer", lambda *_, **__: Answer("gold \x1b[2J\nlines"))
    assert answer(capsys, workdir, image, "Why? " * 100) == "gold \\x1b[2J\nlines"


def test_a_base_that_is_not_there(workdir, tmp_path, image):
    text = refusal(workdir, image, QUESTION, "--base", tmp_path)
    assert f"its frozen language model is not in {tmp_path}" in text


def test_a_question_that_asks_for_more_images_is_refused(workdir, image):
    assert "2 <image> in the question for 1 image" in refusal(workdir, image, "<image><image> ?")


def test_ranks_it_was_not_trained_for_are_refused(workdir, image):
    assert "must be 2 to 4, is 9" in refusal(workdir, image, QUESTION, "--rank", 9)


def test_the_question_comes_last(workdir, image):
    text = refusal(workdir, QUESTION, image)
    assert text == f"error: {image}: the question comes last, after the images"


def test_an_empty_answer_is_remarked_on(capsys, workdir, image, monkeypatch):
    monkeypatch.setattr(Assistant, "scored_answers", lambda *_, **__: ([""], np.zeros(1)))
    ask.main(["--checkpoint", str(workdir), str(image), QUESTION])
    out, err = capsys.readouterr()
    assert out == "\n" and "may need more training" in err


def test_a_run_that_is_not_finished_is_named(tmp_path, image):
    (tmp_path / "config.json").touch()
    assert "the run is not finished; repeat its training command" in refusal(
        tmp_path, image, QUESTION
    )


def test_a_directory_without_an_assistant(tmp_path, image):
    assert "no trained assistant here" in refusal(tmp_path, image, QUESTION)


@pytest.fixture
def copy(workdir, tmp_path) -> Path:
    return Path(shutil.copytree(workdir, tmp_path / "copy"))


def edit_metadata(directory: Path, change) -> None:
    path = directory / "assistant/model/adapters/_CHECKPOINT_METADATA"
    content = json.loads(path.read_text())
    change(content["custom_metadata"])
    path.write_text(json.dumps(content))
    files.seal(path.parent)


def test_an_assistant_that_wrote_nanometres_itself_is_refused(copy, image):
    def forget(held):
        facts = json.loads(held["facts"])
        del facts["lengths"]
        held["facts"] = json.dumps(facts)

    edit_metadata(copy, forget)
    assert "train it again in a new work directory" in refusal(copy, image, QUESTION)


def test_a_checkpoint_of_a_newer_format(copy, image):
    edit_metadata(copy, lambda held: held.update(slava_jax_format=99))
    assert "written by a newer slava_jax (format 99" in refusal(copy, image, QUESTION)


def test_a_checkpoint_whose_arrays_are_not_those_of_its_config(copy, image):
    def widen(held):
        facts = json.loads(held["facts"])
        config = json.loads(facts["config"])
        config["grounded"]["width"] *= 2
        held["facts"] = json.dumps({**facts, "config": json.dumps(config)})

    edit_metadata(copy, widen)
    text = refusal(copy, image, QUESTION)
    assert "made for another model or config" in text
    assert "text_projection/kernel: stored float32[16, 16], expected float32[16, 32]" in text


def test_a_checkpoint_without_its_tokenizer(copy, image):
    shutil.rmtree(copy / "assistant/model/tokenizer")
    assert "contains no tokenizer.json" in refusal(copy, image, QUESTION)


@pytest.mark.parametrize(
    "wrong",
    [("--temperature", "-1"), ("--top_p", "0"), ("--pixel_size", "x"), ("--max_tokens", "1.5"),
     ("--temperature", "1e-320"), ("--temperature", "1e300"), ("--max_tokens", "1e12"),
     ("--max_tokens", "nan"), ("--seed", "-1"), ("--seed", "1" + "0" * 25), ("--seed", "x")],
)  # fmt: skip
def test_options_out_of_range_are_named(capsys, workdir, image, wrong):
    with pytest.raises(SystemExit):
        ask.main(["--checkpoint", str(workdir), str(image), QUESTION, *wrong])
    assert f"argument {wrong[0]}: must be" in capsys.readouterr().err


def test_a_question_that_is_no_text_is_not_the_tokenizers_fault(workdir, image):
    """Bytes that are not UTF-8 arrive so from the command line."""
    said = refusal(workdir, image, os.fsdecode(b"How l\xffrge?"))
    assert "a message holds half a character" in said


def test_on_the_command_line_there_is_nothing_but_the_answer(workdir, image):
    command = [sys.executable, "-m", "slava_jax", "ask", "--checkpoint", str(workdir), str(image)]
    done = subprocess.run(
        [*command, QUESTION, "--max_tokens", "4"], cwd=ROOT, capture_output=True, text=True,
        timeout=120, env={name: v for name, v in os.environ.items() if name != "XLA_FLAGS"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1

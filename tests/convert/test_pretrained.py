"""Converted folders: complete or absent, int8 as in the model, ready for the assistant."""

import json
import shutil
import signal
import subprocess
import sys
import time
from glob import glob

import jax
import numpy as np
import pytest
from reference_models import TINY, tiny_folder, tiny_vit

from slava_jax.checkpoint import CheckpointError, load_facts
from slava_jax.commands.convert import main
from slava_jax.convert.huggingface import read_folder
from slava_jax.convert.pretrained import load, write
from slava_jax.convert.rules import ConvertError
from slava_jax.data.chat import TextForm, encode_examples
from slava_jax.data.instructions import Instruction
from slava_jax.data.tokenizer import TokenizerError, decode_text, encode_texts
from slava_jax.nn.quantized import quantize_linear_layers


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_int8_is_what_the_model_makes_of_float(tmp_path, monkeypatch):
    """By layer and column, against quantising everything at once; norms stay float."""
    monkeypatch.setattr("slava_jax.convert.pretrained._COLUMNS", 20)
    source = read_folder(tiny_folder(tmp_path / "theirs"))
    write(source, tmp_path / "float")
    write(source, tmp_path / "int8", quantized=True)
    whole = jax.tree.map(np.asarray, quantize_linear_layers(load(tmp_path / "float").tree))
    found = load(tmp_path / "int8")
    assert found.quantized and found.tree["language_model"]["head"]["kernel"].dtype == np.int8
    assert_same(found.tree, whole)


def test_a_vision_encoder_is_float(tmp_path):
    """It is read back with its config; int8 is refused."""
    with pytest.raises(ConvertError, match="only language models"):
        write(tiny_vit(), tmp_path / "ours", quantized=True)
    write(tiny_vit(), tmp_path / "ours")
    found = load(tmp_path / "ours")
    assert found.configs == tiny_vit().configs and found.tokenizer is None
    assert found.configs["vit"].mean == (0.48, 0.46, 0.41)
    assert found.tree["vit"]["positions"].shape == (17, 16)


def test_the_source_is_never_deleted(tmp_path):
    """Whatever its name; inside the folder to be deleted, it is refused."""
    source = tiny_folder(tmp_path / "llama.unfinished")
    main(["--from", str(source), "--to", str(tmp_path / "llama")])
    assert (source / "model.safetensors").is_file()
    source = tiny_folder(tmp_path / ".a.slava-tmp" / "theirs")
    with pytest.raises(SystemExit, match=r"theirs: is inside .*slava-tmp.* move it"):
        main(["--from", str(source), "--to", str(tmp_path / "a")])
    assert (source / "model.safetensors").is_file()


# Commits every slice separately, so that the kill hits an unfinished write.
SLOWLY = """
from slava_jax import streaming
from slava_jax.commands.convert import main

streaming._COMMIT = 1
main()
"""


@pytest.mark.slow
def test_killed_it_leaves_nothing_and_starts_again(tmp_path):
    """SIGKILL while slices are written; the same command then succeeds."""
    folder = tiny_folder(tmp_path / "theirs", num_hidden_layers=30)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    write(read_folder(folder), whole, quantized=True)
    paths = ["--from", str(folder), "--to", str(killed)]
    command = [sys.executable, "-c", SLOWLY, "--quantize", "int8", *paths]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    unfinished = tmp_path / ".killed.slava-tmp"
    # glob skips folders that the writer moves away meanwhile; Path.rglob raises.
    slices = f"{unfinished}/**/d/*"
    while len(glob(slices, recursive=True, include_hidden=True)) < 60:
        assert process.poll() is None, "ended before it was killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists() and unfinished.exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert not unfinished.exists()
    assert_same(load(killed).tree, load(whole).tree)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """Detected beforehand, or while writing."""
    source = read_folder(tiny_folder(tmp_path / "theirs"))
    usage = lambda _: type("Usage", (), {"free": 1000})  # noqa: E731
    monkeypatch.setattr("shutil.disk_usage", usage)
    with pytest.raises(CheckpointError, match="GiB needed"):
        write(source, tmp_path / "ours")
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("slava_jax.convert.pretrained.save_tokenizer", full)
    with pytest.raises(CheckpointError, match="No space"):
        write(source, tmp_path / "ours")
    assert [p.name for p in tmp_path.iterdir()] == ["theirs"]


def test_the_assistants_tokens_stand_behind_the_table(tmp_path):
    """The tokenizer has as many tokens as the table has rows."""
    write(read_folder(tiny_folder(tmp_path / "theirs")), tmp_path / "ours")
    tokenizer = load(tmp_path / "ours").tokenizer
    assert len(tokenizer) == TINY.vocab_size == 270
    item = Instruction("a", ("i",), "<image>thin?", "</s> <unused_265>!", "vqa", "short", "")
    (example,) = encode_examples([item], tokenizer, TextForm("plain", 1, 270, 273))
    assert example.prompt_ids[:2].tolist() == [tokenizer.bos_token_id, 270]
    assert example.answer_ids.max() < 264  # text that looks like a special token is text
    assert decode_text(tokenizer, example.answer_ids) == "</s> <unused_265>!"
    assert encode_texts(tokenizer, ["<unused_265>"])[0] != [265]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"config": None}, "config: must be an object"),
        ({"config": {"width": 16, "depth": 3}}, "config.'depth': unknown"),
        ({"config": {"layers": "2"}}, "config.layers: must be a whole number"),
        ({"config": {"image_size": 8 * 10**6, "patch": 8}}, "made for another model"),
        ({"config": {"mean": []}}, "number per channel"),
        ({"quantized": "no"}, "quantized: must be true or false"),
        ({"quantized": True}, "made for another model"),
        ({"image_token": 2.5}, "image_token: must be a whole number below 2.*or null"),
    ],
)
def test_a_damaged_description_is_one_error(tmp_path, monkeypatch, change, part):
    """Of another model, too: the arrays are those that the config implies."""
    write(tiny_vit(), tmp_path / "ours")
    facts = load_facts(tmp_path / "ours/weights/vit")
    if isinstance(change.get("config"), dict):
        change = {"config": {**facts["config"], **change["config"]}}
    monkeypatch.setattr(
        "slava_jax.convert.pretrained.load_facts", lambda _: {**facts, **change}
    )
    with pytest.raises(CheckpointError, match=f"ours.*vit.*({part})"):
        load(tmp_path / "ours")


def test_a_folder_of_something_else(tmp_path):
    """Empty, or a work directory."""
    with pytest.raises(CheckpointError, match="weights"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="weights"):
        load(tmp_path)


def test_converted_weights_without_their_tokenizer(tmp_path):
    """One error that says where it belongs."""
    write(read_folder(tiny_folder(tmp_path / "theirs")), tmp_path / "ours")
    shutil.rmtree(tmp_path / "ours" / "tokenizer")
    with pytest.raises(TokenizerError, match=r"ours/tokenizer: contains no tokenizer"):
        load(tmp_path / "ours")


def test_a_source_that_cannot_be_read_is_named(tmp_path):
    """Truncated or deleted after opening; not reported as an unwritable target."""
    source = read_folder(tiny_folder(tmp_path / "theirs"))
    path = tmp_path / "theirs" / "model.safetensors"
    for damage in (lambda: path.write_bytes(path.read_bytes()[:-9]), path.unlink):
        damage()
        with pytest.raises(ConvertError, match=r"theirs: model.embed_tokens.weight cannot be read"):
            write(source, tmp_path / "ours")

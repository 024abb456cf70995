"""A saved assistant: its folder, where its base comes from, and sharing a base."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
from text_encoder import made, tokenizer
from tiny_model import as_config, random_variables

from slava_jax.checkpoint import CheckpointError, content_hash, load_facts
from slava_jax.convert.export import base_model, write_folder
from slava_jax.convert.huggingface import read_folder
from slava_jax.convert.pretrained import load, write
from slava_jax.data.tokenizer import TokenizerError
from slava_jax.eval.calibration import Calibration, CalibrationError
from slava_jax.files import SUMS, seal
from slava_jax.inference import decode
from slava_jax.inference.assistant import (
    CALIBRATION,
    Assistant,
    has_assistant,
    load_assistant,
    save_assistant,
)
from slava_jax.nn.adapters import joined, split_base

QUESTIONS = ("What is shown?", "<image>Are the wires parallel?")


def on_base_of(first: Assistant, seed: int) -> Assistant:
    """Other adapters, grounded stack and heads on the same base."""
    fresh = random_variables(first.model, seed)
    _, lora_a = split_base(fresh["frozen"])
    variables = {"params": fresh["params"], "frozen": joined(first.base, lora_a)}
    return dataclasses.replace(first, variables=variables)


@functools.cache
def pair():
    """Two assistants of four experts over one base."""
    model, variables = made(4)
    first = Assistant(model, variables, tokenizer(), ("Nanowires", "Powder"))
    return first, on_base_of(first, seed=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Work directories of both, each with its base."""
    folder = tmp_path_factory.mktemp("runs")
    for name, assistant in zip("ab", pair(), strict=True):
        save_assistant(assistant, as_config(assistant.model), folder / name)
    return folder


def values(assistant: Assistant) -> np.ndarray:
    """Scores of an answer to two questions."""
    images = list(np.random.default_rng(4).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8))
    batch = assistant.prompts([[i] for i in images], QUESTIONS)
    return assistant.candidate_scores(batch, ["Powder", "of wires"])


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_one_folder_is_all_it_needs(runs, tmp_path):
    """A copied folder restores everything: weights, tokenizer, class names."""
    folder = shutil.copytree(runs / "a/assistant/model", tmp_path / "copied")
    found, wanted = load_assistant(folder), pair()[0]
    assert_same(found.variables, wanted.variables)
    assert (found.model, found.class_names) == (wanted.model, wanted.class_names)
    assert found.tokenizer.get_vocab() == wanted.tokenizer.get_vocab()


def test_assistants_beside_one_base_answer_as_alone(runs):
    """The base is shared (the same buffers), and calls do not recompile."""
    first, alone = load_assistant(runs / "a"), load_assistant(runs / "b")
    second = load_assistant(runs / "b", sharing=first)
    shared = jax.tree.map(lambda x, y: x is y, first.base, second.base)
    assert all(jax.tree.leaves(shared)) and len(jax.tree.leaves(shared)) > 10
    own = jax.tree.map(lambda x, y: x is y, first.base, alone.base)
    assert not any(jax.tree.leaves(own))
    wanted = [values(first), values(alone)]
    compiled = decode.prefill._cache_size()
    chosen = {"a": first, "b": second}
    for name in "abba":
        np.testing.assert_array_equal(values(chosen[name]), wanted["ab".index(name)])
    assert decode.prefill._cache_size() == compiled
    assert np.abs(wanted[0] - wanted[1]).max() > 0.1


def changed_base(assistant: Assistant) -> Assistant:
    """Changes one entry of one int8 kernel."""
    base, lora_a = split_base(assistant.variables["frozen"])
    blocks = base["language_model"]["blocks"]
    kernel = blocks["up"]["kernel"].at[0, 0, 0].add(1)
    up = {**blocks["up"], "kernel": kernel}
    base = {"language_model": {**base["language_model"], "blocks": {**blocks, "up": up}}}
    return dataclasses.replace(
        assistant, variables={**assistant.variables, "frozen": joined(base, lora_a)}
    )


def test_another_base_is_refused_beside_an_assistant(runs):
    """The error names both hashes."""
    other = changed_base(pair()[0])
    with pytest.raises(CheckpointError) as error:
        load_assistant(runs / "b", sharing=other)
    text = str(error.value)
    assert other.base_hash in text and pair()[0].base_hash in text and "shared assistant" in text


def test_one_place_of_the_base_not_two(runs, tmp_path):
    """Giving both is an error."""
    with pytest.raises(ValueError, match="base and sharing"):
        load_assistant(runs / "b", base=tmp_path, sharing=pair()[0])


@pytest.fixture
def converted(tmp_path):
    """The base of a model, as converted float32 weights."""
    model, variables = made(4)
    base = base_model(model.config.language_model, variables["frozen"]["language_model"])
    write_folder(base, tokenizer(), tmp_path / "theirs")
    write(read_folder(tmp_path / "theirs"), tmp_path / "weights", quantized=True)
    return tmp_path / "weights"


def on_converted(folder) -> Assistant:
    first = pair()[0]
    _, lora_a = split_base(first.variables["frozen"])
    frozen = joined(jax.tree.map(jax.numpy.asarray, load(folder).tree), lora_a)
    return dataclasses.replace(first, variables={**first.variables, "frozen": frozen})


def test_a_base_elsewhere_is_read_from_its_place(converted, tmp_path):
    """It is not copied; if moved, the error asks for it; a different one is refused."""
    saved, folder = on_converted(converted), tmp_path / "run/assistant/model"
    config = as_config(saved.model)
    config.data.folder = str(tmp_path / "images")
    save_assistant(saved, config, tmp_path / "run", converted)
    assert sorted(path.name for path in folder.iterdir()) == ["adapters", "tokenizer"]
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(bytes(tmp_path) in content for content in written)
    assert_same(load_assistant(tmp_path / "run").variables, saved.variables)
    copied = shutil.copytree(folder, tmp_path / "given/away")
    with pytest.raises(CheckpointError, match=r"not in this folder; give the folder .*--base DIR"):
        load_assistant(copied)
    assert_same(load_assistant(copied, base=converted).variables, saved.variables)
    moved = shutil.move(converted, tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"not in .*weights; give the folder .*--base DIR"):
        load_assistant(folder)
    assert_same(load_assistant(folder, base=moved).variables, saved.variables)
    theirs = read_folder(tmp_path / "theirs")
    read = theirs.tensors.read
    theirs.tensors.read = lambda name: read(name) * (2 if name == "lm_head.weight" else 1)
    write(theirs, converted, quantized=True)
    with pytest.raises(CheckpointError) as error:
        load_assistant(folder)
    found = content_hash(load(converted).tree)
    assert saved.base_hash in str(error.value) and found in str(error.value)
    assert str(converted) in str(error.value) and found != saved.base_hash


def test_a_damaged_base_of_its_own_is_refused(runs, tmp_path):
    """Another run's base in its place: same shapes, different values."""
    other = changed_base(pair()[0])
    save_assistant(other, as_config(other.model), tmp_path / "c")
    shutil.copytree(runs / "a", tmp_path / "a")
    shutil.rmtree(tmp_path / "a/assistant/model/base")
    shutil.copytree(tmp_path / "c/assistant/model/base", tmp_path / "a/assistant/model/base")
    with pytest.raises(CheckpointError, match=other.base_hash):
        load_assistant(tmp_path / "a")


@pytest.mark.parametrize("part", ["adapters", "base", "tokenizer"])
def test_a_flipped_bit_is_named_by_its_file(runs, tmp_path, part):
    """In the last place of the largest file, which holds arrays or tokens."""
    folder = shutil.copytree(runs / "a/assistant/model", tmp_path / "copied")
    files = [path for path in (folder / part).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises((CheckpointError, TokenizerError), match=f"{largest}: damaged"):
        load_assistant(folder)


def test_a_tokenizer_without_its_checksums(runs, tmp_path):
    """It has them if the adapters do; otherwise its next damage would be read."""
    folder = shutil.copytree(runs / "a/assistant/model", tmp_path / "copied")
    (folder / "tokenizer" / SUMS).unlink()
    with pytest.raises(TokenizerError, match=f"{folder}/tokenizer/{SUMS}: is missing"):
        load_assistant(folder)


def test_a_calibration_without_its_checksum(runs, tmp_path):
    folder = shutil.copytree(runs / "a/assistant/model", tmp_path / "copied")
    curve = Calibration(1.0, 0.5)
    curve.write(folder / CALIBRATION)
    assert load_assistant(folder).calibration == curve
    (folder / SUMS).unlink()
    with pytest.raises(CalibrationError, match=f"{folder}/{SUMS}: is missing.*, or delete cal"):
        load_assistant(folder)


@pytest.mark.parametrize("text", ['{"x', '{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_named(text, runs, tmp_path):
    """Whatever the library raises."""
    folder = shutil.copytree(runs / "a/assistant/model", tmp_path / "copied")
    (folder / "tokenizer/tokenizer.json").write_text(text)
    seal(folder / "tokenizer")
    with pytest.raises(TokenizerError, match="copied/tokenizer: the tokenizer is damaged"):
        load_assistant(folder)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda facts: facts.pop("config"), "config: is missing"),
        (lambda facts: facts.update(config="[" * 100_000), "nested too deeply"),
        (lambda facts: facts.update(config="[]"), "not a JSON object"),
        (lambda facts: facts.update(class_names=["a", 3]), "class_names"),
        (lambda facts: facts.update(base="x"), "base: must be an object"),
        (lambda facts: facts["base"].pop("sha256"), "base.sha256: is missing"),
        (lambda facts: facts.pop("lengths"), "older slava_jax"),
        (("vit", "image_size", 10**6), "vit.image_size must be a multiple|made for another model"),
        (("vit", "image_size", 2**31 - 16), "made for another model|describes no model"),
        (("vit", "width", "64"), "vit.width: must be a whole number"),
        (("language_model", "layers", 10**9), "made for another model"),
        (("language_model", "norm_eps", float("nan")), "language_model.norm_eps"),
        (("language_model", "theta", 1.0), "'theta': unknown"),
        (("adapter", "experts", []), "adapter.experts"),
        (("grounded", "heads", None), "grounded.heads"),
        (("data", "crop_bar", "x"), "config.data.crop_bar"),
        ((None, "model", "x"), "model: must be one of"),
        ((None, "dtype", "float8"), "dtype: must be one of"),
        ((None, "quantized", 1), "quantized: must be true or false"),
        ((None, "vit", None), "vit: must be an object"),
    ],
)
def test_damaged_facts_are_one_error(runs, monkeypatch, change, part):
    """Whatever they say: it names the key, and nothing of that size is made."""
    facts = load_facts(runs / "a/assistant/model/adapters")
    if callable(change):
        change(facts)
    else:
        group, key, value = change
        config = json.loads(facts["config"])
        (config[group] if group else config)[key] = value
        facts["config"] = json.dumps(config)
    monkeypatch.setattr("slava_jax.inference.description.load_facts", lambda _: facts)
    with pytest.raises(CheckpointError, match=f"{runs}.*({part})"):
        load_assistant(runs / "a")


def test_cut_short_it_is_none_and_is_written_anew(tmp_path):
    """The adapters are written last; a folder with an older layout looks the same."""
    first = pair()[0]
    config = as_config(first.model)
    save_assistant(first, config, tmp_path)
    shutil.rmtree(tmp_path / "assistant/model/adapters")
    assert not has_assistant(tmp_path)
    with pytest.raises(CheckpointError, match="incomplete, or written by an older slava_jax"):
        load_assistant(tmp_path)
    save_assistant(first, config, tmp_path)
    assert_same(load_assistant(tmp_path).variables, first.variables)
    with pytest.raises(CheckpointError, match="already exists"):
        save_assistant(first, config, tmp_path)
    assert has_assistant(tmp_path)

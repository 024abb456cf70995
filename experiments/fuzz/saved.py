"""Kinds of input: what this library wrote: assistants, checkpoints, converted weights, small files.

Folders with checksums are damaged in two ways: as a disk damages them, which must be noticed, and
with new checksums, as a program could write them, which may be accepted but must not fail.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.fuzz.mutators import chance, chosen, damaged_bytes, damaged_json
from experiments.fuzz.trial import Files, Kind
from experiments.fuzz.weights import CONFIG, content, folder_files, one_of
from slava_jax.checkpoint import load_tree, save_tree
from slava_jax.convert.pretrained import described, load, write
from slava_jax.convert.reading import read
from slava_jax.data.tokenizer import load_tokenizer
from slava_jax.eval.calibration import Calibration
from slava_jax.files import SUMS
from slava_jax.inference import description
from slava_jax.inference.assistant import (
    CALIBRATION,
    MODEL,
    Assistant,
    load_assistant,
    save_assistant,
)
from slava_jax.layout import METADATA, check_files
from slava_jax.models.connectors import ConnectorConfig
from slava_jax.models.inline import Inline, InlineConfig
from slava_jax.models.presets import variable_shapes
from slava_jax.models.vit import VitConfig
from slava_jax.nn.adapters import AdapterConfig
from slava_jax.train.inputs import check_inputs
from slava_jax.train.logging import HISTORY_FILE, read_history
from slava_jax.train.workdir import (
    CONFIG as RUN_CONFIG,
)
from slava_jax.train.workdir import (
    INPUTS,
    METRICS,
    REPORT,
    Clock,
    claim,
    finished_metrics,
    run_config,
)

_WHOLE = 20  # one of so many assistants and converted folders is loaded whole, which takes longest
_ADAPTERS, _BASE, _TOKENIZER = f"{MODEL}/adapters", f"{MODEL}/base", f"{MODEL}/tokenizer"
_RUN = {
    "data": {"name": "folder", "folder": "images", "crop_bar": False},
    "start_from": {"vision": "", "language": ""}, "seed": 0, "stages": ["vision", "language"],
}  # fmt: skip


def _resealed(files: Files, folder: str) -> Files:
    """With checksums of the files as they are, below a folder."""
    names = sorted(n for n in files if n.startswith(f"{folder}/") and not n.endswith(SUMS))
    lines = (f"{hashlib.sha256(files[n]).hexdigest()}  {n[len(folder) + 1 :]}\n" for n in names)
    return {**files, f"{folder}/{SUMS}": "".join(lines).encode()}


def _damaged(files: Files, rng: np.random.Generator) -> Files:
    """As a disk or a copy damages a folder: one file is changed, cut, missing, moved or added."""
    files, names = dict(files), sorted(files)
    # Most files are those of arrays, which have long names and little in them.
    name, way = chosen(rng, names), rng.random()
    if way < 0.75:
        files[name] = damaged_bytes(files[name], rng)
    elif way < 0.85:
        del files[name]
    elif way < 0.95:
        other = chosen(rng, names)
        files[name], files[other] = files[other], files[name]
    else:
        files[f"{name}2"] = files[name]
    return files


def _with_metadata(files: Files, folder: str, rng: np.random.Generator) -> Files:
    """Other metadata, or other bytes in any file, with checksums that agree."""
    if chance(rng, 0.2):
        own = sorted(name for name in files if name.startswith(f"{folder}/"))
        name = chosen(rng, own)
        return _resealed({**files, name: damaged_bytes(files[name], rng)}, folder)
    name = f"{folder}/{METADATA}"
    held = json.loads(files[name])
    ours = held["custom_metadata"]
    way = rng.random()
    if way < 0.6:  # a text, so that damaged JSON is still JSON outside
        ours["facts"] = damaged_json(json.loads(ours["facts"]), rng).decode("utf-8", "replace")
        raw = json.dumps(held).encode()
    elif way < 0.8 and "config" in (facts := json.loads(ours["facts"])):
        inner = facts["config"]
        inner = json.loads(inner) if isinstance(inner, str) else inner
        text = damaged_json(inner, rng).decode("utf-8", "replace")
        ours["facts"] = json.dumps({**facts, "config": text})
        raw = json.dumps(held).encode()
    else:
        raw = damaged_json(held, rng)
    return _resealed({**files, name: raw}, folder)


@functools.cache
def _assistant() -> Files:
    """A LLaVA of zeros."""
    files = folder_files()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (Path(folder) / name).write_bytes(files[name])
        tokenizer = load_tokenizer(folder)
    text = dataclasses.replace(CONFIG, vocab_size=len(tokenizer))
    vit, adapter = VitConfig(32, 1, 16, 8, 1, 1, 8, 8), AdapterConfig(r_min=1, r_max=2)
    model = Inline(InlineConfig(vit, ConnectorConfig("mlp", 0.1), text, adapter))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variable_shapes(model))
    settings = dataclasses.asdict(model.config)
    del settings["language_model"]["vocab_size"]
    config = ConfigDict({**settings, **_RUN, "model": "inline", "dtype": "float32"})
    with tempfile.TemporaryDirectory() as folder:
        save_assistant(Assistant(model, variables, tokenizer, ("Wires",)), config, folder)
        Calibration(1.5, 0.5).write(Path(folder) / MODEL / CALIBRATION)
        return content(Path(folder))


def _assistant_input(rng: np.random.Generator) -> Files:
    if chance(rng, 0.5):
        return _damaged(_assistant(), rng)
    return _with_metadata(_assistant(), _ADAPTERS, rng)


def _assistant_read(folder: Path) -> str:
    """Checks every part as `load_assistant` does, and for some loads it whole."""
    facts = description.read(folder / _ADAPTERS)
    for name in (_ADAPTERS, _BASE):
        check_files(folder / name)
    tokens = len(load_tokenizer(folder / _TOKENIZER, beside=folder / _ADAPTERS))
    if (calibration := folder / MODEL / CALIBRATION).is_file():
        Calibration.read(calibration)
    if one_of(_WHOLE, folder / _ADAPTERS / SUMS):
        description.model(folder / _ADAPTERS, facts["config"], tokens)
        load_assistant(folder)
    return facts["base"]["sha256"]


def _other_assistant(files: Files, base: str) -> str:
    """Only new checksums may hide a difference; a calibration may be missing."""
    sound = _assistant()
    free = {name for name in sound if Path(name).name in (CALIBRATION, SUMS)
            and Path(name).parent == Path(MODEL)}  # fmt: skip
    sums = f"{_ADAPTERS}/{SUMS}"
    if files.get(sums) != sound[sums]:
        return ""
    changed = [n for n in sorted({*files, *sound} - free) if files.get(n) != sound.get(n)]
    beside = [n for n in changed if n.rsplit("/", 1)[0] == MODEL and n not in sound]
    changed = [n for n in changed if n not in beside]
    return f"{changed[0]} is not what was saved" if changed else ""


@functools.cache
def _checkpoint() -> Files:
    rng = np.random.default_rng(0)
    arrays = {"params": {"w": rng.standard_normal((6, 5)).astype(np.float32), "b": np.zeros(3)},
              "steps": np.arange(4, dtype=np.int32), "none": np.zeros((0, 2))}  # fmt: skip
    facts = {"config": {"seed": 0}, "iterator": {"position": 12}, "plateau": [1.5, None]}
    with tempfile.TemporaryDirectory() as folder:
        save_tree(Path(folder) / "last", arrays, facts)
        return content(Path(folder))


def _checkpoint_input(rng: np.random.Generator) -> Files:
    if chance(rng, 0.6):
        return _damaged(_checkpoint(), rng)
    return _with_metadata(_checkpoint(), "last", rng)


def _other_checkpoint(files: Files, found: tuple[dict, dict]) -> str:
    if files[f"last/{SUMS}"] != _checkpoint()[f"last/{SUMS}"]:
        return ""
    return "" if files == _checkpoint() else "a folder that differs from what was saved is read"


@functools.cache
def _converted() -> Files:
    with tempfile.TemporaryDirectory() as folder:
        for name, raw in folder_files().items():
            (Path(folder) / "theirs").mkdir(exist_ok=True)
            (Path(folder) / "theirs" / name).write_bytes(raw)
        write(read(Path(folder) / "theirs"), Path(folder) / "ours", quantized=True)
        return content(Path(folder) / "ours")


def _converted_input(rng: np.random.Generator) -> Files:
    if chance(rng, 0.4):
        return _damaged(_converted(), rng)
    return _with_metadata(_converted(), "weights/language_model", rng)


def _converted_read(folder: Path) -> Any:
    configs, _ = described(folder)
    check_files(folder / "weights/language_model")
    load_tokenizer(folder / "tokenizer", beside=folder / "weights/language_model")
    if one_of(_WHOLE, folder / "weights/language_model" / SUMS):
        load(folder)
    return configs


def _other_converted(files: Files, configs: Any) -> str:
    sums = f"weights/language_model/{SUMS}"
    if files.get(sums) != _converted()[sums] or files == _converted():
        return ""
    return "a folder that differs from what was saved is read"


def _small(rng: np.random.Generator) -> Files:
    """The small files of a work directory, one of them damaged."""
    held: dict[str, Any] = {
        RUN_CONFIG: _RUN, "clock.json": {"wall": 12.5, "parts": {"vision": 5.5, "data": 1}},
        METRICS: {"classification.top1": 0.5, "caption.n": 12.0},
        CALIBRATION: {"slope": 1.0, "offset": 0},
        INPUTS: {"train images": {"a.png": "0" * 64, "b.png": "1" * 64}, "x": {"the file": ""}},
    }  # fmt: skip
    name = chosen(rng, sorted(held))
    files = {name: json.dumps(value).encode() for name, value in held.items()}
    files[HISTORY_FILE] = json.dumps({"step": 1, "loss": 2.5}).encode() + b"\n"
    if chance(rng, 0.1):
        line = damaged_json({"step": 2, "loss": 2.25, "rate": 1e-3}, rng).replace(b"\n", b"")
        files[HISTORY_FILE] += line + b"\n"
    else:
        files[name] = damaged_json(held[name], rng)
    return {**files, REPORT: b"<html>"}


def _small_read(folder: Path) -> dict[str, Any]:
    """A damaged clock or metrics file gets a message, and does not stop a run."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        found = {
            "clock": Clock(folder / "clock.json", 0.0).metrics(),
            "metrics": finished_metrics(folder), "config": run_config(folder),
            "calibration": dataclasses.asdict(Calibration.read(folder / CALIBRATION)),
        }  # fmt: skip
        read_history(folder)
        check_inputs(folder, {"train images": {"a.png": "0" * 64, "b.png": "1" * 64}})
        claim(folder, ConfigDict(_RUN))
    json.dumps(found)
    return {**found, "said": said.getvalue()}


def _once(pairs: list) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _other_small(files: Files, found: dict[str, Any]) -> str:
    """What is read without a word is JSON, and the same numbers."""
    names = {"metrics": METRICS, "config": RUN_CONFIG, "calibration": CALIBRATION}
    for name, file in names.items():
        if found[name] is None and file in found["said"]:
            continue
        try:
            stated = json.loads(files[file].decode(), object_pairs_hook=_once)
        except ValueError as error:
            return f"{file}: accepted, but {error}"
        if repr(stated) != repr(found[name]):
            return f"{file}: {found[name]} where {stated}"
    return ""


SAVED = {
    "saved assistants": Kind(_assistant_input, _assistant_read, _other_assistant),
    "checkpoints": Kind(
        _checkpoint_input, lambda folder: load_tree(folder / "last"), _other_checkpoint
    ),
    "converted weights": Kind(_converted_input, _converted_read, _other_converted),
    "facts": Kind(_small, _small_read, _other_small),
}

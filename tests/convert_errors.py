"""Folders to damage, and the one error that a conversion must then end in."""

import json

import pytest
from safetensors.numpy import load_file, save_file

from slava_jax.commands.convert import main


def fails(path, capsys, *parts: str) -> None:
    """The command fails with one error that contains all of `parts`, and writes nothing."""
    target = path.parent / "ours"
    with pytest.raises(SystemExit) as error:
        main(["--from", str(path), "--to", str(target)])
    text = str(error.value.code)
    assert text.startswith("error: ") and "Traceback" not in text
    assert not [part for part in parts if part not in text], text
    assert not target.exists() and not list(path.parent.glob(".ours.*"))


def change(path, **settings) -> None:
    held = json.loads(path.read_text())
    held.update(settings)
    path.write_text(json.dumps({k: v for k, v in held.items() if v is not None}))


def shard(folder) -> dict:
    """Splits the file into two shards with an index; returns the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for i, part in enumerate((names[:10], names[10:])):
        name = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / name)
        weight_map.update(dict.fromkeys(part, name))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weight_map

"""A checkpoint's folder: its format, damage of its files, and places that cannot hold one."""

import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from slava_jax.checkpoint import CheckpointError, Checkpoints, load_facts, load_tree, save_tree
from slava_jax.files import SUMS, seal


def set_format(folder: Path, version: int | None) -> None:
    file = folder / "_CHECKPOINT_METADATA"
    content = json.loads(file.read_text())
    content["custom_metadata"]["slava_jax_format"] = version
    file.write_text(json.dumps(content))


def test_a_folder_of_before_checksums_is_read_and_said_to_be_unprotected(tmp_path, capsys):
    save_tree(tmp_path / "t", {"x": jnp.ones(2)}, {"a": 1})
    (tmp_path / "t" / SUMS).unlink()
    with pytest.raises(CheckpointError, match=rf"{SUMS}: is missing"):
        load_tree(tmp_path / "t")
    with pytest.raises(CheckpointError, match=rf"{SUMS}: is missing"):
        load_facts(tmp_path / "t")
    set_format(tmp_path / "t", 2)
    tree, facts = load_tree(tmp_path / "t")
    assert (tree["x"].tolist(), facts) == ([1, 1], {"a": 1})
    assert "t: written by an older slava_jax, without checksums" in capsys.readouterr().err


def test_a_saved_folder_does_not_name_the_place_where_it_was_saved(tmp_path):
    save_tree(tmp_path / "t", {"x": jnp.ones(2)}, {"a": 1})
    contents = [path.read_bytes() for path in (tmp_path / "t").rglob("*") if path.is_file()]
    assert contents and not any(bytes(tmp_path) in content for content in contents)


def test_every_flipped_bit_is_noticed_and_the_file_named(tmp_path):
    save_tree(tmp_path / "t", {"x": np.arange(50.0)}, {"a": 1})
    for file in sorted(p for p in (tmp_path / "t").rglob("*") if p.is_file() and p.stat().st_size):
        content = file.read_bytes()
        for place in {0, len(content) // 2, len(content) - 1}:
            flipped = bytearray(content)
            flipped[place] ^= 4
            file.write_bytes(flipped)
            with pytest.raises(CheckpointError, match=SUMS if file.name == SUMS else file.name):
                load_tree(tmp_path / "t")
            if file.name in ("_CHECKPOINT_METADATA", SUMS) and place == 0:
                with pytest.raises(CheckpointError):
                    load_facts(tmp_path / "t")
        file.write_bytes(content)
    assert load_tree(tmp_path / "t")[1] == {"a": 1}


@pytest.mark.parametrize("name", ["a[1]", "a]", "a\\b"])
def test_a_path_that_could_not_be_read_again_is_refused_before_writing(tmp_path, name):
    for write in (lambda place: save_tree(place, {"x": jnp.ones(2)}, {}), Checkpoints, load_tree):
        with pytest.raises(CheckpointError, match="use another name"):
            write(tmp_path / name / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (4, "written by a newer slava_jax (format 4, this one reads up to 3): update"),
        (1, "written by an older slava_jax (format 1, this one reads 2 and 3)"),
        (None, "not written by slava_jax"),
    ],
)
def test_another_format_is_refused(tmp_path, version, message):
    save_tree(tmp_path / "t", {"x": jnp.zeros(2)}, {})
    set_format(tmp_path / "t", version)
    seal(tmp_path / "t")
    with pytest.raises(CheckpointError) as caught:
        load_tree(tmp_path / "t", {"x": jnp.zeros(2)})
    assert message in str(caught.value)


@pytest.mark.parametrize("described", [["true64", [2]], ["float32", [2**31 - 1] * 3]])
def test_an_array_that_cannot_be_is_named(tmp_path, described):
    save_tree(tmp_path / "t", {"x": jnp.zeros(2)}, {})
    file = tmp_path / "t/_CHECKPOINT_METADATA"
    content = json.loads(file.read_text())
    content["custom_metadata"]["arrays"]["x"] = described
    file.write_text(json.dumps(content))
    seal(tmp_path / "t")
    with pytest.raises(CheckpointError, match="/t: damaged: x is no array that can be"):
        load_tree(tmp_path / "t")


def test_a_truncated_file_is_an_error_not_a_value(tmp_path):
    save_tree(tmp_path / "t", {"x": np.random.default_rng(0).normal(size=1000)}, {})
    largest = max(
        (p for p in (tmp_path / "t").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    os.truncate(largest, largest.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="damaged"):
        load_tree(tmp_path / "t")

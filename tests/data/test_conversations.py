"""Conversations with several turns: import into one instruction, and export."""

import json

import pytest
from format_records import KEYS, run, talk, talked, write_images, written

from slava_jax.data.instructions import read_jsonl, write_jsonl


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


def test_a_conversation_becomes_one_instruction(tmp_path, images, capsys):
    record = {
        "id": 7,
        "images": [KEYS[0], KEYS[2]],
        "system": "Be brief.",
        "data_source": "ours",
        "conversations": talk(
            ("human", "Hello?"), ("gpt", "Hi."),
            ("human", "<image>\nWhat is it?"), ("gpt", "Gold."),
            ("human", "And <image>?"), ("gpt", "Tin."),
            ("human", "Which is softer?"), ("gpt", "Tin, too."),
        ),
    }  # fmt: skip
    path = written(tmp_path / "a.json", [record])
    to = tmp_path / "b.jsonl"
    said = run(
        capsys, "--from", path, "--to", to, "--images", images,
        "--task", "caption", "--style", "detailed",
    )  # fmt: skip
    assert "1 instructions;" in said
    (read,) = read_jsonl(to)
    assert (read.id, read.images) == ("7", (KEYS[0], KEYS[2]))
    assert (read.question, read.answer) == ("Which is softer?", "Tin, too.")
    assert read.turns == (
        ("Hello?", "Hi."), ("<image>\nWhat is it?", "Gold."), ("And <image>?", "Tin."),
    )  # fmt: skip
    assert (read.task, read.style, read.category) == ("caption", "detailed", "")
    assert read.metadata["system"] == "Be brief."
    assert read.metadata["record"] == {"data_source": "ours"}


def test_a_conversation_is_exported_with_all_its_turns(tmp_path, images, capsys):
    """In every form; the supplement goes before the first question."""
    write_jsonl(tmp_path / "a.jsonl", [talked()])
    first = "2 nm.\n<image>\nWhat?"
    for form in ("llava", "sharegpt"):
        run(capsys, "--from", tmp_path / "a.jsonl", "--to", tmp_path / "b.json", "--as", form)
        (record,) = json.loads((tmp_path / "b.json").read_text())
        assert record["conversations"] == talk(
            ("human", first), ("gpt", "Gold."), ("human", "Sure?"), ("gpt", "Yes."),
            ("human", "And <image>?"), ("gpt", "Tin."),
        )  # fmt: skip
    run(capsys, "--from", tmp_path / "a.jsonl", "--to", tmp_path / "b.json", "--as", "openai")
    (record,) = json.loads((tmp_path / "b.json").read_text())
    assert [m["role"] for m in record["messages"]] == ["user", "assistant"] * 3
    contents = [m["content"] for m in record["messages"]]
    assert contents[1:4] == ["Gold.", "Sure?", "Yes."]
    assert contents[0][1] == {"type": "image_url", "image_url": {"url": KEYS[0]}}
    assert contents[4][1] == {"type": "image_url", "image_url": {"url": KEYS[2]}}

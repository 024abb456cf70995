"""Test helpers: records in other tools' formats, and the command that converts them."""

import json

import numpy as np
import pytest
from PIL import Image

from slava_jax.commands.reformat import main
from slava_jax.data.instructions import Instruction

KEYS = ("gold/a.png", "gold/b.png", "tin/c d.png")


def write_images(folder):
    """Writes a tiny picture under each of `KEYS`, a text file and an empty file."""
    for i, key in enumerate(KEYS):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((5, 5), 40 * i + 10, np.uint8)).save(path)
    (folder / "gold/note.txt").write_text("a note")
    (folder / "gold/empty.png").touch()
    return folder


def item(**changes):
    fields = {
        "id": "a/size",
        "images": (KEYS[0],),
        "question": "<image> How large are they?",
        "answer": "About 40 nm.",
        "task": "vqa",
        "style": "detailed",
        "category": "gold",
    }
    return Instruction(**{**fields, **changes})


def talked():
    """A conversation with three turns, with images in the first and the last."""
    return item(
        id="talk",
        images=(KEYS[0], KEYS[2]),
        turns=[("<image>\nWhat?", "Gold."), ("Sure?", "Yes.")],
        question="And <image>?",
        answer="Tin.",
        metadata={"supplement": "2 nm."},
    )


ITEMS = [
    item(),
    item(
        id="known",
        metadata={
            "question_type": "size",
            "supplement": "Pixel size 2 nm,\n50,000x.",
            "claims": {"size_nm": [30.0, 50.0]},
            "seen_claims": {"size_px": [15.0, 25.0]},
            "directional": True,
            "source": {"page": [1, None]},
        },
    ),
    item(
        id="several µ",
        images=KEYS,
        question="Here <image>is gold;<image>\n too: <image>  what is it?  ",
        answer="  tin\n",
        task="classification",
        style="short",
        category="",
    ),
    item(id="bare", question="<image>", metadata={"system": 5, "record": {"image": "x"}}),
    item(id="system", metadata={"system": "You are terse.", "record": {"model": None}}),
    talked(),
]


def run(capsys, *arguments) -> str:
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def refusal(*arguments) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return str(caught.value.code)


def written(path, content):
    lines = path.suffix == ".jsonl"
    text = "\n".join(map(json.dumps, content)) if lines else json.dumps(content, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def talk(*turns, keys=("from", "value")):
    return [dict(zip(keys, turn, strict=True)) for turn in turns]


def llava(question="<image>\nWhat is it?", answer="Gold.", **changes):
    record = {
        "id": "one",
        "image": KEYS[0],
        "conversations": talk(("human", question), ("gpt", answer)),
    }
    return {**record, **changes}


def without(name):
    record = llava()
    del record[name]
    return record


def openai(*parts, answer="Gold."):
    turns = talk(("user", list(parts)), ("assistant", answer), keys=("role", "content"))
    return {"messages": turns}


def link(named):
    return {"type": "image_url", "image_url": named}

"""LLaVA, ShareGPT and OpenAI records: round trips, and errors that name the faulty field."""

import base64
import json
import os

import numpy as np
import pytest
from format_records import (
    ITEMS,
    KEYS,
    item,
    link,
    llava,
    openai,
    refusal,
    run,
    talk,
    without,
    write_images,
    written,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from slava_jax.commands.reformat import main
from slava_jax.data.formats.mapping import FORMS
from slava_jax.data.images import encode_png
from slava_jax.data.instructions import read_jsonl, write_jsonl

TEXT = {"type": "text", "text": "What?"}
PNG = base64.b64encode(encode_png(np.zeros((9, 9), np.uint8))).decode()


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_our_instructions_survive_a_round_trip(tmp_path, images, capsys, form, suffix):
    ours, theirs, again = (tmp_path / name for name in ("a.jsonl", f"b{suffix}", "c.jsonl"))
    write_jsonl(ours, ITEMS)
    assert f"{len(ITEMS)} conversations" in run(
        capsys, "--from", ours, "--to", theirs, "--as", form, "--images", images
    )
    said = run(capsys, "--from", theirs, "--to", again, "--images", images)
    assert f"{len(ITEMS)} instructions; 0 conversations without an image" in said
    assert read_jsonl(again) == ITEMS


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9).filter(str.strip)


@settings(max_examples=50, deadline=None)
@given(
    pieces=st.lists(st.text(st.characters(codec="utf-8"), max_size=9), min_size=2, max_size=4),
    supplement=st.text(st.characters(codec="utf-8"), max_size=9),
    turns=st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=3),
    form=st.sampled_from(FORMS),
)
def test_any_text_survives_a_round_trip(tmp_path_factory, pieces, supplement, turns, form):
    place = tmp_path_factory.getbasetemp()
    images = place / "any"
    images.mkdir(exist_ok=True)
    (images / "x.png").write_bytes(encode_png(np.zeros((4, 4), np.uint8)))
    whole = item(
        images=["x.png"] * (len(pieces) - 1),
        question="<image>".join(pieces),
        metadata={"supplement": supplement},
        turns=turns,
    ) if "<image>" not in supplement else item(images=["x.png"])  # fmt: skip
    ours, theirs, again = (place / name for name in ("a.jsonl", "b.json", "c.jsonl"))
    write_jsonl(ours, [whole])
    main(["--from", str(ours), "--to", str(theirs), "--as", form])
    main(["--from", str(theirs), "--to", str(again), "--images", str(images)])
    assert read_jsonl(again) == [whole]


def test_the_llava_export(tmp_path, images, capsys):
    """`id`, `image` and `conversations` follow LLaVA's docs; its code ignores the other fields."""
    write_jsonl(tmp_path / "a.jsonl", ITEMS)
    run(capsys, "--from", tmp_path / "a.jsonl", "--to", tmp_path / "b.json", "--as", "llava")
    one, known, several, _, system, _ = json.loads((tmp_path / "b.json").read_text())
    assert (one["id"], one["image"]) == ("a/size", KEYS[0])
    assert one["conversations"] == talk(
        ("human", "<image> How large are they?"), ("gpt", "About 40 nm.")
    )
    start = "Pixel size 2 nm,\n50,000x.\n<image>"
    assert known["conversations"][0]["value"].startswith(start)
    assert several["image"] == list(KEYS)
    assert system["conversations"][0] == {"from": "system", "value": "You are terse."}
    assert "model" in system


def test_the_openai_export(tmp_path, images, capsys):
    write_jsonl(tmp_path / "a.jsonl", ITEMS)
    command = ("--from", tmp_path / "a.jsonl", "--to", tmp_path / "b.jsonl", "--as", "openai")
    said = run(capsys, *command, "--images", images, "--embed", "--plain")
    assert "task, style, category and metadata are left out" in said
    records = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert set(records[0]) == {"messages"}
    user, assistant = records[2]["messages"]
    assert [part["type"] for part in user["content"]] == [
        "text", "image_url", "text", "image_url", "text", "image_url", "text",
    ]  # fmt: skip
    url = user["content"][5]["image_url"]["url"]
    content = (images / KEYS[2]).read_bytes()
    assert url == f"data:image/png;base64,{base64.b64encode(content).decode()}"
    assert assistant == {"role": "assistant", "content": "  tin\n"}


def test_images_without_a_token_go_before_the_first_question(tmp_path, images, capsys):
    turns = talk(("user", "What?"), ("assistant", "Gold."), keys=("role", "content"))
    path = written(tmp_path / "a.json", [{"messages": turns, "images": list(KEYS[:2])}])
    run(capsys, "--from", path, "--to", tmp_path / "b.jsonl", "--images", images)
    assert read_jsonl(tmp_path / "b.jsonl")[0].question == "<image>\n<image>\nWhat?"


def test_a_repeated_id_is_marked(tmp_path, images, capsys):
    records = [llava(), llava(), llava(id="one#2"), llava(id="one")]
    path = written(tmp_path / "a.jsonl", records)
    run(capsys, "--from", path, "--to", tmp_path / "b.jsonl", "--images", images)
    items = read_jsonl(tmp_path / "b.jsonl")
    assert len({i.id for i in items}) == 4
    assert [i.id for i in items][:2] == ["one", "one#2"]
    assert items[1].metadata["conversation"] == {"id": "one"}
    assert "conversation" not in items[0].metadata


def test_text_without_images_is_left_out_on_request(tmp_path, images, capsys):
    text = {"id": "t", "conversations": talk(("human", "Hi?"), ("gpt", "Hello."))}
    path = written(tmp_path / "a.json", [llava(), text])
    command = ("--from", path, "--to", tmp_path / "b.jsonl", "--images", images)
    assert "record 2: has no image; add one, or use --leave_out_text" in refusal(*command)
    assert not (tmp_path / "b.jsonl").exists()
    said = run(capsys, *command, "--leave_out_text")
    assert "1 instructions; 1 conversations without an image left out" in said


def weighted(weight):
    record = openai(TEXT, link(KEYS[0]))
    record["messages"][1]["weight"] = weight
    return record


BROKEN = [
    (llava("<image> <image> both?"), "'conversations': 2 <image> for 1 image(s); write one"),
    (llava("What?", image=[*KEYS, KEYS[0]]), None),  # no token at all: they go first
    (llava("<image> one?", image=list(KEYS)), "'conversations': 1 <image> for 3 image(s)"),
    (llava(image="gold/z.png"), "'image': 'gold/z.png' is not a file in"),
    (llava(image="gold/note.txt"), "'image': 'gold/note.txt' is not an image (.bmp, "),
    (llava(image="gold/empty.png"), "'image': 'gold/empty.png' is empty (0 bytes)"),
    (llava(image=[KEYS[0], 3]), "'image[1]': must name an image, is 3"),
    (llava(image="../a.png"), "'image': '../a.png' is outside"),
    (llava(image="/etc/hosts"), "'image': '/etc/hosts' is outside"),
    (llava(image="https://host/a.png"), "is a web address; download it and name the file"),
    (llava(images=[KEYS[0]]), "'images': is given together with 'image'"),
    (without("image"), "1 <image> for 0 image(s)"),
    (without("conversations"), "must have either 'conversations' (LLaVA, ShareGPT) or 'messages'"),
    (llava(conversations=[]), "'conversations': must be a non-empty list"),
    (llava(conversations="x"), "'conversations': must be a non-empty list"),
    (llava(conversations=["x"]), "'conversations[0]': must be an object"),
    (llava(answer=""), "'conversations[1].value': must not be empty"),
    (llava(answer=" \n"), "'conversations[1].value': must not be empty"),
    (llava(answer=None), "'conversations[1].value': must be a string or a list of parts, is None"),
    (llava(answer="<image>"), "'conversations[1].value': <image> is only allowed in"),
    (llava(conversations=talk(("robot", "x"))), "'conversations[0].from': must be one of human,"),
    (llava(conversations=talk(("gpt", "x"))), "'conversations[0]': an answer without a preceding"),
    (llava(conversations=talk(("human", "<image>"))), "'conversations': ends without an answer"),
    (
        llava(conversations=talk(("human", "<image>"), ("gpt", "x"), ("system", "y"))),
        "'conversations[2]': a system prompt must be the first message",
    ),
    (llava(id=[1]), "'id': must be a string or an integer"),
    (llava(system=3), "'system': must be a single string"),
    (llava(slava_jax=3), "'slava_jax': must be an object"),
    (llava(slava_jax={"answer": "x"}), "'slava_jax.answer': is not one of task, style"),
    (llava(slava_jax={"task": "x"}), "'task': must be one of"),
    (llava(slava_jax={"images": []}), "'slava_jax.images': must list 1 image(s)"),
    (
        llava(slava_jax={"metadata": {"supplement": "2 nm"}}),
        "'slava_jax.metadata.supplement': the question does not start with it",
    ),
    (llava(answer="\ud800"), "lone surrogate"),
    (openai(TEXT, link({"url": "data:image/png;base64,%%"})), "is not valid base64"),
    (openai(TEXT, link(f"data:image/png;base64,{PNG[:60]}")), "image_url': the image: "),
    (openai(TEXT, link("data:image/png;base64,")), "the image: is empty (0 bytes)"),
    (llava(image=PNG * 50), " is not a file in"),
    (llava(image="gold/a\0.png"), " is not a file in"),
    (llava(image="file://[gold/a.png"), "is not a file: URL"),
    (llava(slava_jax={"images": [KEYS[1]]}), f"than the record's own key, {KEYS[1]!r}"),
    (openai(TEXT, link(f"data:image/py;base64,{PNG}")), "an image of the kind 'py' is not read"),
    (llava(image="gold/\x1b.png"), r"'gold/\x1b.png' is not a file in"),
    (
        llava(image=f"data:image/png;base64,{PNG}", slava_jax={"images": ["x" * 300 + ".png"]}),
        "cannot be saved under its key",
    ),
    (llava(id="first", slava_jax={"metadata": {"conversation": 3}}), "'metadata.conversation'"),
    (llava(conversations=["x" * 50_000]), "'conversations[0]': must be an object, is 'xxx"),
    (openai(TEXT, link({})), "[1].image_url.url': must name an image"),
    (openai(TEXT, link("data:text/plain,x")), "must start with data:image/"),
    (openai(TEXT, {"type": "input_audio"}), "'messages[0].content[1].type': must be text, image"),
    (weighted(0), "'messages[1].weight': must be 1, is 0; remove the answer"),
    (openai({"type": "text"}), "'messages[0].content[0].text': must be a string"),
    (openai(TEXT, {"type": "image"}), "'messages': 1 <image> for 0 image(s)"),
    (
        {**openai({"type": "image_url", "image_url": {"url": KEYS[0]}}), "images": [KEYS[1]]},
        "'messages[0].content[0].image_url.url': the record already lists its images",
    ),
    ([], "a record must be a JSON object, is a list"),
]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize(("record", "said"), BROKEN, ids=range(len(BROKEN)))
def test_faulty_fields_are_named(tmp_path, images, capsys, suffix, record, said):
    path = written(tmp_path / f"a{suffix}", [llava(id="first"), record])
    command = ("--from", path, "--to", tmp_path / "b.jsonl", "--images", images)
    if said is None:
        run(capsys, *command)
        return
    text = refusal(*command)
    assert said in text and len(text) < 1000
    assert (f"{path}:2: " if suffix == ".jsonl" else ": record 2: ") in text
    assert sorted(os.listdir(tmp_path)) == [path.name, "images"]


def test_all_problems_are_reported_at_once_with_their_lines(tmp_path, images):
    records = [llava(), llava(answer=""), llava(), llava(image="no.png")]
    path = written(tmp_path / "a.json", records)
    lines = path.read_text().splitlines()
    text = refusal("--from", path, "--images", images)
    starts = [i for i, line in enumerate(lines, start=1) if line == " {"]
    assert f"{path}:{starts[1]}: record 2: field 'conversations[1].value'" in text
    assert f"{path}:{starts[3]}: record 4: field 'image'" in text
    assert text.count("\n") == 1
    path = written(tmp_path / "many.jsonl", [llava(answer="")] * 50)
    text = refusal("--from", path, "--images", images)
    assert text.count("must not be empty") == 20 and text.endswith("stopped reading here")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[\n{"id": 1},\n{"id": "\xfc"}]', "a.json:3: byte 21 is not UTF-8"),
        (b'{"id": 1}\n{"id": "\xfc"}', "a.json:2: byte 8 is not UTF-8"),
        (b'[\n{"id": 1},\n{"id": ]', "a.json:3: not JSON at column 8"),
        (b'[\n{"id": 1}\n{"id": 2}]', "a.json:2: record 1: must be followed by a comma or ]"),
        (b'[\n{"id": 1}', "a.json:2: record 1: must be followed by a comma or ]"),
        (b'[\n{"id": 1},', "a.json:2: not JSON"),
        (b'[\n{"id": 1}\n]\nx', "a.json:3: text after the end of the array"),
        (b'{"id": 1}\n{"id": 2} {"id": 3}', "a.json:2: text after the record"),
        (b'{"id": 1}\n{"id":', "a.json:2: not JSON"),
        (b'{"id": NaN}', "a.json:1: cannot be parsed as JSON: field 'id': holds NaN, which is not"),
        (b'[\n{"id": {"k": [1, 1e999]}}]', ": record 1: cannot be parsed as JSON: field 'id.k[1]'"),
        (b'[{"x": "a", "y": {"x": 1}, "x": "b"}]', "a.json:1: record 1: cannot be parsed as JSON"),
        (b'[{"x": "a", "y": {"x": 1}, "x": "b"}]', "the key 'x' occurs twice in one object"),
        (b"[" * 100_000, "a.json:1: record 1: cannot be parsed as JSON: nested deeper"),
        (b'{"x":' * 101 + b"1" + b"}" * 101, "a.json:1: cannot be parsed as JSON: nested deeper"),
        (b"[]", "a.json: contains no records"),
        (b"", "a.json: contains no records"),
    ],
)
def test_a_file_that_is_not_json_is_named_by_line(tmp_path, images, content, said):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert said in refusal("--from", path, "--images", images)


def test_byte_order_marks_and_windows_newlines_are_accepted(tmp_path, images, capsys):
    path = tmp_path / "a.json"
    text = json.dumps([llava(), llava(id="two")], indent=1).replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert "2 instructions" in run(capsys, "--from", path, "--images", images)
    lines = "\r\n\r\n".join(json.dumps(record) for record in (llava(), llava(id="two")))
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert "2 instructions" in run(capsys, "--from", path, "--images", images)


def test_our_own_files_are_checked_too(tmp_path, images, capsys):
    write_jsonl(tmp_path / "a.jsonl", ITEMS[:2])
    assert "2 instructions" in run(capsys, "--from", tmp_path / "a.jsonl", "--images", images)
    write_jsonl(tmp_path / "a.jsonl", [ITEMS[0], item(id="x", images=("no.png",))])
    text = refusal("--from", tmp_path / "a.jsonl", "--images", images)
    assert "a.jsonl: instruction 'x': field 'images[0]': 'no.png' is not a file" in text
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"id": "y"}\n')
    assert "a.jsonl:3: field 'images'" in refusal("--from", tmp_path / "a.jsonl")


def test_an_image_token_outside_the_questions_is_not_exported(tmp_path):
    for changes in (
        {"answer": "an <image>"},
        {"metadata": {"supplement": "<image>"}},
        {"turns": [("What?", "an <image>")]},
    ):
        write_jsonl(tmp_path / "a.jsonl", [item(**changes)])
        for form in FORMS:
            text = refusal("--from", tmp_path / "a.jsonl", "--to", tmp_path / "b", "--as", form)
            assert "instruction 'a/size'" in text and "<image> is only allowed in questions" in text
            assert os.listdir(tmp_path) == ["a.jsonl"]


def test_wrong_commands(tmp_path, images, capsys):
    ours, theirs = tmp_path / "a.jsonl", written(tmp_path / "b.json", [llava()])
    write_jsonl(ours, ITEMS)
    to = tmp_path / "c.jsonl"
    assert "choose the output with --as" in refusal("--from", ours, "--to", to)
    assert "leave out --as" in refusal("--from", theirs, "--to", to, "--as", "llava")
    assert "No such file" in refusal("--from", tmp_path / "none", "--to", to)
    assert "is not a folder" in refusal("--from", theirs, "--images", tmp_path / "none")
    nowhere = tmp_path / "none" / "d.json"
    text = refusal(
        "--from", ours, "--to", nowhere, "--as", "llava", "--images", write_images(tmp_path / "i")
    )
    assert f"{nowhere}: there is no such folder" in text
    for command in (("--from", theirs), ("--from", ours, "--as", "llava", "--embed")):
        assert refusal(*command) == "2"
    assert "--images is missing: the folder" in capsys.readouterr().err

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slava_jax.data.instructions import (
    Instruction,
    InstructionError,
    claims_hold,
    read_jsonl,
    shown_false,
    write_jsonl,
)

LINE = {
    "id": "Particles_00017/size/short",
    "images": ["Particles_00017"],
    "question": "<image> What is the typical size?",
    "answer": "The particles are about 40 nm in diameter.",
    "task": "vqa",
    "style": "short",
    "category": "Particles",
    "metadata": {
        "question_type": "size",
        "supplement": "Pixel size 2 nm, magnification 50,000x.",
        "claims": {"feature": "particle", "mean_size_nm": [32.0, 48.0]},
        "directional": False,
    },
}


def instruction(**changes):
    return Instruction(**{**LINE, "images": tuple(LINE["images"]), **changes})


def written(tmp_path, *lines):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(s if isinstance(s, str) else json.dumps(s) for s in lines) + "\n")
    return path


def test_a_file_is_read_back_as_written(tmp_path):
    items = [
        instruction(),
        instruction(id="few", images=("a", "b"), question="<image> is x; <image> is?"),
        instruction(id="own", metadata={"question_type": "size", "source": {"page": [1, None]}}),
        instruction(id="µ/ü/日本\u2028x", answer="Größe 1.2 µm\nzwei Zeilen\u2028drei"),
        instruction(id="huge", answer="word " * 200_000),
        instruction(id="no class", category=""),
        instruction(id="talk", turns=[["Hi?", "Hello."], ["µ?\n", " ß"]]),
        instruction(
            id="later", images=("a", "b"), question="And?", turns=(("<image> or <image>?", "One."),)
        ),
    ]
    path = tmp_path / "items.jsonl"
    write_jsonl(path, items)
    assert read_jsonl(path) == items
    assert path.read_bytes().count(b"\n") == len(items)


@given(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip))
def test_any_text_survives_a_json_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    item = instruction(answer=text)
    write_jsonl(path, [item])
    assert read_jsonl(path) == [item]


def test_the_turns_field_is_omitted_if_empty(tmp_path):
    write_jsonl(tmp_path / "items.jsonl", [instruction(), instruction(id="x", turns=[("a", "b")])])
    one, other = map(json.loads, (tmp_path / "items.jsonl").read_text().splitlines())
    assert one == LINE
    assert other == {**LINE, "id": "x", "turns": [["a", "b"]]}


def test_each_turn_has_earlier_turns_and_images():
    item = instruction(
        images=("a", "b", "b"),
        question="Which is larger?",
        turns=[
            ("Hello?", "Hi."), ("<image> This?", "Gold."), ("It?", "Round."),
            ("<image><image>", "x"),
        ],
    )  # fmt: skip
    second, third, fourth, last = item.each_turn()
    assert [i.id for i in item.each_turn()] == [f"{item.id}/{i}" for i in (2, 3, 4, 5)]
    assert (second.question, second.answer, second.images) == ("<image> This?", "Gold.", ("a",))
    assert second.turns == (("Hello?", "Hi."),)
    assert third.turns == item.turns[:2] and third.images == ("a",)
    assert fourth.images == ("a", "b", "b") and last.turns == item.turns
    assert [i.category for i in item.each_turn()] == ["", "", "Particles", "Particles"]
    # the claims belong to the last answer; other metadata applies to every turn
    assert last.metadata == item.metadata and last.answer == item.answer
    assert third.claims == {} and third.question_type == "vqa"
    assert third.metadata["supplement"] == item.metadata["supplement"]
    assert instruction().each_turn() == [instruction()]


def test_no_instructions_give_an_empty_file(tmp_path):
    write_jsonl(tmp_path / "none.jsonl", [])
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_metadata_gets_its_defaults(tmp_path):
    line = {name: value for name, value in LINE.items() if name != "metadata"}
    (item,) = read_jsonl(written(tmp_path, line))
    assert item.question_type == "vqa"
    assert item.claims == {}
    assert item.metadata["supplement"] == ""
    assert item.metadata["directional"] is False
    assert item.target == "Particles_00017"
    item.claims["feature"] = "pore"
    assert instruction(metadata={}).claims == {}, "the default is shared"


def test_byte_order_marks_blank_lines_and_windows_newlines_are_accepted(tmp_path):
    path = tmp_path / "windows.jsonl"
    second = json.dumps({**LINE, "id": "two"})
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(LINE).encode() + b"\r\n\r\n" + second.encode() + b"\r\n\r\n"
    )
    assert [item.id for item in read_jsonl(path)] == [LINE["id"], "two"]


def changed(**changes):
    return {**LINE, **changes}


def with_metadata(**changes):
    return changed(metadata={**LINE["metadata"], **changes})


BROKEN = [
    *((changed(**{name: 3}), name) for name in LINE),
    *((changed(**{name: None}), name) for name in LINE),
    *(({n: v for n, v in LINE.items() if n != name}, name) for name in LINE if name != "metadata"),
    *((changed(**{name: " "}), name) for name in ("id", "question", "answer", "task", "style")),
    (changed(anwser="typo"), "anwser"),
    (changed(task="VQA"), "task"),
    (changed(style="long"), "style"),
    (changed(images=[]), "images"),
    (changed(images="Particles_00017"), "images"),
    (changed(images=[""]), "images"),
    (changed(images=[7]), "images"),
    (changed(question="What is the typical size?"), "question"),
    (changed(question="<image> or <image>?"), "question"),
    (changed(answer="\ud800"), "answer"),
    (changed(turns=None), "turns"),
    (changed(turns="ab"), "turns"),
    (changed(turns=["ab"]), "turns[0]"),
    (changed(turns=[["a", "b"], ["a", "b", "c"]]), "turns[1]"),
    (changed(turns=[["a", " "]]), "turns[0][1]"),
    (changed(turns=[[3, "b"]]), "turns[0][0]"),
    (changed(turns=[["a", "\ud800"]]), "turns[0][1]"),
    (changed(turns=[["<image>", "b"]]), "question"),
    (with_metadata(question_type=1), "metadata.question_type"),
    (with_metadata(supplement=["x"]), "metadata.supplement"),
    (with_metadata(directional="no"), "metadata.directional"),
    (with_metadata(directional=0), "metadata.directional"),
    (with_metadata(claims=["feature"]), "metadata.claims"),
    (with_metadata(claims={"size": [1]}), "metadata.claims.size"),
    (with_metadata(claims={"size": [2, 1]}), "metadata.claims.size"),
    (with_metadata(claims={"size": [1, "x"]}), "metadata.claims.size"),
    (with_metadata(claims={"size": [False, True]}), "metadata.claims.size"),
    (with_metadata(claims={"size": None}), "metadata.claims.size"),
    (with_metadata(claims={"size": {"lo": 1}}), "metadata.claims.size"),
    (with_metadata(seen_claims={"size": [2, 1]}), "metadata.seen_claims.size"),
    (with_metadata(question_type=" "), "metadata.question_type"),
    *((with_metadata(shots=shots), "metadata.shots") for shots in ("x", 1, None, False, 0.0)),
]


@pytest.mark.parametrize(("line", "field"), BROKEN)
def test_a_broken_field_is_named_with_file_and_line(tmp_path, line, field):
    path = written(tmp_path, changed(id="one"), "", line, changed(id="two"))
    with pytest.raises(InstructionError) as caught:
        read_jsonl(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:3: ")
    assert f"field {field!r}" in message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (json.dumps(LINE)[:-40], "truncated"),
        ("not json", "not JSON"),
        ("[1, 2]", "is a list"),
        ('"text"', "is a str"),
        ('{"id": NaN}', "finite"),
        ('{"id": ' + "1" * 5000 + "}", "cannot be parsed"),
        ("[" * 100_000, "cannot be parsed"),
        ('{"id": "a", "id": "b"}', "the key 'id' occurs twice in one object"),
        ('{"metadata": {"claims": {"size": 1, "size": 2}}}', "the key 'size' occurs twice"),
        ('{"metadata": {"note": ["\\ud800"]}}', "'metadata.note[0]': holds half a character"),
        (json.dumps(with_metadata(claims={"size": [0, 1]})).replace("1]", "1e999]"), "size"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, said):
    path = written(tmp_path, changed(id="one"), line)
    with pytest.raises(InstructionError, match="jsonl:2: ") as caught:
        read_jsonl(path)
    assert said in str(caught.value)


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(LINE).encode() + b'\n{"id": "\xfc"}\n')
    with pytest.raises(InstructionError, match=r"latin\.jsonl:2: .*UTF-8"):
        read_jsonl(path)


def test_ids_must_be_unique(tmp_path):
    path = written(tmp_path, LINE, changed(id="other"), LINE)
    with pytest.raises(InstructionError, match=r":3: field 'id'.*line 1"):
        read_jsonl(path)
    with pytest.raises(InstructionError, match="field 'id'"):
        write_jsonl(path, [instruction(), instruction()])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "items.jsonl"
    write_jsonl(path, [instruction()])
    before = path.read_bytes()

    def failing():
        yield instruction(id="new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_jsonl(path, failing())
    for value in (float("nan"), {1, 2}, "\ud800"):
        with pytest.raises(InstructionError, match=r"items\.jsonl: instruction 'bad'"):
            write_jsonl(path, [instruction(id="bad", metadata={"note": value})])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["items.jsonl"]


def test_a_written_file_has_ordinary_permissions(tmp_path):
    write_jsonl(tmp_path / "items.jsonl", [])
    (tmp_path / "plain").write_text("")
    modes = {os.stat(tmp_path / name).st_mode for name in ("items.jsonl", "plain")}
    assert len(modes) == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl"):
        read_jsonl(tmp_path / "absent.jsonl")


@pytest.mark.parametrize(
    ("claims", "holds"),
    [
        ({}, True),
        ({"shape": "round"}, True),
        ({"shape": "flat"}, False),
        ({"size": [30, 40]}, True),  # both ends are included
        ({"size": [40, 50]}, True),
        ({"size": [41, 50]}, False),
        ({"size": 40}, True),
        ({"size": 40.0}, True),
        ({"size": 41}, False),
        ({"cracked": True}, True),
        ({"cracked": 1}, False),  # there are cracks, but not necessarily one
        ({"cracked": [0, 1]}, False),
        ({"number": True}, False),
        ({"number": 1}, True),
        ({"absent": "x"}, False),
        ({"absent": [0, 9]}, False),
        ({"shape": [0, 9]}, False),
        ({"broken": [0, 9]}, False),
        ({"shape": "round", "size": [41, 50]}, False),
    ],
)
def test_claims_hold(claims, holds):
    facts = {"shape": "round", "size": 40, "cracked": True, "number": 1, "broken": float("nan")}
    assert claims_hold(claims, facts) is holds


def test_shown_false_uses_the_seen_claims():
    claims = {"claims": {"size_nm": [30, 50]}}
    item = instruction(metadata=claims)
    assert not shown_false(item, {"size_nm": 40, "size_px": 99})
    assert shown_false(item, {"size_nm": 99, "size_px": 20})
    item = instruction(metadata={**claims, "seen_claims": {"size_px": [15, 25]}})
    assert shown_false(item, {"size_nm": 40, "size_px": 99})
    assert not shown_false(item, {"size_nm": 99, "size_px": 20})
    assert not shown_false(instruction(metadata={}), {"size_nm": 40})

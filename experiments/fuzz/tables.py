"""Kinds of input: instructions, conversations, tables of labels, a teacher's replies, journals."""

import csv
import functools
import io
import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from experiments.fuzz.mutators import (
    chance,
    chosen,
    damaged_bytes,
    damaged_json,
    damaged_text,
    utf8,
)
from experiments.fuzz.trial import Files, Kind
from slava_jax.data.datasets.folder import LABELS, Folder
from slava_jax.data.formats.exchange import Conversations
from slava_jax.data.formats.image_files import ImageFiles
from slava_jax.data.formats.mapping import Reading
from slava_jax.data.images import encode_png
from slava_jax.data.instructions import Instruction, read_jsonl
from slava_jax.teacher import bodies
from slava_jax.teacher.journal import Ledger, read_journal
from slava_jax.teacher.prompt_sets import Item, Question
from slava_jax.teacher.replies import Answer, read_replies

_INSTRUCTION = {
    "id": "0", "images": ["a.png"], "question": "<image> How large are the particles?",
    "answer": "120 nm", "task": "vqa", "style": "short", "category": "Particles",
    "metadata": {"claims": {"mean_size": [100, 140.5], "touching": False, "shape": "round"},
                 "question_type": "basics", "supplement": "1 pixel is 2.5 nm.", "shots": 0},
}  # fmt: skip
_EARLIER = {
    "id": "1", "images": ["a.png", "b.png"], "question": "And here? <image>", "answer": "Wires.",
    "task": "vqa", "style": "detailed", "category": "Caf\u00e9",
    "turns": [["<image> What is shown?", "Particles."]],
}  # fmt: skip
_CONVERSATIONS = (
    {"id": 7, "image": "a.png", "conversations": [
        {"from": "human", "value": "<image>\nWhat is shown?"}, {"from": "gpt", "value": "Wires."}]},
    {"id": "b", "images": ["a.png", "b.png"], "system": "Be brief.", "conversations": [
        {"from": "human", "value": "What?"}, {"from": "gpt", "value": "Wires."},
        {"from": "human", "value": "How large?"}, {"from": "gpt", "value": "2.5 nm"}]},
    {"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "What?"},
            {"type": "image_url", "image_url": {"url": "a.png"}}]},
        {"role": "assistant", "content": "Wires."}]},
    {"id": "own", "images": ["a.png"], "conversations": [
        {"from": "human", "value": "<image>Sizes?"}, {"from": "gpt", "value": "12 nm"}],
     "slava_jax": {"task": "vqa", "style": "short", "category": "", "metadata": {"claims": {}}}},
)  # fmt: skip
_ROWS = (
    ("file", "label", "pixel_size_nm", "magnification", "coating"),
    ("a.png", "Nano wires", "2.5", "5000", "gold"), ("b.png", "Powder", "", "1e4", ""),
    ("sub/c.png", "Caf\u00e9", "12", "", "12,5"),
)  # fmt: skip
_ENTRY = {"short": "They are small.", "detailed": "They are small. The largest has 40 nm."}
_ITEMS = (
    Item(Question("size", "sizes", ("How large are they?",)), "How large are they?"),
    Item(Question("finding", "a finding"), ""),
)
_ANSWERS = {"size": _ENTRY, "finding": {"question": "What is cracked?", **_ENTRY}}
_BODY = {
    "id": "x", "choices": [{"index": 0, "finish_reason": "stop", "message": {
        "role": "assistant", "content": "@", "refusal": None}}],
    "usage": {"prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960},
}  # fmt: skip
_ERROR = {"error": {"message": "Rate limit reached", "type": "rate_limit_error", "code": 429}}


def _nfc(value: Any) -> Any:
    """With every text composed, and tuples as lists."""
    if isinstance(value, dict):
        return {_nfc(key): _nfc(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_nfc(inner) for inner in value]
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def _lines(records: list[bytes]) -> bytes:
    return b"".join(record.replace(b"\n", b" ") + b"\n" for record in records)


def _instructions(rng: np.random.Generator) -> Files:
    records = [json.dumps(_EARLIER).encode(), damaged_json(_INSTRUCTION, rng)]
    if chance(rng, 0.5):
        records = [json.dumps(_INSTRUCTION).encode(), damaged_json(_EARLIER, rng)]
    raw = _lines(records)
    return {"x.jsonl": damaged_bytes(raw, rng) if chance(rng, 0.1) else raw}


def _strict_pairs(pairs: list) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _other_instructions(files: Files, items: list[Instruction]) -> str:
    text = files["x.jsonl"].decode().removeprefix("\ufeff")
    lines = [line for line in text.split("\n") if line.strip(" \t\r\v\f")]
    try:
        records = [json.loads(line, object_pairs_hook=_strict_pairs) for line in lines]
        if len(records) != len(items):
            return f"{len(records)} lines, {len(items)} instructions"
    except (ValueError, RecursionError) as error:
        return f"accepted, but {error}"
    for record, item in zip(records, items, strict=True):
        for name, value in record.items():
            found = getattr(item, name)
            found = {k: found[k] for k in value if k in found} if name == "metadata" else found
            if repr(_nfc(found)) != repr(_nfc(value)):
                return f"{name}: {found!r} where {value!r}"
    return ""


@functools.cache
def _png(side: int) -> bytes:
    return encode_png(np.full((side, side), side, np.uint8))


def _conversations(rng: np.random.Generator) -> Files:
    whole = json.dumps(_CONVERSATIONS[1]).encode()
    records = [damaged_json(chosen(rng, _CONVERSATIONS), rng), whole]
    raw = b"[" + b",\n".join(records) + b"]" if chance(rng, 0.4) else _lines(records)
    return {"x.json": raw, "a.png": _png(4), "b.png": _png(5)}


def _converted(folder: Path) -> list[Instruction]:
    images = ImageFiles(folder, writes=False)
    return [*Conversations(folder / "x.json", images, Reading(), leave_out_text=True)]


def _other_conversations(files: Files, items: list[Instruction]) -> str:
    """Every answer is one of the texts of the file, and there is no text that is not."""
    text = files["x.json"].decode().removeprefix("\ufeff")
    try:
        array = text.lstrip().startswith("[")
        lines = [line for line in text.split("\n") if line.strip()]
        records = json.loads(text) if array else [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        return f"accepted, but {error}"
    texts = {*_texts(records)}
    said = [answer for item in items for answer in (item.answer, *(a for _, a in item.turns))]
    other = [answer for answer in said if not {answer, *answer.split("\n")} & texts]
    return f"an answer {other[0]!r} that the file does not have" if other else ""


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in _texts(inner)]
    return [value] if isinstance(value, str) else []


def _labels(rng: np.random.Generator) -> Files:
    mark = chosen(rng, (",", ",", ";", "\t"))
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=mark).writerows(_ROWS)
    text = file.getvalue()
    text = damaged_text(text, rng) if chance(rng, 0.7) else text
    raw = utf8(text) if chance(rng, 0.9) else text.encode("utf-16", "replace")
    raw = damaged_bytes(raw, rng) if chance(rng, 0.3) else raw
    return {f"x/{LABELS}": raw, "x/a.png": _png(4), "x/b.png": _png(5), "x/sub/c.png": _png(6)}


def _listed(folder: Path) -> list[tuple[str, str, dict]]:
    # What the builder reads is private: no one else needs it.
    found = Folder(folder / "x", folder / "data", facts=("coating",))._files
    names = (file.path.relative_to(folder / "x").as_posix() for file in found)
    return [(name, file.label, dict(file.facts)) for name, file in zip(names, found, strict=True)]


def _other_labels(files: Files, found: list[tuple[str, str, dict]]) -> str:
    text = files[f"x/{LABELS}"].decode("utf-8-sig")
    first = text.splitlines()[0]
    marks = (";", "\t", ",")
    heads = {mark: {*next(csv.reader([first], delimiter=mark))} for mark in marks}
    mark = next(mark for mark in marks if {"file", "label"} <= heads[mark])
    rows = [*csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, strict=True)]
    if len(rows) != len(found):
        return f"{len(rows)} rows, {len(found)} files"
    for row, (name, label, facts) in zip(rows, found, strict=True):
        stated = str(Path(row["file"].strip()))
        if (_nfc(stated), _nfc(row["label"].strip())) != (name, label):
            return f"{name!r}, {label!r} where {row}"
        for column, fact in (("pixel_size_nm", "nm_per_pixel"), ("magnification", "magnification")):
            cell = (row.get(column) or "").strip()
            if (float(cell) if cell else None) != facts.get(fact):
                return f"{fact}: {facts.get(fact)} where {cell!r}"
        if str(facts.get("coating", "")) != _nfc((row["coating"] or "").strip()):
            cell = float(row["coating"])
            if not math.isclose(cell, facts["coating"]):
                return f"coating: {facts['coating']!r} where {row['coating']!r}"
    return ""


def _reply(rng: np.random.Generator) -> Files:
    answers = json.dumps(_ANSWERS)
    if chance(rng, 0.7):
        answers = damaged_json(_ANSWERS, rng).decode("utf-8", "replace")
    forms = ("@", "```json\n@\n```", "Here:\n@\nMore?", "<think>Hm {no}.</think>@", "@ @")
    content: Any = chosen(rng, forms).replace("@", answers)
    content = [{"type": "text", "text": content}] if chance(rng, 0.2) else content
    body = {**_BODY, "choices": [{**_BODY["choices"][0], "message": {
        "role": "assistant", "content": content}}]}  # fmt: skip
    body = _ERROR if chance(rng, 0.1) else body
    raw = damaged_json(body, rng) if chance(rng, 0.6) else json.dumps(body).encode()
    return {"body": raw}


def _understood(folder: Path) -> dict:
    body = bodies.parsed((folder / "body").read_bytes())
    tokens = bodies.tokens_in(body)
    problems = [bodies.problem_in(body, failed) for failed in (False, True)]
    [(problem.status, problem.message.encode(errors="replace")) for problem in problems if problem]
    reply = bodies.reply_in(body)
    if reply is None:
        return {"tokens": tokens, "answers": {}, "text": ""}
    good, bad = read_replies([reply], _ITEMS, longest=1000)
    [problem.reason.encode(errors="replace") for problem in bad.values()]
    return {"tokens": tokens, "answers": good, "text": reply.text}


def _other_reply(files: Files, found: dict) -> str:
    """Answers stand in the reply; of a sound reply all are read, and as they stand."""
    for slot, answer in found["answers"].items():
        if not isinstance(answer, Answer) or not answer.text.strip():
            return f"{slot}: {answer!r}"
    text = found["text"]
    if json.dumps(_ANSWERS) in text and text.count("{") == text.count("}") == 3:
        wanted = {(name, style): _ANSWERS[name][style] for name in _ANSWERS for style in _ENTRY}
        read = {slot: answer.text for slot, answer in found["answers"].items()}
        if read != wanted:
            return f"{read} of a sound reply"
    try:
        usage = json.loads(files["body"], object_pairs_hook=_strict_pairs)["usage"]
        counted = (usage["prompt_tokens"], usage["completion_tokens"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return ""
    wrong = found["tokens"] not in (None, counted)
    return f"{found['tokens']} tokens where {counted}" if wrong else ""


def _journal(rng: np.random.Generator) -> Files:
    lines = []
    for request in ("a", "b", "c"):
        lines.append({"event": "sent", "request": request, "images": ["a.png"],
                      "questions": ["size"], "input": 1000, "output": 300})  # fmt: skip
        if request == "b":
            lines.append({"event": "failed", "request": request, "reason": "HTTP 500", "input": 0,
                          "output": 0})  # fmt: skip
        elif request == "a":
            lines.append({"event": "answer", "request": request, "text": json.dumps(_ANSWERS),
                          "finish": "stop", "refusal": "", "input": 900, "output": 60,
                          "guess": 800})  # fmt: skip
    at = int(rng.integers(len(lines)))
    held = [damaged_json(line, rng) if i == at else json.dumps(line).encode()
            for i, line in enumerate(lines)]  # fmt: skip
    raw = _lines(held)
    return {"journal": damaged_bytes(raw, rng) if chance(rng, 0.3) else raw}


def _other_journal(files: Files, ledger: Ledger) -> str:
    whole = files["journal"].split(b"\n")[:-1]
    try:
        lines = [json.loads(line, object_pairs_hook=_strict_pairs) for line in whole]
    except (ValueError, RecursionError) as error:
        return f"accepted, but {error}"
    texts = [line["text"] for line in lines if line["event"] == "answer"]
    held = [reply.text for replies in ledger.replies.values() for reply in replies]
    if sorted(texts) != sorted(held):
        return f"{len(held)} of {len(texts)} answers"
    sent = sum(line["event"] == "sent" for line in lines)
    return "" if ledger.spent.requests == sent else f"{ledger.spent.requests} of {sent} requests"


TABLES = {
    "JSON": Kind(_instructions, lambda folder: read_jsonl(folder / "x.jsonl"), _other_instructions),
    "conversations": Kind(_conversations, _converted, _other_conversations),
    "CSV": Kind(_labels, _listed, _other_labels),
    "replies": Kind(_reply, _understood, _other_reply),
    "journals": Kind(_journal, lambda folder: read_journal(folder / "journal"), _other_journal),
}

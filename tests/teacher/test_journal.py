"""The journal: kills, partly written lines, damage, two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from api_server import Api, serving
from teacher_jobs import job

from slava_jax.data.instructions import read_jsonl
from slava_jax.teacher.journal import Cost, Journal, Reply, read_journal
from slava_jax.teacher.settings import TeacherError
from slava_jax.teacher.taught import teach

TESTS = Path(__file__).parents[1]
CODE = """
import sys
from pathlib import Path
from teacher_jobs import job
from slava_jax.errors import reported
from slava_jax.teacher.taught import teach
with reported():
    print(teach(job(Path(sys.argv[1]), sys.argv[2], per_class=12, concurrency=4)))
"""


def start(workdir, url: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, "-c", CODE, str(workdir), url]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_until(happens, process) -> None:
    end = time.monotonic() + 60
    while not happens():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_killed_run_loses_no_answer_and_pays_for_none_twice(tmp_path):
    """Only requests running at the kill, at most 4 each, may be repeated."""
    with serving(Api()) as api:
        api.delay = 0.03
        for enough in (7, 19):
            process = start(tmp_path, api.url)
            wait_until(lambda n=enough: len(api.answered) >= n, process)
            process.kill()
            assert process.wait() == -signal.SIGKILL
        held = read_journal(tmp_path / "teacher/journal.jsonl").replies
        assert len(held) >= 19 - 8
        process = start(tmp_path, api.url)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        twice = [count for count in api.answered.values() if count > 1]
        assert len(api.answered) == 36 and max(api.answered.values()) <= 3
        assert len(api.bodies) <= 36 + 2 * 4 and len(twice) <= 2 * 4
        task = job(tmp_path, api.url, per_class=12)
        final = read_journal(task.journal)
        assert all(final.replies[request][: len(r)] == r for request, r in held.items())
        # Running requests count as spent, whether they arrived or not.
        assert len(api.bodies) <= final.spent.requests <= len(api.bodies) + 2 * 4
        assert final.spent.tokens >= 110 * len(api.bodies)
        assert len(read_jsonl(task.instructions("train"))) == 36 * 25


def test_an_interrupted_run_waits_for_what_is_under_way(tmp_path):
    with serving(Api()) as api:
        api.delay = 0.3
        process = start(tmp_path, api.url)
        wait_until(lambda: api.now == 4, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and not out
    assert f"error: interrupted; {36 - len(api.bodies)} of 36 requests are unanswered" in err
    journal = read_journal(tmp_path / "teacher/journal.jsonl")
    assert len(journal.replies) == len(api.bodies) == sum(api.answered.values()) < 36
    assert journal.spent == Cost(len(api.bodies), 100 * len(api.bodies), 10 * len(api.bodies))


@pytest.mark.slow
def test_a_second_interrupt_ends_it_at_once(tmp_path):
    with serving(Api()) as api:
        api.delay = 60.0
        process = start(tmp_path, api.url)
        wait_until(lambda: api.now == 4, process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and not out  # else it writes what there is, after 5 s
    journal = read_journal(tmp_path / "teacher/journal.jsonl")
    assert journal.spent.requests == 4 and journal.spent.tokens > 4 * 2000


def filled(path: Path, answers: int = 3) -> Path:
    with Journal(path) as journal:
        for i in range(answers):
            journal.sent(f"r{i}", Cost(1, 500, 900), ("a.png",), ["basics"])
            journal.answered(f"r{i}", Reply(f"text {i} µ", "stop"), Cost(1, 100, 10), 50)
    return path


def test_what_is_written_is_read(tmp_path):
    ledger = read_journal(filled(tmp_path / "journal.jsonl"))
    assert ledger.replies["r2"] == [Reply("text 2 µ", "stop")]
    assert ledger.spent == Cost(3, 300, 30)
    assert ledger.underestimate(1) == ledger.underestimate(3) == 2.0


def test_every_torn_end_is_gone_on_from(tmp_path):
    """Wherever a write was cut, complete lines are kept and the next line is complete."""
    raw = filled(tmp_path / "journal.jsonl").read_bytes()
    last = raw[:-1].rindex(b"\n") + 1
    for cut in range(last, len(raw)):
        path = tmp_path / f"cut{cut}.jsonl"
        path.write_bytes(raw[:cut])
        assert set(read_journal(path).replies) == {"r0", "r1"}
        with Journal(path) as journal:
            assert journal.ledger.spent == Cost(3, 200 + 500, 20 + 900)
            journal.sent("r2", Cost(1, 500, 900), ("a.png",), ["basics"])
            journal.answered("r2", Reply("again", "stop"), Cost(1, 100, 10), 50)
        assert path.read_bytes().startswith(raw[:last])
        assert [json.loads(line)["event"] for line in path.read_text().splitlines()][-1] == "answer"
        assert read_journal(path).replies["r2"] == [Reply("again", "stop")]


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "sent"}',
        "not json",
        '{"event": "x", "request": "r"}',
        '{"event": "failed", "request": "never sent"}',
        '{"event": "failed", "request": "never sent", "input": 1, "output": 1}',
        '{"event": "sent", "request": "r", "images": [], "input": 1.5, "output": 1}',
        '{"event": "sent", "request": "r", "images": [], "input": -1, "output": 1}',
        "[" * 100_000,
        "[]",
        '{"event": "sent", "request": "r", "images": [], "input": 1, "output": 1, "output": 2}',
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_overwritten(tmp_path, line):
    path = filled(tmp_path / "journal.jsonl")
    damaged = path.read_text() + line + "\n"
    path.write_text(damaged)
    with pytest.raises(TeacherError, match=r"journal.jsonl:7: not a journal line"):
        Journal(path)
    assert path.read_text() == damaged


def test_a_flipped_bit_of_a_line_is_noticed(tmp_path):
    """A letter of an answer may become another one, and the line stay JSON."""
    whole = filled(tmp_path / "journal.jsonl", answers=1).read_bytes()
    held = read_journal(tmp_path / "journal.jsonl").replies
    for place in range(whole.index(b"\n") + 1, len(whole) - 1):
        for bit in (1, 4):
            flipped = whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
            (tmp_path / "journal.jsonl").write_bytes(flipped)
            try:
                found = read_journal(tmp_path / "journal.jsonl").replies
            except TeacherError:
                continue
            assert found == held, flipped  # only the mark of the checksum was hit


def test_lines_of_older_versions_without_checksums_are_read(tmp_path):
    path = filled(tmp_path / "journal.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(line.pop("crc32") for line in lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_journal(path).replies["r2"] == [Reply("text 2 µ", "stop")]


def test_numbers_that_no_model_reaches_do_not_spoil_the_journal(tmp_path):
    """Of an answer they count as not reported, of a request as the most there is."""
    path = filled(tmp_path / "journal.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["input"] = lines[3]["output"] = lines[4]["input"] = 10**309
    lines = [{name: line[name] for name in line if name != "crc32"} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ledger = read_journal(path)
    assert len(ledger.replies) == 3
    assert ledger.spent == Cost(3, 500 + 500 + 100, 900 + 900 + 10)
    assert ledger.underestimate(1) == 2.0 and ledger.overlong == 0


def test_two_processes_on_one_journal_are_refused(tmp_path):
    with serving(Api()) as api, Journal(tmp_path / "teacher/journal.jsonl"):
        with pytest.raises(TeacherError, match="in use by another process"):
            teach(job(tmp_path, api.url))
        assert not api.bodies
    with serving(Api()) as api:  # closing releases it
        teach(job(tmp_path, api.url))
        assert len(api.bodies) == 6


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = filled(tmp_path / "journal.jsonl")
    whole = path.read_bytes()
    with Journal(path) as journal:
        write = os.write
        monkeypatch.setattr(os, "write", lambda file, raw: write(file, raw[:10]))
        with pytest.raises(TeacherError, match="free some space and run the same command"):
            journal.sent("r9", Cost(1, 1, 1), ("a.png",), [])
    assert path.read_bytes() == whole

"""The training history survives a kill, and progress is visible without a terminal."""

import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios

import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from slava_jax.train.logging import HISTORY_FILE, HistoryError, MetricLogger, Progress, read_history


def log(directory, steps, resume_step=0):
    with MetricLogger(directory, resume_step) as logger:
        for step in steps:
            logger.write(step, {"loss": 1 / step, "learning_rate": 1e-3})


def test_a_resumed_history_equals_the_uninterrupted_one_byte_for_byte(tmp_path):
    log(tmp_path / "whole", range(1, 11))
    log(tmp_path / "killed", range(1, 8))
    with (tmp_path / "killed" / HISTORY_FILE).open("a") as file:
        file.write('{"step": 8, "lo')  # the kill came in the middle of a line
    log(tmp_path / "killed", range(5, 11), resume_step=4)
    whole, killed = (tmp_path / name / HISTORY_FILE for name in ("whole", "killed"))
    assert killed.read_bytes() == whole.read_bytes()
    assert [entry["step"] for entry in read_history(tmp_path / "killed")] == list(range(1, 11))


def test_starting_at_zero_forgets_what_was_there(tmp_path):
    log(tmp_path, [1, 2, 3])
    log(tmp_path, [1])
    assert read_history(tmp_path) == [{"step": 1, "loss": 1.0, "learning_rate": 0.001}]


def test_each_entry_is_on_disk_when_write_returns(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from slava_jax.train.logging import MetricLogger\n"
        "logger = MetricLogger(sys.argv[1])\n"
        "logger.write(1, {'loss': 0.5})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    assert read_history(tmp_path) == [{"step": 1, "loss": 0.5}]


@pytest.mark.parametrize(
    "line",
    ["nonsense", "[1]", '{"step": Infinity}', '{"step": 2, "step": 3}', "[" * 100_000, '{"a": 1}'],
    ids=lambda line: line[:9],
)
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / HISTORY_FILE).write_text('{"step": 1}\n' + line + '\n{"step": 3}\n')
    with pytest.raises(HistoryError, match=r"history\.jsonl:2"):
        read_history(tmp_path)
    with pytest.raises(HistoryError, match=r"history\.jsonl:2"):
        MetricLogger(tmp_path, resume_step=3)


def test_a_value_that_is_not_finite_is_refused(tmp_path):
    with (
        MetricLogger(tmp_path) as logger,
        pytest.raises(ValueError, match="step 7: cannot log loss"),
    ):
        logger.write(7, {"loss": float("nan")})
    assert read_history(tmp_path) == []


def test_no_history_yet_is_an_empty_one(tmp_path):
    assert read_history(tmp_path / "nowhere") == []


def read_events(path):
    """TensorBoard's record format: length, its checksum, the event, its checksum."""
    data, scalars = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        body = data[12 : 12 + length]
        assert masked_crc32c(body) == int.from_bytes(data[12 + length : 16 + length], "little")
        event = event_pb2.Event.FromString(body)
        scalars += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        data = data[16 + length :]
    return scalars


def test_tensorboard_files_hold_the_same_numbers(tmp_path):
    log(tmp_path, [1, 2])
    (events,) = tmp_path.glob("events.out.tfevents.*")
    scalars = read_events(events)
    assert ("loss", 2, 0.5) in scalars
    assert len(scalars) == 4


def test_event_files_do_not_name_the_machine_and_keep_their_order(tmp_path):
    log(tmp_path, [1])
    log(tmp_path, [2])
    log(tmp_path, [3])
    names = [path.name for path in tmp_path.glob("events.out.tfevents.*")]
    assert len(names) == 3 and not any(socket.gethostname() in name for name in names)
    steps = [read_events(tmp_path / name)[0][1] for name in sorted(names)]
    assert steps == [1, 2, 3]


def test_a_log_file_gets_lines_with_rate_and_time_left():
    stream = io.StringIO()
    with Progress(100, "vision", stream=stream, done=50, seconds_between_lines=0.0) as progress:
        progress.update(25, loss=0.71828)
    first, last = stream.getvalue().splitlines()
    assert first.startswith("vision: 75/100 (75 %), ")
    assert " step/s, " in first and " left" in first and first.endswith("loss 0.7183")
    assert last.startswith("vision: 75/100")


def test_a_log_file_is_not_flooded():
    stream = io.StringIO()
    progress = Progress(1000, "vision", stream=stream)
    for _ in range(1000):
        progress.update()
    assert stream.getvalue() == ""
    progress.close()
    assert stream.getvalue().count("\n") == 1


def test_a_terminal_gets_a_bar():
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    with os.fdopen(child, "w") as stream, Progress(4, "vision", stream=stream) as progress:
        progress.update(4, loss=0.25)
        progress.close()
        shown = ""
        while not shown.endswith("\n"):
            shown += os.read(parent, 4096).decode()
    os.close(parent)
    assert "vision" in shown and "4/4" in shown and "loss 0.25" in shown


def test_entries_are_plain_json(tmp_path):
    log(tmp_path, [2])
    assert json.loads((tmp_path / HISTORY_FILE).read_text())["loss"] == 0.5

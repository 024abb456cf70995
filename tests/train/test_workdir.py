"""A work directory: one run at a time, and small files that do not block it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from slava_jax.files import SUMS
from slava_jax.train.workdir import (
    INPUTS,
    REPORT,
    Clock,
    WorkdirError,
    alone,
    claim,
    finished_metrics,
    run_config,
    write_metrics,
)

ROOT = Path(__file__).parents[2]
USE = """
import sys
from pathlib import Path
from slava_jax.train.workdir import WorkdirError, alone
try:
    with alone(Path(sys.argv[1])):
        print("alone")
except WorkdirError as error:
    print(error)
"""


def test_a_second_process_is_told_in_one_line_and_writes_nothing(tmp_path):
    with alone(tmp_path / "run"):
        before = sorted((tmp_path / "run").iterdir())
        done = subprocess.run(
            [sys.executable, "-c", USE, str(tmp_path / "run")],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert sorted((tmp_path / "run").iterdir()) == before
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith(f"{tmp_path / 'run'}: another run uses it: wait until it ends")
    with alone(tmp_path / "run"):
        pass


@pytest.mark.parametrize("name", ["a[1]", "a\\b"])
def test_a_path_that_cannot_hold_checkpoints_is_refused_at_the_start(tmp_path, name):
    refused = pytest.raises(WorkdirError, match=r"--workdir: .* use another name")
    with refused, alone(tmp_path / name):
        pass
    assert list(tmp_path.iterdir()) == []


HUGE = "1" + "0" * 400  # no float


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"wall": "x", "parts": {}}', '{"wall": 1}', '{"wall": NaN, "parts": {}}',
     f'{{"wall": {HUGE}, "parts": {{}}}}', f'{{"wall": 1, "parts": {{"data": {HUGE}}}}}',
     '{"wall": 1, "wall": 2, "parts": {}}'],
)  # fmt: skip
def test_a_damaged_clock_counts_from_now_and_says_so(tmp_path, capsys, text):
    (tmp_path / "clock.json").write_text(text)
    clock = Clock(tmp_path / "clock.json", 0.0)
    assert "clock.json: damaged" in capsys.readouterr().err
    with clock.part("data"):
        pass
    held = json.loads((tmp_path / "clock.json").read_text())
    assert list(held["parts"]) == ["data"] and held["wall"] > 0
    assert set(Clock(tmp_path / "clock.json", 0.0).metrics()) == {
        "run.wall_seconds", "run.seconds.data"
    }  # fmt: skip


def test_metrics_that_are_damaged_are_computed_again(tmp_path, capsys):
    """Also if one digit has changed; those of an older version have no checksum."""
    write_metrics(tmp_path, {"accuracy": 0.25}, "a,b\n")
    assert finished_metrics(tmp_path) is None and capsys.readouterr().err == ""
    (tmp_path / REPORT).write_text("")
    assert finished_metrics(tmp_path) == {"accuracy": 0.25}
    for text in ('{"accuracy": 0.35}', "", "[]"):
        (tmp_path / "metrics.json").write_text(text)
        assert finished_metrics(tmp_path) is None
        assert "metrics.json: damaged" in capsys.readouterr().err
    (tmp_path / SUMS).unlink()
    for text in ("", "[]", '{"accuracy": 0.5, "accuracy": 0.6}', '{"x":' * 10**5):
        (tmp_path / "metrics.json").write_text(text)
        assert finished_metrics(tmp_path) is None
        assert "The run is evaluated again" in capsys.readouterr().err
    (tmp_path / "metrics.json").write_text('{"accuracy": 0.5}')
    assert finished_metrics(tmp_path) == {"accuracy": 0.5}
    (tmp_path / INPUTS).write_text("{}")  # of a version that writes checksums
    assert finished_metrics(tmp_path) is None
    assert f"{SUMS} is missing" in capsys.readouterr().err


DATA_TWICE = '{"data": {}, "start_from": {}, "data": {"name": "x"}}'


@pytest.mark.parametrize(
    "text", ["", "[]", '{"data": 3, "start_from": {}}', "[" * 10**5, DATA_TWICE]
)
def test_a_damaged_config_of_another_run_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WorkdirError, match=r"config\.json"):
        run_config(tmp_path)
    with pytest.raises(WorkdirError, match=r"config\.json|another config"):
        claim(tmp_path, ConfigDict({"data": {"name": "x"}, "start_from": {}}))

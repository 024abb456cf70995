"""200 damaged inputs of every kind; `python -m experiments.fuzz` reads 20,000."""

import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import ending_reader
import numpy as np
import pytest

from experiments.fuzz import __main__ as fuzz
from experiments.fuzz import chunks
from experiments.fuzz.kinds import KINDS
from experiments.fuzz.trial import FAULTS, Kind, Outcome, attempt
from slava_jax.errors import UserError

INPUTS = 200


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_a_documented_error_or_changes_nothing(name):
    # Orbax's tasks report there what the caller is told by an exception.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir=chunks.MEMORY) as folder:
        place = Path(folder) / "x"
        found = {seed: attempt(name, KINDS[name], seed, place) for seed in range(INPUTS)}
    assert not {seed: each for seed, each in found.items() if each.what in FAULTS}
    assert {each.what for each in found.values()} >= {"accepted"}


def test_an_input_depends_on_its_seed_alone():
    for kind in KINDS.values():
        inputs = [kind.make(np.random.default_rng(seed)) for seed in (1, 2, 1, 3)]
        assert inputs[0] == inputs[2] and inputs[1:] != inputs[:-1]


def raises(error):
    def read(folder):
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "differs", "outcome"),
    [
        (raises(UserError("a: bad")), "", Outcome("documented_errors", "a: bad")),
        (raises(ValueError("x")), "", Outcome("tracebacks", "ValueError: x (test_fuzz.py:")),
        (len, "", Outcome("tracebacks", "TypeError: object of type")),
        (str, "3 for 4", Outcome("silent_changes", "3 for 4")),
        (str, "", Outcome("accepted")),
    ],
)
def test_every_fault_is_counted(tmp_path, read, differs, outcome):
    kind = Kind(lambda rng: {"a/b": rng.bytes(4)}, read, lambda files, value: differs)
    found = attempt("a kind", kind, 0, tmp_path / "x")
    assert found.what == outcome.what and found.detail.startswith(outcome.detail)
    assert (tmp_path / "x/a/b").stat().st_size == 4


def test_much_memory_is_counted(tmp_path):
    """In a process of its own, whose most memory is not yet that of an earlier test."""
    script = (
        "import sys, pathlib; from experiments.fuzz.trial import Kind, attempt; "
        "kind = Kind(lambda rng: {'a': b''}, lambda folder: bytearray(700 << 20)); "
        "print(attempt('a kind', kind, 0, pathlib.Path(sys.argv[1])).what)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "x")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "memory\n"


def test_a_process_that_ends_or_hangs_is_counted_and_the_rest_is_read(monkeypatch):
    monkeypatch.setattr(chunks, "_read", ending_reader.read)
    monkeypatch.setattr(chunks, "_STUCK", 2)
    found = [each[:3] for each in chunks.outcomes("CSV", range(6))]
    assert found == [
        *((seed, "accepted", "") for seed in (0, 1)),
        (2, "tracebacks", "the process ended with 3"),
        (3, "accepted", ""), (4, "hangs", "no end after 2 s"), (5, "accepted", ""),
    ]  # fmt: skip


def test_kinds_are_counted_in_parts_and_not_repeated(tmp_path, monkeypatch, capsys):
    def outcomes(name, seeds):
        for seed in seeds:
            asked.append(seed)
            yield seed, "hangs" if seed == 3 else "accepted", "6 s", seed

    asked = []
    monkeypatch.setattr(fuzz, "RESULTS", tmp_path / "fuzz.json")
    monkeypatch.setattr(fuzz, "_CHUNK", 3)
    monkeypatch.setattr(fuzz, "outcomes", outcomes)
    for _ in range(2):
        fuzz.measure(["CSV"], 7, workers=1)
    assert asked == [*range(7)]
    found = fuzz.results.read(fuzz.RESULTS)["CSV"]
    assert {name: found[name] for name in ("n", "accepted", "hangs", "tracebacks")} == {
        "n": 7, "accepted": 6, "hangs": 1, "tracebacks": 0
    }  # fmt: skip
    assert found["first_faults"] == [{"seed": 3, "what": "hangs", "detail": "6 s"}]
    assert found["growth_mib"] == 6 and "CSV: 3 of 3 parts, 1 faults" in capsys.readouterr().out

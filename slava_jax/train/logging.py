"""Logging during training: TensorBoard files, a history file, a progress line."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tensorboardX import SummaryWriter
from tqdm import tqdm

from slava_jax.errors import UserError
from slava_jax.facts import checked, parsed

HISTORY_FILE = "history.jsonl"
_EVENTS, _NEW = "events.out.tfevents", ".new"


class HistoryError(UserError, ValueError):
    """The history file is damaged; the message names the file and the line."""


class MetricLogger:
    """Writes the scalars of one stage to `history.jsonl` and TensorBoard event files.

    Both are in `directory`. A resumed run passes the step it resumes from: entries of later steps
    are dropped because they will be computed again. The history ends up the same as that of an
    uninterrupted run.

        with MetricLogger(directory, resume_step=120) as logger:
            logger.write(130, {"loss": 0.7, "learning_rate": 1e-3})

    Raises HistoryError if an entry other than a half-written last one cannot be read.
    """

    def __init__(self, directory: str | Path, resume_step: int = 0):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._path = self.directory / HISTORY_FILE
        _drop_after(self._path, resume_step)
        self._file = self._path.open("a", encoding="utf-8")
        # purge_step makes TensorBoard drop what the interrupted run wrote from that step on.
        purge_step = resume_step + 1 if resume_step else None
        self._tensorboard = SummaryWriter(
            str(self.directory.absolute()), purge_step=purge_step, filename_suffix=_NEW
        )
        _rename_events(self.directory)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one entry, flushed when this returns (survives a kill, not a power cut).

        Raises ValueError for a value that is not finite: the run should have stopped before.
        """
        numbers = {name: float(value) for name, value in values.items()}
        bad = [name for name, value in numbers.items() if not math.isfinite(value)]
        if bad:
            raise ValueError(f"step {step}: cannot log {', '.join(bad)}: not finite")
        self._file.write(json.dumps({"step": int(step), **numbers}) + "\n")
        self._file.flush()
        for name, value in numbers.items():
            self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_history(directory: str | Path) -> list[dict[str, float]]:
    """The entries in the order of their steps: [{'step': int, name: float, ...}]; [] without any.

    Ignores a half-written last line, which an interruption can leave. Raises HistoryError for any
    other line that is not an entry.
    """
    return _read(Path(directory) / HISTORY_FILE)


def _read(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    entries = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            entry = checked(parsed(line), {"step": int})
        except ValueError as error:
            raise HistoryError(
                f"{path}:{number}: not an entry of a training history ({error}). Delete that line, "
                "or the file to start a new history."
            ) from error
        entries.append(entry)
    return entries


def _drop_after(path: Path, step: int) -> None:
    """Drops the entries after `step`; the others stay byte-identical."""
    if not path.exists():
        return
    keep = sum(entry["step"] <= step for entry in _read(path))
    lines = path.read_bytes().splitlines(keepends=True)
    # Steps only grow, so the entries to drop are a tail, and truncating is safe.
    with path.open("r+b") as file:
        file.truncate(sum(len(line) for line in lines[:keep]))


def _rename_events(directory: Path) -> None:
    """Takes the machine's name out of the name of the event file that was just opened."""
    for path in directory.glob(f"{_EVENTS}.*{_NEW}"):
        seconds = path.name.removeprefix(f"{_EVENTS}.").partition(".")[0]
        number = len(list(directory.glob(f"{_EVENTS}.*"))) - 1  # of the starts before this one
        path.rename(directory / f"{_EVENTS}.{seconds}.{number}")


class Progress:
    """A progress bar with rate and time left; in a log file, a line every 10 s instead.

        with Progress(total_steps, "vision", done=resumed_step) as progress:
            progress.update(1, loss=0.71)

    `total`: number of steps. `done`: steps of an earlier run, which do not count for the rate.
    """

    def __init__(
        self,
        total: int,
        description: str,
        done: int = 0,
        stream=None,
        seconds_between_lines: float = 10.0,
    ):
        self.total, self.description, self.done = total, description, done
        self._stream = stream if stream is not None else sys.stderr
        self._seconds = seconds_between_lines
        self._first, self._start = done, time.monotonic()
        self._last_line = self._start
        self._note = ""
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total,
                desc=description,
                unit="step",
                initial=done,
                file=self._stream,
                dynamic_ncols=True,
            )

    def update(self, n: int = 1, **values: float) -> None:
        """Counts n more steps; shows `values` (such as a loss) after the rate."""
        self.done += n
        self._note = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(n)
        elif time.monotonic() - self._last_line >= self._seconds:
            self._write_line()

    def close(self) -> None:
        """Ends the bar; a log gets a last line with the total time."""
        if self._bar is not None:
            self._bar.close()
        else:
            self._write_line()

    def _write_line(self) -> None:
        now = time.monotonic()
        self._last_line = now
        elapsed = now - self._start
        rate = (self.done - self._first) / elapsed if elapsed > 0 else 0.0
        share = 100 * self.done / self.total if self.total else 100
        line = f"{self.description}: {self.done}/{self.total} ({share:.0f} %), "
        line += f"{rate:.3g} step/s, {_clock(elapsed)} so far"
        if self.done < self.total:
            left = _clock((self.total - self.done) / rate) if rate else "unknown time"
            line += f", {left} left"
        print(line + (f", {self._note}" if self._note else ""), file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Silent:
    """Replaces MetricLogger and Progress on every host but the first: does nothing."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def update(self, n: int = 1, **values: float) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

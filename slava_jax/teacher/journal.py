"""The append-only journal of what was asked of a teacher, what it answered, and what that cost.

One JSON object a line, on disk before anything is done with it. `sent` comes before a request,
`answer` or `failed` after it, so that the requests a killed process had under way are known and
counted as if they had been paid for.
"""

import dataclasses
import fcntl
import json
import os
from collections import defaultdict
from pathlib import Path

from slava_jax.teacher.settings import TeacherError


@dataclasses.dataclass(frozen=True)
class Cost:
    """Requests and tokens, spent or to be spent."""

    requests: int = 0
    input: int = 0
    output: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.requests + other.requests, self.input + other.input, self.output + other.output
        )

    def __sub__(self, other: "Cost") -> "Cost":
        return self + Cost(-other.requests, -other.input, -other.output)

    @property
    def tokens(self) -> int:
        return self.input + self.output


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the teacher said: its text as it came, and why it ended there."""

    text: str
    finish: str  # the API's finish_reason
    refusal: str = ""  # the API's own field for it


class Ledger:
    """What a journal says.

    Attributes:
      replies: by request, oldest first.
      spent: of all requests, those under way included, at what they can cost at most.
      overlong: the most tokens that an answer had which had more than it was allowed, else 0.
    """

    def __init__(self):
        self.replies: dict[str, list[Reply]] = defaultdict(list)
        self.spent = Cost()
        self.overlong = 0
        self._underestimates: dict[int, float] = {}  # by number of images
        self._open: dict[str, tuple[Cost, int]] = {}  # by request: at most; number of images

    def underestimate(self, images: int) -> float:
        """The largest ratio of the tokens that a message had to those expected, 1 or more.

        That of messages with as many images; while there was none, the largest of all.
        """
        largest = max(self._underestimates.values(), default=1.0)
        return self._underestimates.get(images, largest)

    def take(self, line: dict) -> None:
        """Adds a line. Raises KeyError or TypeError where it is none of ours."""
        kind, request = line["event"], line["request"]
        if kind == "sent":
            at_most = Cost(1, line["input"], line["output"])
            self._open[request] = at_most, len(line["images"])
            self.spent += at_most
            return
        if kind not in ("answer", "failed"):
            raise KeyError(kind)
        at_most, images = self._open.pop(request)
        self.spent += Cost(1, line["input"], line["output"]) - at_most
        if kind == "answer":
            self.replies[request].append(Reply(line["text"], line["finish"], line["refusal"]))
            if line["output"] > at_most.output:
                self.overlong = max(self.overlong, line["output"])
            if line["input"]:
                ratio = line["input"] / max(1, line["guess"])
                known = self._underestimates.get(images, 1.0)
                self._underestimates[images] = max(known, ratio)


def read_journal(path: Path) -> Ledger:
    """What the journal says, nothing if there is none. A torn last line is passed over.

    Raises:
      TeacherError: a line is not one of a journal; names it.
    """
    return _read(path)[0] if path.exists() else Ledger()


def _read(path: Path) -> tuple[Ledger, int]:
    """The ledger, and where the last whole line ends."""
    ledger, end = Ledger(), 0
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                break  # Torn by a kill or a full disk; it was never counted on.
            try:
                ledger.take(json.loads(raw))
            except (ValueError, KeyError, TypeError) as error:
                raise TeacherError(
                    f"{path}:{number}: not a line of a journal ({error!r}); restore the file from "
                    "a copy, or remove the line and its answer with it"
                ) from error
            end += len(raw)
    return ledger, end


class Journal:
    """An open journal, which this process alone writes to. Use it in a `with`."""

    def __init__(self, path: Path):
        """Opens or makes it, and cuts off a torn last line.

        Raises:
          TeacherError: another process has it open, or a line is damaged.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.ledger, self._end = _read(path)
            os.ftruncate(self._file, self._end)
        except BlockingIOError as error:
            os.close(self._file)
            raise TeacherError(
                f"{path}: another process is at work on it; wait for it, or end it"
            ) from error
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        os.close(self._file)  # and with it the lock

    def sent(self, request: str, at_most: Cost, images: tuple[str, ...], names: list[str]) -> None:
        """Before a request is sent; `images` and `names` tell a reader what it is about."""
        self._write(
            event="sent", request=request, images=images, questions=names,
            input=at_most.input, output=at_most.output,
        )  # fmt: skip

    def answered(self, request: str, reply: Reply, cost: Cost, guess: int) -> None:
        """After an answer; `guess` is how many tokens its message had been expected to have."""
        self._write(
            event="answer", request=request, **dataclasses.asdict(reply),
            input=cost.input, output=cost.output, guess=guess,
        )  # fmt: skip

    def failed(self, request: str, reason: str, cost: Cost) -> None:
        """After an attempt without an answer."""
        self._write(
            event="failed", request=request, reason=reason, input=cost.input, output=cost.output
        )

    def _write(self, **line) -> None:
        raw = json.dumps(line).encode() + b"\n"
        try:
            if os.write(self._file, raw) < len(raw):
                raise OSError("the disk took a part of a line only")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise TeacherError(
                f"{self.path}: cannot be written to ({error}); make room, and run the same command "
                "again: what is written there stays"
            ) from error
        self._end += len(raw)
        self.ledger.take(line)

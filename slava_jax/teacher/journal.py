"""The append-only journal of requests to a teacher, its answers, and their cost.

Each line is one JSON object, on disk before it is used, and ends with a checksum of itself. A line
`sent` precedes a request, `answer` or `failed` follows it. So the requests that were running when a
process was killed are known, and count as paid.
"""

import dataclasses
import fcntl
import json
import os
import zlib
from collections import defaultdict
from pathlib import Path

from slava_jax.facts import unique
from slava_jax.teacher.settings import TeacherError

_SUM = b', "crc32": '  # the last field; in a text the quotes would be escaped
MOST_TOKENS = 10**7  # of a message or an answer; no model takes more, so a larger number is wrong


@dataclasses.dataclass(frozen=True)
class Cost:
    """Numbers of requests and tokens."""

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
    """A teacher's reply: its text, and why it ended.

    `raw`: the server's message as JSON where it holds more than the text. It is written to the
    journal and not read back.
    """

    text: str
    finish: str  # the API's finish_reason
    refusal: str = ""  # the API's field of this name
    raw: str = ""


class Ledger:
    """The contents of a journal.

    Attributes:
      replies: by request, oldest first.
      spent: the cost of all requests; running ones count with their highest cost.
      overlong: tokens of the longest answer that exceeded its limit, else 0.
    """

    def __init__(self):
        self.replies: dict[str, list[Reply]] = defaultdict(list)
        self.spent = Cost()
        self.overlong = 0
        self._underestimates: dict[int, float] = {}  # by number of images
        self._open: dict[str, tuple[Cost, int]] = {}  # request: (highest cost, number of images)

    def underestimate(self, images: int) -> float:
        """The largest ratio of actual to expected message tokens, at least 1.

        Only messages with this number of images count, or all of them if there is none yet.
        """
        largest = max(self._underestimates.values(), default=1.0)
        return self._underestimates.get(images, largest)

    def take(self, line: dict) -> None:
        """Adds a line. Raises KeyError or TypeError if it is not a journal line.

        Numbers of tokens that no model can reach count as not reported.
        """
        kind, request = line["event"], line["request"]
        message, answer = _tokens(line, "input"), _tokens(line, "output")
        if kind == "sent":
            at_most = Cost(1, min(message, MOST_TOKENS), min(answer, MOST_TOKENS))
            self._open[request] = at_most, len(line["images"])
            self.spent += at_most
            return
        if kind not in ("answer", "failed"):
            raise KeyError(kind)
        at_most, images = self._open.pop(request)
        reported = max(message, answer) <= MOST_TOKENS
        if reported:
            self.spent += Cost(1, message, answer) - at_most
        if kind == "failed":
            return
        texts = [line[name] for name in ("text", "finish", "refusal")]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("text, finish and refusal must be text")
        self.replies[request].append(Reply(*texts))
        guess = _tokens(line, "guess")
        if reported and answer > at_most.output:
            self.overlong = max(self.overlong, answer)
        if reported and message:
            known = self._underestimates.get(images, 1.0)
            self._underestimates[images] = max(known, message / max(1, guess))


def _tokens(line: dict, name: str) -> int:
    if type(line[name]) is not int or line[name] < 0:
        raise TypeError(f"{name} must be a whole number, 0 or more")
    return line[name]


def read_journal(path: Path) -> Ledger:
    """Reads a journal, empty if there is no file. Ignores a partly written last line.

    Raises:
      TeacherError: an invalid line; the message names it.
    """
    return _read(path)[0] if path.exists() else Ledger()


def _read(path: Path) -> tuple[Ledger, int]:
    """The ledger, and the offset at which the last complete line ends."""
    ledger, end = Ledger(), 0
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                break  # Partly written at a kill or on a full disk, and never used.
            try:
                ledger.take(_parsed(raw))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise TeacherError(
                    f"{path}:{number}: not a journal line ({error!r}); restore the file from "
                    "a copy, or delete the line and its answer with it"
                ) from error
            end += len(raw)
    return ledger, end


def _with_sum(line: bytes) -> bytes:
    return line[:-1] + _SUM + b"%d}" % zlib.crc32(line)


def _parsed(raw: bytes) -> dict:
    """A line as JSON. Raises ValueError if it is damaged. Lines of older versions have no sum."""
    line, mark, check_sum = raw.strip().rpartition(_SUM)
    if mark and zlib.crc32(line + b"}") != int(check_sum.removesuffix(b"}")):
        raise ValueError("damaged: its checksum differs")
    return json.loads(raw, object_pairs_hook=unique)


class Journal:
    """An open journal that only this process writes to. Use it in a `with`."""

    def __init__(self, path: Path):
        """Opens or creates the file and cuts off a partly written last line.

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
                f"{path}: in use by another process; wait for it, or end it"
            ) from error
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        os.close(self._file)  # also releases the lock

    def sent(self, request: str, at_most: Cost, images: tuple[str, ...], names: list[str]) -> None:
        """Call before sending a request; `images` and `names` document its subject."""
        self._write(
            event="sent", request=request, images=images, questions=names,
            input=at_most.input, output=at_most.output,
        )  # fmt: skip

    def answered(self, request: str, reply: Reply, cost: Cost, guess: int) -> None:
        """Call after an answer; `guess` is the expected number of message tokens."""
        held = dataclasses.asdict(reply)
        if not reply.raw:
            del held["raw"]
        self._write(
            event="answer", request=request, **held,
            input=cost.input, output=cost.output, guess=guess,
        )  # fmt: skip

    def failed(self, request: str, reason: str, cost: Cost, raw: str = "") -> None:
        """Call after an attempt without an answer; `raw` is what arrived and was paid for."""
        self._write(
            event="failed", request=request, reason=reason, input=cost.input, output=cost.output,
            **({"raw": raw} if raw else {}),
        )  # fmt: skip

    def _write(self, **line) -> None:
        raw = _with_sum(json.dumps(line).encode()) + b"\n"
        try:
            if os.write(self._file, raw) < len(raw):
                raise OSError("only part of a line was written")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise TeacherError(
                f"{self.path}: cannot be written to ({error}); free some space and run the same "
                "command again: finished answers are kept"
            ) from error
        self._end += len(raw)
        self.ledger.take(line)

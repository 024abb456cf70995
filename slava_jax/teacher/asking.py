"""Sends requests to a server concurrently, with retries and within a budget."""

import asyncio
import collections
import math
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from slava_jax.teacher.client import AttemptError, Endpoint
from slava_jax.teacher.journal import Cost, Journal, Ledger
from slava_jax.teacher.plan import Request
from slava_jax.teacher.settings import TeacherError, max_tokens

_LONGEST_BACKOFF = 60.0  # seconds
_LONGEST_WAIT = 900.0  # seconds; stops if a server asks for more
_FAILURES = 10  # failed requests in a row, after which the server counts as broken


def money(cost: Cost, prices: Mapping[str, float]) -> float:
    """The cost in the currency of the prices."""
    return (cost.input * prices["input"] + cost.output * prices["output"]) / 1e6


def cost_at_most(request: Request, ledger: Ledger, settings: Mapping[str, Any]) -> Cost:
    """The highest cost of a request: its expected message with the longest answer."""
    tokens = math.ceil(request.guess * ledger.underestimate(len(request.keys)))
    return Cost(1, tokens, max(max_tokens(settings), ledger.overlong))


def exceeded(cost: Cost, settings: Mapping[str, Any]) -> str:
    """The budget limits that this cost would exceed, as text; '' if none."""
    amounts = {
        "requests": cost.requests,
        "tokens": cost.tokens,
        "money": money(cost, settings["prices"]),
    }
    limits = settings["budget"]
    over = [name for name, amount in amounts.items() if limits[name] and amount > limits[name]]
    return ", ".join(f"{name} {limits[name]:g}" for name in over)


def ask_all(
    requests: Iterable[Request],
    journal: Journal,
    settings: Mapping[str, Any],
    answered: Callable[[Request], None],
) -> "Outcome":
    """Sends all requests. Writes each answer to the journal, then calls `answered` on its request.

    SIGINT or SIGTERM stops after the running requests; a second one stops at once.

    Raises:
      TeacherError: the key is missing, or the journal cannot be written to.
    """
    try:
        return asyncio.run(_ask_all(requests, journal, settings, answered))
    except* TeacherError as errors:
        raise errors.exceptions[0] from None


async def _ask_all(requests, journal, settings, answered) -> "Outcome":
    async with Endpoint(settings) as endpoint:
        asking = _Asking(iter(requests), endpoint, journal, settings, answered)
        loop = asyncio.get_running_loop()

        def release() -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

        def interrupt() -> None:
            asking.stop("interrupted")
            release()  # A second signal ends the process at once.

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(settings["concurrency"]):
                    group.create_task(asking.work())
        finally:
            release()
        return asking.outcome


class Outcome:
    """Why it stopped early ('' if it did not), whether that is an error, and the failures."""

    def __init__(self):
        self.stopped, self.broken = "", False
        self.failed: collections.Counter[str] = collections.Counter()


class _Asking:
    """State shared by the workers. They run in one thread, so it only changes at an `await`."""

    def __init__(
        self,
        requests: Iterator[Request],
        endpoint: Endpoint,
        journal: Journal,
        settings: Mapping[str, Any],
        answered: Callable[[Request], None],
    ):
        self._requests, self._endpoint, self._journal = requests, endpoint, journal
        self._settings, self._answered = settings, answered
        self._stop, self._settled = asyncio.Event(), asyncio.Event()
        self._under_way, self._in_a_row, self._pause_until = 0, 0, 0.0
        self._measured: set[int] = set()  # numbers of images per answered request
        self.outcome = Outcome()

    def stop(self, reason: str, broken: bool = False) -> None:
        """Stops sending; the first reason is kept."""
        if not self._stop.is_set():
            self.outcome.stopped, self.outcome.broken = reason, broken
            self._stop.set()

    async def work(self) -> None:
        """Runs one worker."""
        for request in self._requests:
            await self._finish(request)
            if self._stop.is_set():
                return

    async def _finish(self, request: Request) -> None:
        for attempt in range(self._settings["attempts"]):
            at_most = await self._admitted(request)
            if at_most is None:
                return
            failure = await self._attempt(request, at_most)
            if failure is None:
                self._in_a_row = 0
                return
            if failure.hopeless or (failure.wait or 0) > _LONGEST_WAIT:
                wait = f"; the server asks to wait {failure.wait:.0f} s" if failure.wait else ""
                self.stop(f"{failure}{wait}", broken=True)
                return
            if not failure.retry or attempt + 1 == failure.tries:
                break
            await self._back_off(failure, attempt)
        self.outcome.failed[str(failure)] += 1
        self._in_a_row += 1
        if self._in_a_row >= _FAILURES:
            self.stop(f"{_FAILURES} requests in a row failed, the last with: {failure}", True)

    async def _admitted(self, request: Request) -> Cost | None:
        """Waits until the request can be sent; returns its highest cost, None if it never can."""
        while not self._stop.is_set():
            pause = self._pause_until - time.monotonic()
            if pause > 0:
                await self._sleep(pause)
                continue
            ledger = self._journal.ledger
            at_most = cost_at_most(request, ledger, self._settings)
            over = exceeded(ledger.spent + at_most, self._settings)
            # The first request with a given number of images is sent alone, because its cost is
            # only a guess. Earlier costs in the journal may be those of another model.
            if not over and (len(request.keys) in self._measured or not self._under_way):
                return at_most
            if not self._under_way:
                self.stop(f"the next request could exceed the budget: {over}")
                return None
            await self._settled.wait()  # Running requests may turn out cheaper.
        return None

    async def _attempt(self, request: Request, at_most: Cost) -> AttemptError | None:
        self._journal.sent(request.id, at_most, request.keys, request.names)
        self._under_way += 1
        try:
            reply, tokens = await self._endpoint.ask(request.messages())
        except AttemptError as failure:
            cost = at_most if failure.billed else Cost(1)
            self._journal.failed(request.id, str(failure), cost, failure.raw)
            return failure
        else:
            cost = at_most if tokens is None else Cost(1, *tokens)
            if cost.input:
                self._measured.add(len(request.keys))
            self._journal.answered(request.id, reply, cost, request.guess)
            self._answered(request)
            return None
        finally:
            self._under_way -= 1
            self._settled.set()
            self._settled = asyncio.Event()

    async def _back_off(self, failure: AttemptError, attempt: int) -> None:
        if failure.wait is not None:  # The server is busy for all workers.
            self._pause_until = max(self._pause_until, time.monotonic() + failure.wait)
        seconds = min(_LONGEST_BACKOFF, self._settings["backoff"] * 2**attempt)
        await self._sleep(seconds * random.uniform(0.5, 1.0))

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return

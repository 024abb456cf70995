"""An OpenAI-compatible server on loopback that answers, or misbehaves as a test tells it to."""

import contextlib
import hashlib
import http.server
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

GOOD = "ok"
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


class Api(http.server.ThreadingHTTPServer):
    """`behave(number, body)` says what the request of that number gets: GOOD for an answer as it
    should be, or a function of the handler.

    Attributes:
      bodies: of all requests, in order. answered: how often each message got its whole answer.
      most: the most requests that were under way at a time.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behave: Callable[[int, dict], object] = lambda number, body: GOOD):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave, self.delay = behave, 0.0
        self.bodies: list[dict] = []
        self.headers: list[Mapping[str, str]] = []
        self.times: list[float] = []
        self.answered: Counter[str] = Counter()
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_) -> None:
        """A client that hung up is part of the tests."""


@contextlib.contextmanager
def serving(api: Api) -> Iterator[Api]:
    thread = threading.Thread(target=api.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        api.shutdown()
        api.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        api = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with api.lock:
            number = len(api.bodies)
            api.bodies.append(body)
            api.headers.append(self.headers)
            api.times.append(time.monotonic())
            api.now += 1
            api.most = max(api.most, api.now)
        try:
            time.sleep(api.delay)
            action = api.behave(number, body)
            if action == GOOD:
                action = complete(good_text(body))
            action(self)
            if getattr(action, "counts", False):
                api.answered[message_id(body)] += 1
        finally:
            with api.lock:
                api.now -= 1

    def send(self, status: int, raw: bytes, kind: str = "application/json", **headers) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(raw)
        self.wfile.flush()

    def log_message(self, *_) -> None:
        pass


def message_id(body: dict) -> str:
    return hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()


def prompt_of(body: dict) -> str:
    """The text of the user's message, without the images."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def good_text(body: dict) -> str:
    """Both answers to every question that the prompt asks."""
    form = prompt_of(body).splitlines()[-1]
    table = {}
    for name, rest in re.findall(r'"(\w+)": {("question": "\.\.\.", )?"short"', form):
        table[name] = {
            "short": f"The {name} of the wires is plain.",
            "detailed": f"The {name} of the wires is plain. It runs from left to right.",
        }
        if rest:
            table[name]["question"] = f"What does the image say of {name}?"
    return json.dumps(table)


def complete(text: str, finish: str = "stop", usage: dict | None = USAGE, **message):
    """A chat completion of this text."""

    def action(handler) -> None:
        answer = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": "/srv/models/teacher.gguf",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": finish,
                    "message": {"role": "assistant", "content": text, **message},
                }
            ],
        }
        if usage:
            answer["usage"] = usage
        handler.send(200, json.dumps(answer).encode())

    action.counts = True
    return action


def error(status: int, message: str = "bad", code: str | None = None, **headers):
    """An error in the form of OpenAI's."""
    raw = json.dumps({"error": {"message": message, "code": code}}).encode()
    return lambda handler: handler.send(status, raw, **headers)


def garbage(handler) -> None:
    """HTTP 200, and no JSON."""
    handler.send(200, b"<html>gateway</html>", "text/html")


def half(handler) -> None:
    """The connection ends in the middle of an answer."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"message": {"content": "half')
    handler.wfile.flush()
    handler.close_connection = True


def hang(seconds: float):
    """Says nothing for a while, then hangs up."""

    def action(handler) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return action

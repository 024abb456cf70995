"""Redirects, certificates, proxies, and replies that are too large: nothing leaves or hangs."""

import functools
import gzip
import json
import ssl
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest
from api_server import Api, complete, error, good_text, serving
from teacher_jobs import job

from slava_jax.teacher import client
from slava_jax.teacher.journal import read_journal
from slava_jax.teacher.settings import TeacherError
from slava_jax.teacher.taught import teach
from slava_jax.teacher.transport import LARGEST_REPLY

# A certificate that nobody signed, for localhost and 127.0.0.1, with its key; valid until 2126.
CERTIFICATE = Path(__file__).parents[1] / "self_signed.pem"
PATIENT = {"concurrency": 1, "timeout": 60.0}  # a busy machine is no fault of the server
KEY = "sk-very-secret-0123456789"


def failing(tmp_path, url, **changes) -> str:
    """The error of a run in which nothing succeeds."""
    with pytest.raises(TeacherError) as raised:
        teach(job(tmp_path, url, **{**PATIENT, **changes}))
    return str(raised.value)


def redirect(status: int, url: str):
    return lambda handler: handler.send(status, b"", Location=url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nothing_goes_to_another_origin(tmp_path, monkeypatch, status):
    monkeypatch.setenv("HOUSE_KEY", KEY)
    with serving(Api()) as other:
        away = redirect(status, f"{other.url}/chat/completions")
        with serving(Api(lambda number, body: away)) as api:
            said = failing(tmp_path, api.url, key_variable="HOUSE_KEY")
        assert not other.bodies
    assert len(api.bodies) == 1 and "the server redirects to" in said
    if status >= 307:
        assert f":{other.server_port}, where nothing is sent" in said


@pytest.mark.parametrize("url", ["https://127.0.0.1:{port}/v1", "http://localhost:{port}/v1"])
def test_another_scheme_or_name_is_another_origin(tmp_path, url):
    with serving(Api(lambda number, body: away)) as api:
        away = redirect(308, url.format(port=api.server_port))
        assert "the server redirects to" in failing(tmp_path, api.url)
    assert len(api.bodies) == 1


def test_a_redirect_within_the_server_is_followed_and_a_circle_ends(tmp_path):
    def behave(number, body):
        return redirect(307, "/v1/chat/completions/") if number % 2 == 0 else "ok"

    with serving(Api(behave)) as api:
        teach(job(tmp_path / "a", api.url, **PATIENT))
    assert len(api.bodies) == 12 and sum(api.answered.values()) == 6
    with serving(Api(lambda number, body: redirect(307, "/v1/again"))) as api:
        assert "redirects to another address" in failing(tmp_path / "b", api.url)
    assert len(api.bodies) == 4


@functools.cache
def gzip_bomb(size: int, layers: int = 1) -> bytes:
    packed = zlib.compressobj(9, zlib.DEFLATED, 31)
    raw = b"".join(packed.compress(bytes(2**20)) for _ in range(size // 2**20)) + packed.flush()
    return raw if layers == 1 else gzip.compress(raw)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("status", [200, 400])
def test_a_reply_that_grows_when_decompressed(tmp_path, status, layers):
    bomb, kind = gzip_bomb(2**26, layers), ", ".join(["gzip"] * layers)
    send = lambda handler: handler.send(status, bomb, Content_Encoding=kind)  # noqa: E731
    tracemalloc.start()
    with serving(Api(lambda number, body: send)) as api:
        said = failing(tmp_path, api.url, per_class=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(api.bodies) == 3  # none is tried again
    assert peak < 4 * LARGEST_REPLY
    assert ("the reply is larger than 8 MiB" if status == 200 else "HTTP 400") in said


def test_a_large_reply_that_is_not_compressed(tmp_path):
    large = complete("a" * (LARGEST_REPLY + 1))
    with serving(Api(lambda number, body: large)) as api:
        assert "the reply is larger than 8 MiB" in failing(tmp_path, api.url, per_class=1)


def test_a_compressed_answer_is_read_and_a_damaged_one_is_asked_for_again(tmp_path):
    def behave(number, body):
        message = {"choices": [{"message": {"content": good_text(body)}}]}
        raw = gzip.compress(json.dumps(message).encode())
        raw = b"no gzip" if number == 0 else raw
        return lambda handler: handler.send(200, raw, Content_Encoding="gzip")

    with serving(Api(behave)) as api:
        teach(job(tmp_path, api.url, **PATIENT))
    assert len(api.bodies) == 7
    assert "cannot be decompressed" in (tmp_path / "teacher/journal.jsonl").read_text()


def test_a_certificate_that_is_not_trusted_is_called_that_and_tried_once(tmp_path, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    api = Api()
    api.socket = context.wrap_socket(api.socket, server_side=True)
    with serving(api):
        url = api.url.replace("http:", "https:")
        said = failing(tmp_path, url)
        assert "the server's certificate is not trusted (self-signed certificate)" in said
        assert "SSL_CERT_FILE" in said and not api.bodies
        assert read_journal(tmp_path / "teacher/journal.jsonl").spent.requests == 1
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        teach(job(tmp_path, url, **PATIENT))
        assert len(api.bodies) == 6
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert "SSL_CERT_FILE or SSL_CERT_DIR" in failing(tmp_path / "b", url)


def test_plain_http_where_https_is_asked_for(tmp_path):
    with serving(Api()) as api:
        said = failing(tmp_path, api.url.replace("http:", "https:"))
    assert "no encrypted connection" in said and "begins with http://" in said
    assert read_journal(tmp_path / "teacher/journal.jsonl").spent.requests == 1


def test_a_name_that_no_server_has(tmp_path):
    said = failing(tmp_path, "http://no-such-host.invalid/v1", attempts=2)
    assert "no server has this name" in said or "cannot be reached" in said  # without a network


@pytest.mark.parametrize(
    ("proxy", "said"),
    [("socks5://127.0.0.1:9", "is a SOCKS proxy"), ("socks4://127.0.0.1:9", "cannot be used"),
     ("http://[::1", "cannot be used")],
)  # fmt: skip
def test_a_proxy_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, proxy, said):
    monkeypatch.setenv("ALL_PROXY", proxy)
    message = failing(tmp_path, "http://127.0.0.1:9/v1")
    assert said in message and "ALL_PROXY" in message and "\n" not in message


def test_a_proxy_that_refuses_shows_its_words(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    said = failing(tmp_path, "https://127.0.0.2/v1", attempts=1, per_class=1)
    assert "cannot be reached" in said


@pytest.mark.parametrize(
    ("body", "said", "requests"),
    [
        ({"error": {"message": "No endpoints", "code": 404}}, "error 404: No endpoints", 1),
        ({"error": "Unexpected endpoint"}, "the server's error: Unexpected endpoint", 3),
        ({"error": {"message": "busy", "code": 429}}, "the server's error 429: busy", 6),
        ({"error": {"message": "credit", "code": "insufficient_quota"}}, "credit", 1),
        ({"choices": [{"error": {"message": "away", "code": 502}}]}, "error 502: away", 6),
        ({"odd": 1}, 'is not a chat completion: {"odd": 1}', 6),
        ({"error": {"message": f"{KEY} is wrong", "code": 401}}, "401: [key] is wrong", 1),
    ],
)
def test_an_error_within_a_200_is_the_servers_error(tmp_path, monkeypatch, body, said, requests):
    monkeypatch.setenv("HOUSE_KEY", KEY)
    raw = json.dumps(body).encode()
    with serving(Api(lambda number, body: lambda handler: handler.send(200, raw))) as api:
        own = {"per_class": 1, "attempts": 2, "key_variable": "HOUSE_KEY"}
        assert said in failing(tmp_path, api.url, **own)
    assert len(api.bodies) == requests
    assert KEY not in (tmp_path / "teacher/journal.jsonl").read_text()


BUSY = {"message": "busy", "code": 429}


@pytest.mark.parametrize(
    ("body", "waits"), [({"error": BUSY}, True), ({"choices": [{"error": BUSY}]}, True),
     ({"candidates": [{"text": "of another protocol"}]}, False)],
)  # fmt: skip
def test_an_error_within_a_200_is_tried_twice_and_its_wait_is_kept(tmp_path, body, waits):
    """A gateway has tried already; each attempt may cost."""
    raw = json.dumps(body).encode()

    def behave(number, body):
        return lambda handler: handler.send(200, raw, Retry_After="0.5")

    with serving(Api(behave)) as api:
        failing(tmp_path, api.url, per_class=1, attempts=6)
    assert len(api.bodies) == 3 * 2
    assert not waits or api.times[1] - api.times[0] > 0.4


@pytest.mark.parametrize(
    ("status", "raw", "said"),
    [
        (400, b'{"error": "only json_schema"}', "HTTP 400: only json_schema"),
        (422, b'{"detail": [{"loc": ["body"], "msg": "no"}]}', "HTTP 422: body: no"),
        (400, b'[{"error": {"message": "no such field"}}]', "HTTP 400: no such field"),
        (400, b"no model is loaded", "HTTP 400: no model is loaded"),
        (400, b"<html><b>Bad</b> gateway</html>", "HTTP 400: Bad gateway"),
        (400, b"", "HTTP 400: Bad Request"),
        (499, b"{}", "HTTP 499: no message"),
        (400, b'{"error": "\\u001b[2J\\u202e red"}', "HTTP 400: ?[2J? red"),
        (501, b'{"error": "no vision"}', "HTTP 501: no vision"),
        (304, b"", "HTTP 304: Not Modified"),
    ],
)
def test_the_servers_own_words_are_shown_and_it_is_not_tried_again(tmp_path, status, raw, said):
    with serving(Api(lambda number, body: lambda handler: handler.send(status, raw))) as api:
        assert said in failing(tmp_path, api.url, per_class=1)
    assert len(api.bodies) in (1, 3)


def test_what_was_paid_for_is_in_the_journal_even_if_it_cannot_be_read(tmp_path):
    raw = b'{"answers": ["The wires are smooth."]}'

    def behave(number, body):
        if number == 0:
            return lambda handler: handler.send(200, raw)
        return complete(None, reasoning_content=good_text(body)) if number == 1 else "ok"

    with serving(Api(behave)) as api:
        report = teach(job(tmp_path, api.url, **PATIENT))
    assert "no answers" in report and len(api.bodies) == 7
    lines = map(json.loads, (tmp_path / "teacher/journal.jsonl").read_text().splitlines())
    kept = [line["raw"] for line in lines if "raw" in line]
    assert kept[0] == raw.decode()
    assert json.loads(kept[1])["message"]["reasoning_content"]


BIG = 10**6


@pytest.mark.parametrize(
    "text",
    ["a" * BIG, " " * BIG, "*" * BIG, "a**" * (BIG // 3), "/a" * (BIG // 2), "\\a" * (BIG // 2),
     "<" * BIG, f"<html>{'<' * BIG}", "org-" * (BIG // 4), "h.x" * (BIG // 3)],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_a_long_error_takes_no_time(text):
    """A MB was more than 20 s for some."""
    redactor = client.Redactor(KEY, "http://h.x:80/v1")
    start = time.process_time()
    assert len(redactor.error(text)) <= 303
    assert len(redactor.message(text)) <= 100_000
    assert time.process_time() - start < 2


def test_a_long_word_in_a_servers_error(tmp_path):
    start = time.process_time()
    with serving(Api(lambda number, body: error(400, "x" * 100_000))) as api:
        assert "HTTP 400: " in failing(tmp_path, api.url, per_class=1)
    assert time.process_time() - start < 5


def test_a_key_at_the_end_of_what_is_kept_is_not_kept_in_part():
    redactor = client.Redactor(KEY, "http://h.x:80/v1")
    for shift in range(0, 30, 3):
        text = "a " * 50_000 + "b" * (1000 - shift) + KEY + "c" * 5000
        assert KEY[:6] not in redactor.message(text)
    assert redactor.error(" " * 200_000 + "it is " + KEY) == "it is [key]"

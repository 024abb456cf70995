"""Single requests to an OpenAI-compatible server, and their errors."""

import asyncio
import email.utils
import http
import logging
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx2
import openai

from slava_jax.teacher import bodies
from slava_jax.teacher.journal import Reply
from slava_jax.teacher.settings import TeacherError
from slava_jax.teacher.transport import (
    LARGEST_REPLY,
    BoundedClient,
    RedirectError,
    TooLargeError,
)

OPENAI = "https://api.openai.com/v1"
_RETRIED = {408, 409, 425, 429}  # and 500 and above, other than these:
_NOT_RETRIED = {501, 505}
_HOPELESS = {401, 402, 403, 404, 405, 407, 410}  # every other request would fail too
_HOPELESS_CODES = ("insufficient_quota", "invalid_api_key", "model_not_found")
_FILTERED = ("content_filter", "content_policy_violation")
# Partly masked keys and account names: "sk-ab***yz", "org-A1b2C3d4". A word is tried only from its
# beginning, because a long one without *** would otherwise be read again from every letter.
_ACCOUNT = re.compile(r"(?<!\S)\S*\*{3,}[\w-]*|\b(?:org|proj|user)[-_]\w{6,}")
_PATH = re.compile(r"(?<![\w/])(?:~|[A-Za-z]:)?(?:[/\\][\w.@+-]+){2,}")
# Attempts where the server answers, but with an error or another protocol. An error that comes with
# HTTP 200 is told by a gateway, which has tried before.
_FEW = 2
_SECRET = 8  # characters of a real key; a placeholder such as "test" is an ordinary word
_LONGEST_REASON = 300  # characters of a server's error message
_LONGEST_RAW = 100_000  # characters kept of a body that is not an answer
_LONGEST_SECRET = 1000  # characters


class AttemptError(Exception):
    """An attempt without an answer.

    Attributes:
      retry: a retry may succeed. hopeless: no request can succeed.
      tries: after which the request is given up even if a retry may succeed; None for no limit.
      billed: the server may have charged for it.
      wait: seconds to wait as requested by the server, None if it did not.
      raw: what arrived although it is no answer, redacted; '' for an ordinary error.
    """

    def __init__(
        self, reason: str, *, retry=False, hopeless=False, billed=False, tries: int | None = None,
        wait: float | None = None, raw: str = "",
    ):  # fmt: skip
        super().__init__(reason)
        self.retry, self.hopeless, self.billed, self.tries = retry, hopeless, billed, tries
        self.wait, self.raw = wait, raw


class Redactor:
    """Removes everything that identifies this machine or its user from a server's texts."""

    def __init__(self, key: str, base_url: str):
        """`base_url` may contain an internal host name."""
        parts = urlsplit(base_url)
        home = str(Path.home())
        secrets = {base_url: "[server]"}
        if len(key) >= _SECRET:
            secrets[key] = "[key]"
        if parts.netloc != parts.hostname or "." in parts.netloc:  # not a single word
            secrets[parts.netloc] = "[server]"
        if home != "/":
            secrets[home] = "[home]"
        self._secrets = {text: mark for text, mark in secrets.items() if text}
        own = socket.gethostname()
        hosts = sorted({own, own.split(".")[0], parts.hostname} - {""}, key=len, reverse=True)
        named = "|".join(map(re.escape, hosts))  # longest first
        self._hosts = re.compile(rf"\b(?:{named})\b", re.IGNORECASE)

    def answer(self, text: str) -> str:
        """Redacts an answer. Host names are kept, because they may be ordinary words."""
        for secret, mark in self._secrets.items():
            text = text.replace(secret, mark)
        return text

    def error(self, text: str) -> str:
        """One line to show: redacted as `message`, without control characters, cut after 300."""
        text = " ".join(self.message(" ".join(text.split())).split())
        text = text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."
        # Surrogates cannot be printed, and escape sequences would reach the terminal.
        return "".join(letter if letter.isprintable() else "?" for letter in text)

    def message(self, text: str) -> str:
        """Redacts also accounts, hosts and paths; cuts after 100,000 characters."""
        cut = len(text) > _LONGEST_RAW
        text = self.answer(text[: _LONGEST_RAW + _LONGEST_SECRET])
        text = self._hosts.sub("[host]", _ACCOUNT.sub("[account]", text))
        text = _PATH.sub("[path]", text)
        # What is cut in half is not recognized, so the end goes.
        return text[:-_LONGEST_SECRET][:_LONGEST_RAW] if cut else text


def api_key(settings: Mapping) -> str:
    """The key from the environment; '' if the server needs none.

    Raises:
      TeacherError: the variable is not set, or its value cannot be sent in an HTTP header.
    """
    name = settings["key_variable"] or ("" if settings["base_url"] else "OPENAI_API_KEY")
    if not name:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise TeacherError(f"the environment variable {name} is not set: export {name}=...")
    if not (key.isascii() and key.isprintable()):
        raise TeacherError(f"the environment variable {name} does not contain a valid key")
    return key


class Endpoint:
    """A model on a server. Use it in an `async with`."""

    def __init__(self, settings: Mapping[str, Any]):
        """Opens no connection yet. Raises TeacherError for a missing key or an unusable proxy."""
        key = api_key(settings)
        url = settings["base_url"] or OPENAI
        self._settings, self._redactor = settings, Redactor(key, url)
        # Log lines of these libraries would name the server, regardless of OPENAI_LOG.
        for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=url,
            max_retries=0,  # asking.py retries, because every attempt goes into the journal
            timeout=settings["timeout"],
            http_client=_http_client(),
        )
        if settings["base_url"]:  # OPENAI_ORG_ID and OPENAI_PROJECT_ID are meant for OpenAI
            self._client.organization = self._client.project = None

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *_) -> None:
        await self._client.close()

    async def ask(self, messages: list[dict]) -> tuple[Reply, tuple[int, int] | None]:
        """Makes one attempt.

        Returns:
          The reply, and the tokens of message and answer, None if the server does not report them.

        Raises:
          AttemptError: there is no answer. Its text contains no key, server name or path.
        """
        fields, limit = dict(self._settings["request"]), self._settings["timeout"]
        create = self._client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(limit):  # the client's own timeout restarts at every byte
                raw = await create(
                    model=self._settings["model"], messages=messages, extra_body=fields
                )
            return self._read(raw.http_response)
        except openai.APIStatusError as error:
            return self._refused(error.response), (0, 0)
        except (TimeoutError, openai.APITimeoutError) as error:
            raise AttemptError(f"no answer in {limit:g} s", retry=True, billed=True) from error
        except openai.APIConnectionError as error:
            raise self._unconnected(error.__cause__) from error
        except RedirectError as error:
            where = self._redactor.error(str(error))
            raise AttemptError(
                f"the server redirects to {where}, where nothing is sent; correct teacher.base_url",
                hopeless=True,
            ) from error
        except TooLargeError as error:
            size = LARGEST_REPLY // 2**20
            raise AttemptError(f"the reply is larger than {size} MiB", billed=True) from error

    def _read(self, response: httpx2.Response) -> tuple[Reply, tuple[int, int] | None]:
        """Reply and tokens of a body that came with HTTP 200."""
        body = bodies.parsed(response.content)
        tokens, reply = bodies.tokens_in(body), bodies.reply_in(body)
        if reply is not None:
            texts = (reply.text, reply.finish, reply.refusal, reply.raw)
            return Reply(*map(self._redactor.answer, texts)), tokens
        raw = self._redactor.message(response.content.decode(errors="replace"))
        problem = bodies.problem_in(body, failed=False)
        if problem is None:
            said = self._redactor.error(bodies.plain_text(raw))
            raise AttemptError(
                f"the server's answer is not a chat completion: {said or 'it is empty'}",
                retry=True, tries=_FEW if bodies.is_other(body) else None, billed=True, raw=raw,
            )  # fmt: skip
        # An answer had begun if there are choices, and may have to be paid for.
        billed = isinstance(body, dict) and bool(body.get("choices"))
        where = " ".join(["the server's error", self._redactor.error(problem.code)]).strip()
        reply = self._failed(
            where, problem.status or 400, problem, billed=billed, raw=raw, tries=_FEW,
            wait=_retry_after(response.headers),
        )  # fmt: skip
        return reply, (0, 0)

    def _refused(self, response: httpx2.Response) -> Reply:
        """As `_failed`, for an HTTP status that is an error."""
        problem = bodies.problem_in(bodies.parsed(response.content), failed=True)
        if problem is None or not problem.message.strip():
            problem = bodies.Problem(_phrase(response.status_code), problem.code if problem else "")
        wait, status = _retry_after(response.headers), response.status_code
        return self._failed(f"HTTP {status}", status, problem, wait=wait)

    def _failed(self, where: str, status: int, problem: bodies.Problem, **more) -> Reply:
        """The reply for a content filter's error. Raises AttemptError for all other errors."""
        message = self._redactor.error(problem.message)
        if problem.code in _FILTERED:
            return Reply("", "content_filter", message)
        hopeless = status < 400 or status in _HOPELESS or problem.code in _HOPELESS_CODES
        retry = status in _RETRIED or (status >= 500 and status not in _NOT_RETRIED)
        raise AttemptError(
            f"{where}: {message}", retry=retry and not hopeless, hopeless=hopeless, **more
        )

    def _unconnected(self, cause: BaseException | None) -> AttemptError:
        """The error for a connection that failed or broke."""
        unreached = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout)
        said = self._redactor.error(str(cause))
        for error in _causes(cause):
            if isinstance(error, ssl.SSLCertVerificationError):
                reason = self._redactor.error(error.verify_message or str(error))
                return AttemptError(
                    f"the server's certificate is not trusted ({reason}); if it is your own, name "
                    "the file of its authority in the environment variable SSL_CERT_FILE",
                    hopeless=True,
                )
            if isinstance(error, ssl.SSLError) and unreached:
                reason = self._redactor.error(error.reason or str(error))
                return AttemptError(
                    f"no encrypted connection to the server ({reason}); if it speaks plain HTTP, "
                    "teacher.base_url begins with http://",
                    hopeless=True,
                )
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
                return AttemptError(
                    "no server has this name; correct teacher.base_url", hopeless=True
                )
        if isinstance(cause, httpx2.ProxyError):
            hopeless = re.match(r"40[0-9]\b", str(cause)) is not None
            return AttemptError(f"the proxy refuses: {said}", retry=True, hopeless=hopeless)
        if isinstance(cause, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol):
            return AttemptError(f"the request cannot be sent: {said}", hopeless=True)
        if isinstance(cause, httpx2.DecodingError):
            reason = f"the reply cannot be decompressed: {said}"
            return AttemptError(reason, retry=True, billed=True)
        reason = "the server cannot be reached" if unreached else "the connection was lost"
        return AttemptError(reason, retry=True, billed=not unreached)


def _http_client() -> BoundedClient:
    """Raises TeacherError if a proxy or certificate of the environment cannot be used."""
    names = [name for name in ("all", "http", "https") if name in getproxies()]
    named = ", ".join(f"{name.upper()}_PROXY" for name in names)
    try:
        return BoundedClient()
    except ImportError as error:
        raise TeacherError(
            f"the proxy of the environment ({named}) is a SOCKS proxy, which needs another package:"
            ' run pip install "httpx2[socks]", or unset the variable'
        ) from error
    except (ValueError, httpx2.InvalidURL) as error:
        raise TeacherError(
            f"the proxy of the environment ({named}) cannot be used; it must be like "
            "http://HOST:3128, or unset"
        ) from error
    except OSError as error:
        raise TeacherError(
            f"SSL_CERT_FILE or SSL_CERT_DIR: the certificates cannot be read ({error})"
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "no message"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait; the header is a number of seconds or a date."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):  # not a date, or none that there is
        return None

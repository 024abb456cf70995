"""Single requests to an OpenAI-compatible server, and their errors."""

import asyncio
import email.utils
import json
import logging
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai

from slava_jax.teacher.journal import Reply
from slava_jax.teacher.settings import TeacherError

OPENAI = "https://api.openai.com/v1"
_RETRIED = {408, 409, 425, 429}  # and 500 and above
_HOPELESS = {401, 402, 403, 404}  # every other request would fail too
_FILTERED = ("content_filter", "content_policy_violation")
# Partly masked keys and account names: "sk-ab***yz", "org-A1b2C3d4".
_ACCOUNT = re.compile(r"\S*\*{3,}[\w-]*|\b(?:org|proj|user)[-_]\w{6,}")
_PATH = re.compile(r"(?<![\w/])(?:~|[A-Za-z]:)?(?:[/\\][\w.@+-]+){2,}")
_SECRET = 8  # characters of a real key; a placeholder such as "test" is an ordinary word
_LONGEST_REASON = 300  # characters of a server's error message


class AttemptError(Exception):
    """An attempt without an answer.

    Attributes:
      retry: a retry may succeed. hopeless: no request can succeed.
      billed: the server may have charged for it.
      wait: seconds to wait as requested by the server, None if it did not.
    """

    def __init__(
        self, reason: str, *, retry=False, hopeless=False, billed=False, wait: float | None = None
    ):
        super().__init__(reason)
        self.retry, self.hopeless, self.billed, self.wait = retry, hopeless, billed, wait


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
        """Redacts an error message, also accounts, hosts and paths; truncates to 300 characters."""
        text = self.answer(text).encode(errors="replace").decode()  # surrogates cannot be printed
        text = self._hosts.sub("[host]", _ACCOUNT.sub("[account]", text))
        text = " ".join(_PATH.sub("[path]", text).split())
        return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."


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
        """Opens no connection yet. Raises TeacherError if the key is missing."""
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
            return self._read(raw.http_response.content)
        except openai.APIStatusError as error:
            return self._refused(error), (0, 0)
        except (TimeoutError, openai.APITimeoutError) as error:
            raise AttemptError(f"no answer in {limit:g} s", retry=True, billed=True) from error
        except openai.APIConnectionError as error:
            unreached = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
            reason = "the server cannot be reached" if unreached else "the connection was lost"
            raise AttemptError(reason, retry=True, billed=not unreached) from error

    def _read(self, body: bytes) -> tuple[Reply, tuple[int, int] | None]:
        try:
            completion = json.loads(body)
            choice = completion["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            text, refusal = message.get("content") or "", message.get("refusal") or ""
        except (
            ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError
        ) as error:  # fmt: skip
            raise AttemptError(
                "the server's answer is not a chat completion", retry=True, billed=True
            ) from error
        texts = [self._redactor.answer(str(part)) for part in (text, finish or "", refusal)]
        return Reply(*texts), _tokens(completion.get("usage"))

    def _refused(self, error: openai.APIStatusError) -> Reply:
        """The reply for a content filter's error. Raises AttemptError for all other errors."""
        status, body = error.status_code, error.body if isinstance(error.body, dict) else {}
        # Servers based on FastAPI use "detail".
        message = body.get("message") or body.get("detail") or error.message
        message = self._redactor.error(str(message))
        code = str(body.get("code") or "")
        if code in _FILTERED:
            return Reply("", "content_filter", message)
        hopeless = status in _HOPELESS or code == "insufficient_quota"
        raise AttemptError(
            f"HTTP {status}: {message}",
            retry=not hopeless and (status in _RETRIED or status >= 500),
            hopeless=hopeless,
            wait=_retry_after(error.response.headers),
        ) from error


def _tokens(usage: Any) -> tuple[int, int] | None:
    """Tokens of message and answer; None if not counted (a message has at least one token)."""
    if not isinstance(usage, dict):
        return None
    message, answer = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(message) is not int or type(answer) is not int or message < 1 or answer < 0:
        return None
    return message, answer


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait; the header is a number of seconds or a date."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None

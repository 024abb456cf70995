"""One attempt at one request to an OpenAI-compatible server, and what can go wrong with it."""

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
_HOPELESS = {401, 402, 403, 404}  # the next request would be answered in the same way
_FILTERED = ("content_filter", "content_policy_violation")
# A key that a server shows in parts, and who it belongs to: "sk-ab***yz", "org-A1b2C3d4".
_ACCOUNT = re.compile(r"\S*\*{3,}[\w-]*|\b(?:org|proj|user)[-_]\w{6,}")
_PATH = re.compile(r"(?<![\w/])(?:~|[A-Za-z]:)?(?:[/\\][\w.@+-]+){2,}")
_SECRET = 8  # characters that a key needs; "test", for a server that wants none, is a word
_LONGEST_REASON = 300  # characters of a server's error message


class AttemptError(Exception):
    """An attempt without an answer.

    Attributes:
      retry: trying again may help. hopeless: no request can succeed.
      billed: the server may have charged for it.
      wait: seconds that the server asked to wait, None if it did not.
    """

    def __init__(
        self, reason: str, *, retry=False, hopeless=False, billed=False, wait: float | None = None
    ):
        super().__init__(reason)
        self.retry, self.hopeless, self.billed, self.wait = retry, hopeless, billed, wait


class Redactor:
    """Takes out of a server's texts what belongs to this machine or its user."""

    def __init__(self, key: str, base_url: str):
        """`base_url` may hold the name of a host of the house."""
        parts = urlsplit(base_url)
        home = str(Path.home())
        secrets = {base_url: "[server]"}
        if len(key) >= _SECRET:
            secrets[key] = "[key]"
        if parts.netloc != parts.hostname or "." in parts.netloc:  # more than a lone word
            secrets[parts.netloc] = "[server]"
        if home != "/":
            secrets[home] = "[home]"
        self._secrets = {text: mark for text, mark in secrets.items() if text}
        own = socket.gethostname()
        hosts = sorted({own, own.split(".")[0], parts.hostname} - {""}, key=len, reverse=True)
        named = "|".join(map(re.escape, hosts))  # the longest first
        self._hosts = re.compile(rf"\b(?:{named})\b", re.IGNORECASE)

    def answer(self, text: str) -> str:
        """An answer: a host's name may be an honest word of it and stays."""
        for secret, mark in self._secrets.items():
            text = text.replace(secret, mark)
        return text

    def error(self, text: str) -> str:
        """An error message: accounts, hosts and paths go, too, and all beyond 300 characters."""
        text = self.answer(text).encode(errors="replace").decode()  # half characters print nowhere
        text = self._hosts.sub("[host]", _ACCOUNT.sub("[account]", text))
        text = " ".join(_PATH.sub("[path]", text).split())
        return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."


def api_key(settings: Mapping) -> str:
    """The key, from the environment; '' where the server wants none.

    Raises:
      TeacherError: the variable is not set, or holds what no HTTP header can.
    """
    name = settings["key_variable"] or ("" if settings["base_url"] else "OPENAI_API_KEY")
    if not name:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise TeacherError(f"the environment variable {name} holds no key: export {name}=...")
    if not (key.isascii() and key.isprintable()):
        raise TeacherError(f"the environment variable {name} holds what cannot be a key")
    return key


class Endpoint:
    """A server and a model on it. Use it in an `async with`."""

    def __init__(self, settings: Mapping[str, Any]):
        """Opens no connection yet. Raises TeacherError where the key is missing."""
        key = api_key(settings)
        url = settings["base_url"] or OPENAI
        self._settings, self._redactor = settings, Redactor(key, url)
        # Their lines name the server, whatever OPENAI_LOG says.
        for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=url,
            max_retries=0,  # every attempt is counted and written down, which is done above
            timeout=settings["timeout"],
        )
        if settings["base_url"]:  # OPENAI_ORG_ID and OPENAI_PROJECT_ID are meant for OpenAI
            self._client.organization = self._client.project = None

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *_) -> None:
        await self._client.close()

    async def ask(self, messages: list[dict]) -> tuple[Reply, tuple[int, int] | None]:
        """One attempt.

        Returns:
          The reply, and the tokens of message and answer, None where the server does not say.

        Raises:
          AttemptError: there is no answer. Its text names neither key, server nor path.
        """
        fields, limit = dict(self._settings["request"]), self._settings["timeout"]
        create = self._client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(limit):  # the client's own starts anew with every byte
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
            reason = "the server cannot be reached" if unreached else "the connection broke"
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
        """The reply that a filter's error stands for. Raises AttemptError for all other ones."""
        status, body = error.status_code, error.body if isinstance(error.body, dict) else {}
        # "detail" is how servers made with FastAPI say it.
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
    """Tokens of message and answer; None where they are not counted: no message has none."""
    if not isinstance(usage, dict):
        return None
    message, answer = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(message) is not int or type(answer) is not int or message < 1 or answer < 0:
        return None
    return message, answer


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: the header is a number of them, or a date."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None

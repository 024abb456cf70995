"""Reads the body of a server's reply: what the model said, the tokens, or the server's error.

Servers differ in where they put an answer and an error. What can be understood is read, because an
answer has been paid for; what cannot is kept as it came.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from slava_jax.teacher.journal import MOST_TOKENS, Reply

_SAID, _THOUGHT, _REFUSED = "said", "thought", "refused"
_THINKING = ("thinking", "reasoning", "reasoning_text", "summary", "summary_text")  # kinds of parts
_REASONING = ("reasoning_content", "reasoning", "thinking", "reasoning_details")  # of a message
_PLAIN = ("role", "content", "refusal")
_CHOSEN = ("message", "delta", "text")  # of a choice; the second is that of a stream
_MESSAGES = ("message", "detail", "msg", "error", "error_description", "description", "title")
_CODES = ("code", "type", "status")
# HTTP statuses of named errors, for replies that do not give a status.
_STATUSES = {
    "rate_limit_exceeded": 429, "rate_limit_error": 429, "server_error": 500, "api_error": 500,
    "internal_server_error": 500, "overloaded_error": 503, "timeout": 408,
    "authentication_error": 401, "permission_error": 403, "not_found_error": 404,
}  # fmt: skip
_DIGITS = 18  # longer integers are no numbers of tokens, and Python refuses 4,300 digits
_TAG = re.compile(r"<[^<>]*>")
_DEPTH = 4  # of an error within an error


@dataclasses.dataclass(frozen=True)
class Problem:
    """A server's error.

    Attributes:
      message: its text, '' if it has none.
      code: its name or number, as text; '' without one.
    """

    message: str
    code: str

    @property
    def status(self) -> int | None:
        """The HTTP status that the code stands for, None if it stands for none."""
        if re.fullmatch(r"[45]\d\d", self.code, re.ASCII):
            return int(self.code)
        return _STATUSES.get(self.code)


def parsed(body: bytes) -> Any:
    """The body's JSON value; its text if it is not JSON."""
    text = body.decode("utf-8-sig", errors="replace")
    try:
        return json.loads(text, strict=False, parse_int=_integer)
    except (ValueError, RecursionError):
        return text


def reply_in(body: Any) -> Reply | None:
    """The reply in a parsed body, None if it is not a chat completion.

    `text` is the message's content; of a list of parts, their texts; of an object, its JSON.
    Without any, it is the arguments of tool calls, or the reasoning. `raw` is the choice as JSON
    where it holds more than the text; '' otherwise.
    """
    choice = _first(body.get("choices")) if isinstance(body, dict) else None
    if not isinstance(choice, dict) or not any(name in choice for name in _CHOSEN):
        return None
    if choice.get("error") and choice.get("finish_reason") != "stop":
        return None  # broken off in the middle
    message = next(choice[name] for name in _CHOSEN if name in choice)
    message = message if isinstance(message, dict) else {"content": message}
    content = message.get("content")
    try:
        found = [*_parts(content, _SAID)]
        raw = json.dumps(choice, ensure_ascii=False)
        refusal = "".join(text for kind, text in found if kind == _REFUSED)
        refusal = str(message.get("refusal") or refusal)
        text = "".join(text for kind, text in found if kind == _SAID)
        if not text.strip():
            thought = "".join(text for kind, text in found if kind == _THOUGHT)
            text = text + (_arguments(message) or _reasoning(message) or thought)
    except RecursionError:
        return None
    plain = isinstance(content or "", str) and not any(message[k] for k in {*message} - {*_PLAIN})
    return Reply(text, str(choice.get("finish_reason") or ""), refusal, "" if plain else raw)


def is_other(body: Any) -> bool:
    """Whether a body is whole and of another protocol, so that the next one would be, too."""
    return isinstance(body, dict) and bool(body) and "choices" not in body


def tokens_in(body: Any) -> tuple[int, int] | None:
    """Tokens of message and answer; None if not counted (a message has at least one token)."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None
    message, answer = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(message) is not int or type(answer) is not int:
        return None
    return (message, answer) if 1 <= message <= MOST_TOKENS >= answer >= 0 else None


def problem_in(body: Any, failed: bool) -> Problem | None:
    """The server's error in a parsed body, None if it states none.

    Args:
      failed: the HTTP status says that it is an error, so that any text is the message.
    """
    body = _first(body) if isinstance(body, list) else body
    if not isinstance(body, dict):
        told = failed and isinstance(body, str)
        return Problem(plain_text(body), "") if told else None
    choice, choices = _first(body.get("choices")), body.get("choices")
    error = body.get("error") or (choice.get("error") if isinstance(choice, dict) else None)
    error = body if error is True else error  # the message is beside it
    if not error and not choices and (failed or any(body.get(name) for name in _MESSAGES)):
        error = body
    text = _message(error, _DEPTH) if error else ""
    if not text and error and failed:
        text = _as_json(error)
    if not text:
        return None
    codes = [error.get(name) for name in _CODES] if isinstance(error, dict) else []
    code = next((str(c) for c in codes if c and type(c) in (str, int)), "")
    return Problem(text, code)


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return ""


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= _DIGITS else math.inf


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, list) and values else None


def _parts(content: Any, kind: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of every part of a message's content."""
    if content is None:
        return
    if isinstance(content, list):
        for part in content:
            yield from _parts(part, kind)
    elif not isinstance(content, dict):
        yield kind, str(content)
    elif isinstance(content.get("refusal"), str):
        yield _REFUSED, content["refusal"]
    elif content.get("type") in _THINKING:
        held = [content.get(name) for name in ("text", *_THINKING)]
        yield from _parts([text for text in held if text], _THOUGHT)
    elif isinstance(content.get("parts"), list):
        yield from _parts(content["parts"], kind)
    elif isinstance(content.get("text"), str):
        yield kind, content["text"]
    elif isinstance(content.get("text"), dict) and "value" in content["text"]:
        yield kind, str(content["text"]["value"])
    else:  # the requested object itself, not as text
        yield kind, json.dumps(content, ensure_ascii=False)


def _arguments(message: Mapping[str, Any]) -> str:
    """What the model passed to tools: some servers return JSON in this way."""
    calls = message.get("tool_calls")
    calls = [*calls] if isinstance(calls, list) else []
    calls = [call.get("function") for call in calls if isinstance(call, dict)]
    calls.append(message.get("function_call"))
    held = [call.get("arguments") for call in calls if isinstance(call, dict)]
    return "\n".join(text for value in held for _, text in _parts(value, _SAID))


def _reasoning(message: Mapping[str, Any]) -> str:
    for name in _REASONING:
        if text := "".join(text for _, text in _parts(message.get(name), _THOUGHT)):
            return text
    return ""


def _message(error: Any, depth: int) -> str:
    """The text of an error, wherever the server put it."""
    if isinstance(error, list) and depth:
        return "; ".join(filter(None, (_message(part, depth - 1) for part in error[:3])))
    if not isinstance(error, dict):
        return plain_text(str(error or ""))
    if not depth:
        return ""
    said = (error.get(name) for name in _MESSAGES)
    texts = (_message(text, depth - 1) for text in said if text and text is not True)
    text = next(filter(None, texts), "")
    place = error.get("loc")  # of FastAPI: the field that is wrong
    if text and isinstance(place, list):
        text = f"{'.'.join(map(str, place))}: {text}"
    more = error.get("metadata")  # of OpenRouter: what the provider said
    more = _message(more.get("raw"), depth - 1) if isinstance(more, dict) else ""
    return f"{text} ({more})" if text and more else text or more


def plain_text(text: str) -> str:
    """Without the tags of an HTML page."""
    return _TAG.sub(" ", text) if text.lstrip().startswith("<") else text

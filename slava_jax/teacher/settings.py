"""The settings of the API teacher, and their checks."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from slava_jax.errors import UserError

SPLITS = ("train", "validation", "test")
_LENGTH_FIELDS = ("max_tokens", "max_completion_tokens")
_OWN_FIELDS = ("model", "messages", "n", "stream")


class TeacherError(UserError, ValueError):
    """The teacher cannot continue; the message says why, and what to do."""


def default_settings() -> dict[str, Any]:
    """All settings of the group `teacher` of a config. `model` and a budget must be given."""
    return {
        # An OpenAI-compatible endpoint, e.g. http://HOST:8000/v1; '' for OpenAI itself.
        "base_url": "",
        "model": "",
        # The environment variable with the key. '' means OPENAI_API_KEY for OpenAI itself, and no
        # key for any other server.
        "key_variable": "",
        # Fields of every request, as in the server's API.
        "request": {
            "max_tokens": 2000,  # or max_completion_tokens, for newer OpenAI models
            "temperature": 0.2,
            "response_format": {"type": "json_object"},
        },
        "prompts": "nanomaterials",  # a set of teacher/prompts/, or your own TOML file
        "send_images": True,  # False: the teacher only reads classes, captions and paragraphs
        "contexts": "",  # JSON Lines: caption and paragraphs of images (docs/teacher.md)
        "groups": "",  # JSON Lines: groups of images for the three challenges
        # Number of groups of each kind and category in every split: from `groups` (0 for all of
        # them), or random ones if `groups` is ''.
        "groups_per_category": 0,
        "images_per_group": 4,
        "splits": SPLITS,  # any of them
        "images_per_category": 0,  # in each split, always the same ones; 0 for all
        "questions_per_request": 6,
        "longest_answer": 1000,  # characters; longer ones count as malformed
        "concurrency": 8,  # simultaneous requests
        "attempts": 6,  # for each request
        "backoff": 1.0,  # seconds before the second attempt, doubled each time
        "timeout": 120.0,  # seconds for one attempt
        # Estimated tokens of an image, until the first answer reports them.
        "image_tokens": 800,
        "prices": {"input": 0.0, "output": 0.0},  # per million tokens, in your currency
        # At least one of them; 0 for no limit. Applies to all runs with the same journal.
        "budget": {"requests": 0, "tokens": 0, "money": 0.0},
    }


def max_tokens(settings: Mapping) -> int:
    """The maximum number of tokens of an answer."""
    return next(settings["request"][name] for name in _LENGTH_FIELDS if name in settings["request"])


def check(settings: Mapping) -> None:
    """Checks names, types and values.

    Raises:
      TeacherError: lists every invalid setting.
    """
    problems = list(_shape_problems(settings, default_settings(), "teacher."))
    problems = problems or list(_value_problems(settings))
    if problems:
        raise TeacherError("invalid config:\n  " + "\n  ".join(problems))


def _shape_problems(held: Mapping, known: Mapping, path: str) -> Iterator[str]:
    yield from (f"{path}{name}: unknown" for name in held if name not in known)
    for name, example in known.items():
        value = held.get(name)
        if name not in held:
            yield f"{path}{name}: missing (derive from configs/teacher.py)"
        elif isinstance(example, dict) != isinstance(value, Mapping):
            yield f"{path}{name}: must {'' if isinstance(example, dict) else 'not '}be a group"
        elif name in ("prices", "budget"):
            yield from _shape_problems(value, example, f"{path}{name}.")
        elif not isinstance(example, dict) and not _alike(value, example):
            yield f"{path}{name}: must be like {example!r}, is {value!r}"


def _alike(value: Any, example: Any) -> bool:
    if isinstance(value, bool) or isinstance(example, bool):
        return isinstance(value, bool) and isinstance(example, bool)
    kinds = {float: int | float, tuple: tuple | list}
    return isinstance(value, kinds.get(type(example), type(example)))


def _value_problems(settings: Mapping) -> Iterator[str]:
    if not settings["model"]:
        yield "teacher.model: must be the server's name of the model"
    if not re.fullmatch(r"([A-Za-z_]\w{0,60})?", settings["key_variable"]):
        yield "teacher.key_variable: must name the environment variable that contains the key"
    if settings["base_url"]:
        yield from _url_problems(settings["base_url"])
    splits = settings["splits"]
    if not splits or not set(splits) <= set(SPLITS) or len(set(splits)) < len(splits):
        yield f"teacher.splits: must be some of {', '.join(SPLITS)}, each once, is {splits}"
    ones = ("questions_per_request", "longest_answer", "concurrency", "attempts")
    for name in ones:
        if settings[name] < 1:
            yield f"teacher.{name}: must be 1 or more, is {settings[name]}"
    if settings["images_per_group"] < 2:
        yield "teacher.images_per_group: must be 2 or more"
    for name in ("images_per_category", "groups_per_category", "image_tokens", "backoff"):
        if not 0 <= settings[name] < math.inf:
            yield f"teacher.{name}: must be 0 or more, is {settings[name]}"
    if not settings["timeout"] > 0:
        yield "teacher.timeout: must be above 0"
    yield from _request_problems(settings["request"])
    yield from _budget_problems(settings["budget"], settings["prices"])


def _url_problems(url: str) -> Iterator[str]:
    if "@" in url or "?" in url:
        yield "teacher.base_url: must not contain a password or query; use teacher.key_variable"
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        yield "teacher.base_url: must be like http://HOST:8000/v1"


def _request_problems(request: Mapping) -> Iterator[str]:
    for name in _OWN_FIELDS:
        if name in request:
            yield f"teacher.request.{name}: cannot be set here; remove it"
    lengths = [request[name] for name in _LENGTH_FIELDS if name in request]
    if len(lengths) != 1 or type(lengths[0]) is not int or lengths[0] < 1:
        yield f"teacher.request: must have one of {' and '.join(_LENGTH_FIELDS)}, 1 or more"


def _budget_problems(budget: Mapping, prices: Mapping) -> Iterator[str]:
    for group, values in (("budget", budget), ("prices", prices)):
        for name, value in values.items():
            if not 0 <= value < math.inf:
                yield f"teacher.{group}.{name}: must be 0 or more, is {value}"
    if not any(budget.values()):
        yield "teacher.budget: must limit requests, tokens or money (money needs teacher.prices)"
    if budget["money"] and not any(prices.values()):
        yield "teacher.prices: must give prices per million tokens, as teacher.budget.money is set"

"""Every setting of the teacher behind an API, and its check."""

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
    """The teacher cannot go on; the message says why, and what to do."""


def default_settings() -> dict[str, Any]:
    """All settings, the group `teacher` of a config. `model` and a budget must be given."""
    return {
        # An OpenAI-compatible endpoint, e.g. http://HOST:8000/v1; '' for OpenAI itself.
        "base_url": "",
        "model": "",
        # The environment variable that holds the key. '' stands for OPENAI_API_KEY with OpenAI
        # itself, and for no key with any other server.
        "key_variable": "",
        # Fields of every request, as the server's API has them.
        "request": {
            "max_tokens": 2000,  # or max_completion_tokens, for newer models of OpenAI
            "temperature": 0.2,
            "response_format": {"type": "json_object"},
        },
        "prompts": "nanomaterials",  # a set of teacher/prompts/, or a TOML file of one's own
        "send_images": True,  # False: the teacher reads classes, captions and paragraphs alone
        "contexts": "",  # JSON Lines: caption and paragraphs of images (docs/teacher.md)
        "groups": "",  # JSON Lines: groups of images for the three challenges
        # Groups of each kind and category in every split: of those in `groups`, where 0 takes all;
        # random ones where it is ''.
        "groups_per_category": 0,
        "images_per_group": 4,
        "splits": SPLITS,  # any of them
        "images_per_category": 0,  # of each split, the same ones every time; 0 for all
        "questions_per_request": 6,
        "longest_answer": 1000,  # characters; what is longer counts as malformed
        "concurrency": 8,  # requests under way at a time
        "attempts": 6,  # at a request that fails
        "backoff": 1.0,  # seconds before the second attempt, then twice as many each time
        "timeout": 120.0,  # seconds for one attempt
        # For the bill, and so that the budget holds before the first answer says better.
        "image_tokens": 800,
        "prices": {"input": 0.0, "output": 0.0},  # of a million tokens, in your currency
        # At least one of them; 0 for no limit. It holds for all runs on one journal together.
        "budget": {"requests": 0, "tokens": 0, "money": 0.0},
    }


def max_tokens(settings: Mapping) -> int:
    """The most tokens an answer can have."""
    return next(settings["request"][name] for name in _LENGTH_FIELDS if name in settings["request"])


def check(settings: Mapping) -> None:
    """Checks names, types and values.

    Raises:
      TeacherError: lists every setting that cannot be used.
    """
    problems = list(_shape_problems(settings, default_settings(), "teacher."))
    problems = problems or list(_value_problems(settings))
    if problems:
        raise TeacherError("the config cannot be used:\n  " + "\n  ".join(problems))


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
        yield "teacher.model: must name the model, as the server calls it"
    if not re.fullmatch(r"([A-Za-z_]\w{0,60})?", settings["key_variable"]):
        yield "teacher.key_variable: must name an environment variable; the key itself stands there"
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
        yield "teacher.base_url: must hold no password and no query; keys go into the environment"
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
            yield f"teacher.request.{name}: is not to be set here; remove it"
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
        yield "teacher.prices: must say what a million tokens cost, for teacher.budget.money"

"""Renders chat templates in a sandbox. A tokenizer's own template is untrusted code and runs in a
separate process.

jinja2's sandbox hides Python's attributes from a template, and without a loader a template cannot
reach files. The separate process limits time and memory, which the sandbox does not. This file is
also that process's script, so it imports no package but jinja2.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import ext, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

LONGEST = 10_000_000  # limit on the characters rendered per call
_SECONDS = 5  # limit on CPU time
_BYTES = 2**30  # limit on memory


class RenderingError(ValueError):
    """A template that is broken, rejects the messages or exceeds a limit; says which."""


class _Generation(ext.Extension):
    """`{% generation %}`, which some templates put around answers; leaves the text unchanged."""

    tags = frozenset({"generation"})

    def parse(self, parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def render(template: str, requests: Sequence[Mapping[str, Any]]) -> list[str]:
    """Renders a template once for each mapping of its variables, in this process.

    Raises:
      RenderingError: the template cannot be compiled or rendered, or writes more than LONGEST.
    """
    # The same setup as in transformers, for which tokenizers' templates are written.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _json
    environment.globals["raise_exception"] = _refuse
    texts, room = [], LONGEST
    try:
        compiled = environment.from_string(template)
        for variables in requests:
            parts = []
            for part in compiled.generate(variables):
                room -= len(part)
                if room < 0:
                    raise RenderingError(f"writes more than {LONGEST} characters")
                parts.append(part)
            texts.append("".join(parts))
    except RenderingError:
        raise
    except Exception as error:  # expressions in an untrusted template can raise anything
        raise RenderingError(f"{type(error).__name__}: {error}") from error
    return texts


def render_apart(template: str, requests: Sequence[Mapping[str, Any]]) -> list[str]:
    """Runs `render` in a separate process, limited to 5 s of CPU time and 1 GiB of memory.

    Raises:
      RenderingError: as for `render`, or a limit was exceeded.
    """
    work = json.dumps({"template": template, "requests": list(requests)})
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__], input=work, capture_output=True, text=True,
            encoding="utf-8", timeout=20 * _SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RenderingError(f"did not finish within {20 * _SECONDS} s") from error
    if done.returncode:
        said = done.stderr.strip()[-400:]
        raise RenderingError(
            f"was stopped (exit status {done.returncode}): used more than {_SECONDS} s of CPU time "
            f"or {_BYTES >> 20} MiB{': ' if said else ''}{said}"
        )
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise RenderingError(answer["error"])
    return answer["texts"]


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str):
    raise jinja2.TemplateError(message)


def _main() -> None:
    for kind, limit in (("CPU", _SECONDS), ("AS", _BYTES), ("FSIZE", 0), ("CORE", 0)):
        name = getattr(resource, f"RLIMIT_{kind}")
        hard = resource.getrlimit(name)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (limit, limit))
    work = json.loads(sys.stdin.buffer.read())
    try:
        answer = {"texts": render(work["template"], work["requests"])}
    except RenderingError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer))  # all ASCII


if __name__ == "__main__":
    _main()

"""Chooses the parameters a stage trains by path patterns such as `connector/**` or `**/lora_b`.

In a pattern `*` matches anything within one name and `**` any number of names. A pattern that
begins with `!` removes its matches from those of the patterns before it. The collection `frozen`
(int8 kernels, the base under adapters, every A unless adapter.train_a) is never trained.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence

import jax

from slava_jax.errors import UserError


class TrainableError(UserError, ValueError):
    """Path patterns match nothing; the message lists them and the available paths."""


def setting_problems(stage: Mapping) -> Iterator[str]:
    """Problems with `trainable` that do not depend on the model."""
    if not all(isinstance(pattern, str) for pattern in stage["trainable"]):
        yield f"trainable: must be path patterns, is {stage['trainable']}"


def chosen(params: dict, patterns: Sequence[str], setting: str) -> set[str]:
    """Paths of the leaves that patterns select, such as `connector/first/kernel`.

    Args:
      setting: the config key of the patterns, for errors.

    Raises:
      TrainableError: a pattern matches nothing, or nothing is left.
    """
    paths = leaf_paths(params)
    found: set[str] = set()
    for pattern in patterns:
        out = pattern.startswith("!")
        hits = {path for path in paths if matches(path, pattern.removeprefix("!"))}
        if not hits:
            raise TrainableError(
                f"{setting}: {pattern!r} matches no parameter; the model has\n  "
                + "\n  ".join(_summary(paths))
            )
        found = found - hits if out else found | hits
    if not found:
        raise TrainableError(f"{setting}: {list(patterns)} leave nothing to train")
    return found


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern matches a path (names joined by slashes)."""
    return _matches(path.split("/"), pattern.split("/"))


def _matches(names: list[str], wanted: list[str]) -> bool:
    if not wanted:
        return not names
    first, *rest = wanted
    if first == "**":
        return any(_matches(names[i:], rest) for i in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], first) and _matches(names[1:], rest)


def split(params: dict, paths: set[str]) -> tuple[dict, dict]:
    """Splits nested params into (those at `paths`, all others), without empty dicts."""
    return _split(params, paths, "")


def _split(tree: dict, paths: set[str], above: str) -> tuple[dict, dict]:
    inside, outside = {}, {}
    for name, value in tree.items():
        path = f"{above}{name}"
        if isinstance(value, dict):
            for part, below in zip(
                (inside, outside), _split(value, paths, f"{path}/"), strict=True
            ):
                if below:
                    part[name] = below
        else:
            (inside if path in paths else outside)[name] = value
    return inside, outside


def leaf_paths(params: dict) -> list[str]:
    """Paths of all leaves, names joined by slashes."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def _summary(paths: list[str]) -> list[str]:
    """The first two names of each path, without repetition."""
    return list(dict.fromkeys("/".join(path.split("/")[:2]) for path in paths))

"""The table engine: which tensor of a file becomes which leaf of our parameter tree.

A model family is a list of rows. Every tensor of the file belongs to exactly one row, and every
leaf of the model comes from one. Tensors that are missing, left over, claimed twice or of another
shape stop the conversion before anything is read; the error lists both sides.
"""

import collections
import dataclasses
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from safetensors import SafetensorError

from slava_jax.errors import UserError

_LISTED = 12  # at most this many names of one kind in an error


class ConvertError(UserError):
    """The weights cannot be converted; the message names the file or tensor and the remedy."""


class Tensors(Protocol):
    """The tensors of a file or folder, read one at a time.

    Attributes:
      place: the path, for error messages.
      shapes: shape of every tensor, by name.
      unreadable: tensors in a format that cannot be read, with that format.
    """

    place: str
    shapes: dict[str, tuple[int, ...]]
    unreadable: dict[str, str]

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32, float16 or bfloat16."""


def same(array: np.ndarray) -> np.ndarray:
    """A tensor stored in our layout."""
    return array


def transposed(array: np.ndarray) -> np.ndarray:
    """A linear layer's `[out, in]` as our kernel `[in, out]`."""
    return array.T


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
      source: the tensor's name; with `{}` for the layer, one tensor per layer.
      path: path of our leaf, such as "blocks/attention/q/kernel". The tensors of a row with `{}`
        become one leaf with a leading layer axis.
      shape: shape of each tensor in the file.
      change: converts the file's array of one layer to ours.
      undo: the inverse of `change`; None if `change` is its own inverse.
      layers: number of tensors of a row with `{}`; None for the model's number of layers.
    """

    source: str
    path: str
    shape: tuple[int, ...]
    change: Callable[[np.ndarray], np.ndarray] = same
    undo: Callable[[np.ndarray], np.ndarray] | None = None
    layers: int | None = None


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Tensors that may be present but are not needed.

    Attributes:
      source: a pattern of names, `*` for anything.
      why: why nothing is lost.
    """

    source: str
    why: str


Table = Sequence[Row | LeftOut]


def placed(table: Table, name: str, layers: int | None) -> Table:
    """The table of one part of a model with several parts, its leaves below `name`."""
    return [
        dataclasses.replace(row, path=f"{name}/{row.path}", layers=layers)
        if isinstance(row, Row)
        else row
        for row in table
    ]


@dataclasses.dataclass(frozen=True)
class Step:
    """One tensor to read: `layer` is its index in a stacked leaf, None for an unstacked leaf."""

    name: str
    row: Row
    layer: int | None


def plan(table: Table, tensors: Tensors, layers: int, leaves: Sequence[str]) -> list[Step]:
    """The tensors to read, in table order: leaf by leaf, layer by layer.

    Args:
      layers: number of layers in the model's config; rows may override it.
      leaves: paths of all leaves of the model.

    Raises:
      ConvertError: the file, the table and the model do not match; all differences are listed.
    """
    rows = [row for row in table if isinstance(row, Row)]
    steps = [step for row in rows for step in steps_of(row, layers)]
    uses = collections.Counter(step.name for step in steps)
    dropped = [row.source for row in table if isinstance(row, LeftOut)]
    for name in tensors.shapes:
        uses[name] += sum(fnmatch.fnmatchcase(name, pattern) for pattern in dropped)
    paths = collections.Counter(row.path for row in rows)
    shapes = tensors.shapes
    problems = [
        ("missing from the file", [name for name in uses if name not in shapes]),
        ("in the file, but in no row of the table", [name for name in shapes if not uses[name]]),
        ("claimed by more than one row", [name for name, count in uses.items() if count > 1]),
        ("leaves of the model without a row", [path for path in leaves if not paths[path]]),
        ("rows without a leaf of the model", [path for path in paths if path not in leaves]),
        ("leaves with more than one row", [path for path, count in paths.items() if count > 1]),
        ("shape does not match the config", list(_other_shapes(steps, shapes))),
        ("unsupported format", list(_unreadable(steps, tensors.unreadable))),
    ]
    found = [f"{what} ({len(names)}):{_listed(names)}" for what, names in problems if names]
    if found:
        raise ConvertError(
            f"{tensors.place}: the tensors do not match this architecture and config; "
            "nothing was converted\n" + "\n".join(found)
        )
    return steps


def steps_of(row: Row, layers: int) -> list[Step]:
    """The tensors of one row."""
    if "{}" not in row.source:
        return [Step(row.source, row, None)]
    count = layers if row.layers is None else row.layers
    return [Step(row.source.format(layer), row, layer) for layer in range(count)]


def _other_shapes(steps: list[Step], shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    for step in steps:
        found = shapes.get(step.name, step.row.shape)
        if found != step.row.shape:
            yield f"{step.name}: is {list(found)}, must be {list(step.row.shape)}"


def _unreadable(steps: list[Step], forms: dict[str, str]) -> Iterator[str]:
    for step in steps:
        if step.name in forms:
            yield f"{step.name}: {forms[step.name]}"


def _listed(names: list[str]) -> str:
    more = [f"... and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return "".join(f"\n  {name}" for name in names[:_LISTED] + more)


def slices(steps: list[Step], tensors: Tensors) -> Iterator[tuple[str, int | None, np.ndarray]]:
    """(path, layer, float32 array) of every step; one tensor is in memory at a time.

    Raises:
      ConvertError: a tensor cannot be read, or contains NaN or infinity.
    """
    for step in steps:  # bind no array to a name here: it would live until the next one is read
        yield step.row.path, step.layer, _slice(step, tensors)


def _slice(step: Step, tensors: Tensors) -> np.ndarray:
    try:
        array = tensors.read(step.name)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConvertError(
            f"{tensors.place}: {step.name} cannot be read ({error}); download the file again"
        ) from error
    if not np.isfinite(array).all():
        raise ConvertError(
            f"{tensors.place}: {step.name} contains NaN or infinity; download the file again"
        )
    return np.ascontiguousarray(step.row.change(array), np.float32)

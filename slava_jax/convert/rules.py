"""The one table engine: which tensor of a file becomes which leaf of ours.

A family of models is a list of rows. Every tensor of the file is used by exactly one row, and
every leaf of the model comes from one: what is missing, left over, claimed twice or of another
shape stops the conversion before anything is read, with both sides listed.
"""

import collections
import dataclasses
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from safetensors import SafetensorError

from slava_jax.errors import UserError

_LISTED = 12  # names of one kind that an error spells out


class ConvertError(UserError):
    """The weights cannot be converted; the message names the file or tensor and what to do."""


class Tensors(Protocol):
    """The tensors of a file or folder, read one at a time.

    Attributes:
      place: what an error calls it.
      shapes: of every tensor, by name.
      unreadable: tensors that are held in no form that can be read, and in which.
    """

    place: str
    shapes: dict[str, tuple[int, ...]]
    unreadable: dict[str, str]

    def read(self, name: str) -> np.ndarray:
        """That tensor as float32, float16 or bfloat16."""


def same(array: np.ndarray) -> np.ndarray:
    """A tensor that is stored as we hold it."""
    return array


def transposed(array: np.ndarray) -> np.ndarray:
    """A linear layer's `[out, in]` as our kernel `[in, out]`."""
    return array.T


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
      source: the tensor's name; with `{}` for the layer, one tensor a layer.
      path: of our leaf, "blocks/attention/q/kernel". The tensors of a row with `{}` become one
        leaf with a leading layer axis.
      shape: of each tensor in the file.
      change: from the file's array to ours, of one layer.
      undo: the way back; None where `change` undoes itself.
      layers: how many tensors a row with `{}` has; None for as many as the model has layers.
    """

    source: str
    path: str
    shape: tuple[int, ...]
    change: Callable[[np.ndarray], np.ndarray] = same
    undo: Callable[[np.ndarray], np.ndarray] | None = None
    layers: int | None = None


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Tensors that may be there and are not needed.

    Attributes:
      source: a pattern of names, `*` for anything.
      why: the proof that nothing is lost.
    """

    source: str
    why: str


Table = Sequence[Row | LeftOut]


def placed(table: Table, name: str, layers: int | None) -> Table:
    """The table of one part of a model that has several, its leaves below `name`."""
    return [
        dataclasses.replace(row, path=f"{name}/{row.path}", layers=layers)
        if isinstance(row, Row)
        else row
        for row in table
    ]


@dataclasses.dataclass(frozen=True)
class Step:
    """One tensor to be read: `layer` is its place in a stacked leaf, None for a leaf of its own."""

    name: str
    row: Row
    layer: int | None


def plan(table: Table, tensors: Tensors, layers: int, leaves: Sequence[str]) -> list[Step]:
    """What to read, in the order of the table: leaf by leaf, layer by layer.

    Args:
      layers: of the model, as its config says; rows may say their own.
      leaves: paths of all leaves of the model.

    Raises:
      ConvertError: the file, the table and the model do not match; everything that differs is
        listed.
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
        ("missing in the file", [name for name in uses if name not in shapes]),
        ("in the file, but in no row of the table", [name for name in shapes if not uses[name]]),
        ("claimed by more than one row", [name for name, count in uses.items() if count > 1]),
        ("leaves of the model without a row", [path for path in leaves if not paths[path]]),
        ("rows without a leaf of the model", [path for path in paths if path not in leaves]),
        ("leaves with more than one row", [path for path, count in paths.items() if count > 1]),
        ("of another shape than the config says", list(_other_shapes(steps, shapes))),
        ("held in a form that is not read here", list(_unreadable(steps, tensors.unreadable))),
    ]
    found = [f"{what} ({len(names)}):{_listed(names)}" for what, names in problems if names]
    if found:
        raise ConvertError(
            f"{tensors.place}: the tensors are not those of this architecture and config; "
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
            yield f"{step.name}: is {list(found)}, should be {list(step.row.shape)}"


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
      ConvertError: a tensor cannot be read, or holds NaN or infinity.
    """
    for step in steps:  # no name holds an array here: it would live until the next one is read
        yield step.row.path, step.layer, _slice(step, tensors)


def _slice(step: Step, tensors: Tensors) -> np.ndarray:
    try:
        array = tensors.read(step.name)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConvertError(
            f"{tensors.place}: {step.name} cannot be read ({error}): get the file anew"
        ) from error
    if not np.isfinite(array).all():
        raise ConvertError(f"{tensors.place}: {step.name} holds NaN or infinity: get it anew")
    return np.ascontiguousarray(step.row.change(array), np.float32)

"""Checkpoints written slice by slice, for arrays that are never in memory whole.

Orbax saves whole arrays; what it stores is TensorStore's OCDBT and zarr, which can be written in
pieces. So Orbax lays out the folder, and the arrays are written into it: `checkpoint.load_tree`
reads them like any other.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore

from slava_jax.checkpoint import CheckpointError, appearing, lay_out

# Bytes written before they are committed: a commit takes milliseconds, and until it everything
# in it is in memory.
_COMMIT = 2**26


def save_slices(
    path: str | os.PathLike,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    slices: Iterable[tuple[str, int | None, np.ndarray]],
    facts: dict[str, Any],
) -> None:
    """`checkpoint.save_tree` for arrays that come in slices, atomic like it.

    Args:
      shapes: every array there will be, by name ("vit/norm/scale"); none without elements.
      slices: (name, i, array): `array` is entry i of its leading axis, or the whole where i is
        None. Each entry once, in any order. One at a time is held.

    Raises:
      CheckpointError: the disk has no room (asked before anything is written), the slices are
        not those of `shapes`, or as in `save_tree`. Nothing is left behind.
    """
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in shapes.values())
    with appearing(path, size) as unfinished:
        lay_out(unfinished, shapes, facts)
        try:
            _write_slices(unfinished, shapes, slices)
        except ValueError as error:  # so tensorstore reports a full disk
            raise CheckpointError(f"{path}: could not be written: {error}") from error


def _write_slices(path: Path, shapes, slices) -> None:
    stores: dict[str, tensorstore.TensorStore] = {}
    missing = {name: set(range(leaf.shape[0])) for name, leaf in shapes.items()}
    transaction, held = tensorstore.Transaction(), 0
    for name, i, array in slices:
        if name not in shapes:
            raise CheckpointError(f"{path}: {name} is none of {', '.join(shapes)}")
        leaf = shapes[name]
        entries = set(range(leaf.shape[0])) if i is None else {i}
        wanted = leaf.shape if i is None else leaf.shape[1:]
        if array.shape != wanted or array.dtype != leaf.dtype or not entries <= missing[name]:
            raise CheckpointError(f"{path}: {name}[{i}] does not fit {leaf}, or came twice")
        if name not in stores:
            stores[name] = _array_store(path, name, leaf)
        where = stores[name].with_transaction(transaction)[... if i is None else i]
        where.write(array, can_reference_source_data_indefinitely=True).copy.result()
        missing[name] = missing[name] - entries
        held += array.nbytes
        if held > _COMMIT:
            transaction.commit_sync()
            transaction, held = tensorstore.Transaction(), 0
        del array, where  # before the next one is read
    transaction.commit_sync()
    if unwritten := [name for name, entries in missing.items() if entries]:
        raise CheckpointError(f"{path}: not all of these came: {', '.join(unwritten)}")


def _array_store(path: Path, name: str, leaf) -> tensorstore.TensorStore:
    """An empty array where Orbax looks for it, in chunks of about a MiB or one entry."""
    rows = max(1, 2**20 * leaf.shape[0] // (leaf.size * leaf.dtype.itemsize))
    chunk = [min(rows, leaf.shape[0]), *leaf.shape[1:]]
    base = {"driver": "file", "path": f"{path}/state/"}
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "ocdbt", "base": base, "path": name.replace("/", ".")},
        "metadata": {
            "shape": list(leaf.shape),
            "data_type": leaf.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "codecs": [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 1}}],
        },
    }
    return tensorstore.open(spec, create=True, delete_existing=True).result()

"""Writes checkpoints slice by slice, for arrays that do not fit into memory.

Orbax only saves whole arrays, but its files are TensorStore's OCDBT and zarr, which can be written
in pieces. So Orbax creates the folder and the arrays are written into it; `checkpoint.load_tree`
reads them as usual.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore

from slava_jax import files
from slava_jax.checkpoint import CheckpointError, atomic_folder, lay_out

# Bytes per commit. A commit takes milliseconds, and its data stay in memory until then.
_COMMIT = 2**26


def save_slices(
    path: str | os.PathLike,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    slices: Iterable[tuple[str, int | None, np.ndarray]],
    facts: dict[str, Any],
) -> None:
    """Like `checkpoint.save_tree`, but for arrays that come in slices. Also atomic.

    Args:
      shapes: all arrays, by name ("vit/norm/scale"); none may be empty.
      slices: (name, i, array): `array` is entry i along the leading axis, or the whole array if i
        is None. Each entry once, in any order. One at a time is in memory.

    Raises:
      CheckpointError: the disk has too little space (checked first), the slices do not match
        `shapes`, or as in `save_tree`. Nothing is left behind.
    """
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in shapes.values())
    with atomic_folder(path, size) as unfinished:
        lay_out(unfinished, shapes, facts)
        try:
            _write_slices(unfinished, shapes, slices)
        except ValueError as error:  # tensorstore's error for a full disk
            raise CheckpointError(f"{path}: cannot be written: {error}") from error
        files.seal(unfinished)


def _write_slices(path: Path, shapes, slices) -> None:
    stores: dict[str, tensorstore.TensorStore] = {}
    missing = {name: set(range(leaf.shape[0])) for name, leaf in shapes.items()}
    transaction, held = tensorstore.Transaction(), 0
    for name, i, array in slices:
        if name not in shapes:
            raise CheckpointError(f"{path}: {name} is not one of {', '.join(shapes)}")
        leaf = shapes[name]
        entries = set(range(leaf.shape[0])) if i is None else {i}
        wanted = leaf.shape if i is None else leaf.shape[1:]
        if array.shape != wanted or array.dtype != leaf.dtype or not entries <= missing[name]:
            raise CheckpointError(f"{path}: {name}[{i}] does not fit {leaf}, or is repeated")
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
        raise CheckpointError(f"{path}: incomplete arrays: {', '.join(unwritten)}")


def _array_store(path: Path, name: str, leaf) -> tensorstore.TensorStore:
    """Creates an array where Orbax expects it, in chunks of about 1 MiB or one entry."""
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

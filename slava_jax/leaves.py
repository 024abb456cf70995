"""The arrays of a checkpoint by name, and what a name may be."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from slava_jax.errors import UserError

PyTree = Any


class CheckpointError(UserError):
    """A checkpoint cannot be written, read, or does not match the request."""


def flatten(tree: PyTree, path: Path) -> dict[str, Any]:
    """Leaves by name, "params/head/kernel", in the order of `jax.tree.leaves`."""
    leaves: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        parts = [jax.tree_util.keystr((key,), simple=True) for key in keys]
        name = "/".join(parts)
        # Orbax joins names with dots, so a dot or slash inside a name could cause collisions.
        # TensorStore cannot read the others back.
        bad = any(not part or set(part) & set("./[]\\") for part in parts)
        if not parts or bad or name in leaves:
            raise CheckpointError(f"{path}: {name!r} is not a valid array name")
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise CheckpointError(
                f"{path}: {name} is {type(leaf).__name__}, not an array: store it in the facts"
            )
        leaves[name] = np.asarray(leaf) if isinstance(leaf, np.generic) else leaf
    return leaves


def nest(leaves: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts of leaves by name, the inverse of `flatten` for dicts."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def describe(leaf: Any) -> list:
    """[dtype, shape] in JSON form."""
    return [str(leaf.dtype), list(leaf.shape)]


def has_elements(leaf: Any) -> bool:
    """Whether an array is not empty; Orbax refuses empty ones."""
    return 0 not in leaf.shape


def check_same(path: Path, stored: dict[str, list], wanted: dict[str, list]) -> None:
    """Raises CheckpointError, listing all differences, if descriptions by name differ."""

    def say(dtype: str, shape: list[int]) -> str:
        return f"{dtype}{shape}"

    rows = [
        f"  {name}: stored {say(*stored[name])}, expected {say(*wanted[name])}"
        for name in stored
        if name in wanted and stored[name] != wanted[name]
    ]
    rows += [f"  {n}: not stored, expected {say(*wanted[n])}" for n in wanted if n not in stored]
    rows += [f"  {n}: stored {say(*stored[n])}, not expected" for n in stored if n not in wanted]
    if rows:
        raise CheckpointError(f"{path}: made for another model or config:\n" + "\n".join(rows))


def as_numpy(stored: dict[str, list], path: Path) -> dict[str, np.ndarray]:
    """Placeholders for the stored arrays, without memory of their own."""
    keys = [name for name, (dtype, _) in stored.items() if dtype.startswith("key<")]
    if keys:
        raise CheckpointError(f"{path} contains PRNG keys ({', '.join(keys)}): pass a template")
    found = {}
    for name, (dtype, shape) in stored.items():
        try:
            found[name] = np.broadcast_to(np.zeros((), jax.numpy.dtype(dtype)), shape)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: damaged: {name} is no array that can be ({error}); restore it from a copy"
            ) from error
    return found


def read_as(leaf: Any) -> Any:
    """The restore request to Orbax for a leaf of the template."""
    if isinstance(leaf, np.ndarray):
        return leaf
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def no_elements(leaf: Any) -> Any:
    """The empty array that a leaf of the template describes."""
    zeros = np.zeros if isinstance(leaf, np.ndarray) else jax.numpy.zeros
    return zeros(leaf.shape, leaf.dtype)

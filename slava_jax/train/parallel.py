"""Runs the training step on many devices, by `pmap` or by jit over a mesh.

Both have `place(state, frozen)`, `step(state, frozen, batch, key)`, `fetch(state)` and
`local(frozen)`; a batch is this host's rows of the global batch, numpy `[B_local, ...]`.
"""

import functools
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from flax import jax_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from slava_jax.errors import too_small
from slava_jax.train.step import train_step

_AXIS = "data"  # examples are split over this axis
_BIG = 2**16  # entries; smaller leaves are not worth splitting over the model axis


def _split_axis(names: set) -> int | None:
    """The axis of a leaf that is split over the model axis, from the names in its path.

    As in Megatron (arXiv 1909.08053), the first layer of a pair is split by outputs and the second
    by inputs: wide activations stay on their device, and each pair needs one all-reduce.
    """
    if names & {"o", "down"}:
        return -2 if names & {"kernel", "lora_a"} else None
    return None if "lora_a" in names else -1


def _microbatches(array, count, name):
    if array.shape[0] % count:
        raise ValueError(
            f"batch array {name!r} has {array.shape[0]} rows, not a multiple of {count} "
            "(microbatches x devices): change batch_size or microbatches"
        )
    return array.reshape(count, len(array) // count, *array.shape[1:])


class Pmap:
    """Data parallel over the devices of all hosts, every leaf replicated."""

    def __init__(self, objective, optimizer, microbatches: int = 1):
        self._microbatches = microbatches
        step = functools.partial(
            train_step, objective=objective, optimizer=optimizer, axis_name=_AXIS
        )
        self._step = jax.pmap(
            step,
            axis_name=_AXIS,
            in_axes=(0, None, 0, None),
            out_axes=(0, None),  # the metrics are the same on all devices
            donate_argnums=(0,),
        )

    def place(self, state, frozen):
        """Copies state and frozen weights to every device; reuses the caller's copy of `frozen`."""
        # With another axis name the second step would compile again.
        state = jax_utils.replicate(state, axis_name=_AXIS)
        # Not stacked like the state, because that would copy the frozen weights, which may take
        # most of the memory.
        everywhere = NamedSharding(
            jax.sharding.Mesh(np.array(jax.local_devices()), (_AXIS,)), PartitionSpec()
        )
        return state, jax.device_put(frozen, everywhere)

    def _split(self, name, array):
        devices = jax.local_device_count()
        shares = _microbatches(array, self._microbatches * devices, name)
        # Microbatch first, so that its examples do not depend on the number of devices.
        shares = shares.reshape(self._microbatches, devices, *shares.shape[1:])
        return shares.swapaxes(0, 1)

    def step(self, state, frozen, batch, key):
        """(new state, metrics)."""
        batch = {name: self._split(name, array) for name, array in batch.items()}
        return self._step(state, frozen, batch, key)

    @staticmethod
    def fetch(tree):
        """The first device's copy, without the cost of indexing a sharded array."""
        return jax.tree.map(lambda a: a.addressable_shards[0].data[0], tree)

    @staticmethod
    def local(frozen):
        """Frozen weights as arrays of the first device, not copied."""
        return jax.tree.map(lambda a: a.addressable_shards[0].data, frozen)


class Mesh:
    """jit over a `data x model` mesh: batches split over `data`, big leaves over `model`."""

    def __init__(
        self, objective, optimizer, microbatches: int = 1, model_axis: int = 1, devices=None
    ):
        """`devices`: of the mesh, by default all; others only to compile for another machine.

        Raises:
          ValueError: `model_axis` does not divide their number.
        """
        self._microbatches = microbatches
        count = len(devices or jax.devices())
        if count % model_axis:
            raise ValueError(f"mesh_model = {model_axis} does not divide the {count} devices")
        self.mesh = jax.make_mesh(
            (count // model_axis, model_axis), ("data", "model"), devices=devices,
            axis_types=(AxisType.Auto,) * 2,
        )  # fmt: skip
        self._model_axis = model_axis

        def step(state, *inputs):
            state, metrics = train_step(state, *inputs, objective=objective, optimizer=optimizer)
            # Same sharding as the input: else the second step compiles again, without donation.
            return jax.lax.with_sharding_constraint(state, self._shardings(state)), metrics

        self._step = jax.jit(step, donate_argnums=(0,))

    def _shardings(self, tree):
        return jax.tree_util.tree_map_with_path(self._sharding, tree)

    def _sharding(self, path, leaf):
        axis = _split_axis({getattr(key, "key", None) for key in path})
        wanted = axis is not None and np.ndim(leaf) > 1 and np.size(leaf) >= _BIG
        spec = [None] * np.ndim(leaf)
        if wanted and self._model_axis > 1 and leaf.shape[axis] % self._model_axis == 0:
            spec[axis] = "model"
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def place(self, state, frozen):
        """State and frozen weights on the mesh."""

        # A copy, because the step donates its state and device_put may alias the caller's arrays.
        trees = (jax.tree.map(jax.numpy.copy, state), frozen)
        return tuple(jax.device_put(tree, self._shardings(tree)) for tree in trees)

    def step(self, state, frozen, batch, key):
        """(new state, metrics)."""
        rows = NamedSharding(self.mesh, PartitionSpec(None, "data"))
        batch = {
            name: jax.make_array_from_process_local_data(
                rows, _microbatches(array, self._microbatches, name)
            )
            for name, array in batch.items()
        }
        with jax.set_mesh(self.mesh):  # nn/vocabulary.py reads the number of devices per row
            return self._step(state, frozen, batch, key)

    def lower(self, state, frozen, batch):
        """Lowers the step for shapes (`jax.ShapeDtypeStruct`s), without any array.

        `batch` has the rows of the whole global batch.
        """

        def shaped(leaf, sharding, shape=None):
            return jax.ShapeDtypeStruct(shape or leaf.shape, leaf.dtype, sharding=sharding)

        trees = [jax.tree.map(shaped, tree, self._shardings(tree)) for tree in (state, frozen)]
        rows = NamedSharding(self.mesh, PartitionSpec(None, "data"))
        count = self._microbatches
        cut = {
            name: shaped(a, rows, (count, a.shape[0] // count, *a.shape[1:]))
            for name, a in batch.items()
        }
        key = jax.eval_shape(lambda: jax.random.key(0))
        with jax.set_mesh(self.mesh):
            return self._step.lower(*trees, cut, key)

    @staticmethod
    def fetch(tree):
        """The arrays themselves: global arrays can be used directly."""
        return tree

    local = fetch


def setting_problems(stage: Mapping) -> Iterator[str]:
    """Problems with the batch and mesh settings of a stage that do not depend on the devices."""
    yield from too_small(stage, 1, "batch_size", "microbatches", "mesh_model")
    if stage["batch_size"] % max(stage["microbatches"], 1):
        yield f"microbatches: must divide batch_size, {stage['batch_size']}"
    if stage["strategy"] not in ("pmap", "mesh"):
        yield f"strategy: must be pmap or mesh, is {stage['strategy']!r}"


def make_runner(config, objective, optimizer):
    """`Pmap` or `Mesh`, according to `config.strategy` ('pmap' or 'mesh')."""
    if config.strategy == "pmap":
        return Pmap(objective, optimizer, config.microbatches)
    if config.strategy == "mesh":
        return Mesh(objective, optimizer, config.microbatches, config.mesh_model)
    raise ValueError(f"strategy must be 'pmap' or 'mesh', got {config.strategy!r}")

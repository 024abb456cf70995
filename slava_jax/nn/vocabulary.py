"""Next-token logits, and their cross-entropy without materialising all logits.

The logits of a batch over a vocabulary of 32,000 would be its largest array, so a few tokens of
every example are processed at a time. Axis letters: see nn/attention.py; `U` tokens of an answer.
"""

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp

from slava_jax.nn.matmul import matmul
from slava_jax.nn.quantized import int8_matmul


def _most() -> int:
    """Logits per device at a time: 32 MiB, or 256 MiB on a GPU, where products need more rows."""
    return 2**26 if jax.default_backend() == "gpu" else 2**23


def _here(rows: int) -> int:
    """Rows of a batch per device; on a mesh (train/parallel.py), `rows` counts all devices.

    Every part ends with a sum of the table's gradient over all devices. Sizing parts by the whole
    batch would multiply their number by the number of devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return -(-rows // mesh.shape["data"]) if "data" in mesh.auto_axes else rows


@flax.struct.dataclass
class Vocabulary:
    """The output projection from states float[..., D] to logits.

    Attributes:
      kernel: float[D, V] or int8 with `scale` float32[V]; if `tied` an embedding table float[V, D].
      added: float[v, D], rows of tokens after the V base tokens, or `None`.
    """

    kernel: jax.Array
    scale: jax.Array | None = None
    added: jax.Array | None = None
    tied: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def size(self) -> int:
        """Number of tokens, V + v."""
        added = 0 if self.added is None else self.added.shape[0]
        return self.kernel.shape[0 if self.tied else 1] + added

    def logits(self, states):
        """float[..., D] -> float32[..., V + v]."""
        if self.tied:
            out = _rows(states, self.kernel)
        elif self.scale is None:
            out = matmul(states, self.kernel)
        else:
            # Always weight-only: which of thousands of tokens wins depends on small differences.
            out = int8_matmul(states, self.kernel, self.scale)
        parts = [out] if self.added is None else [out, _rows(states, self.added)]
        return jnp.concatenate([part.astype(jnp.float32) for part in parts], axis=-1)


def _rows(states, table):
    return matmul(states, table.T)


def token_nats(vocabulary: Vocabulary, states, targets, most: int | None = None):
    """Cross-entropy of each token in nats.

    Args:
      states: float[B, U, D]; targets: int32[B, U]. most: logits per device at a time.

    Returns:
      float32[B, U].
    """
    parts, join = _cut(vocabulary, (states, targets), most)
    return join(jax.lax.map(lambda part: _nats(vocabulary.logits(part[0]), part[1]), parts))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def summed_nats(vocabulary: Vocabulary, states, targets, weights, most: int | None = None):
    """Sum of `token_nats` weighted by `weights` float32[B, U]: float32[].

    The forward pass also computes the gradient, part by part, so that logits are computed only
    once. It flows to the states and the trained leaves of the vocabulary, not to the weights.
    """
    parts, _ = _cut(vocabulary, (states, targets, weights), most)

    def add(total, part):
        return total + _part_sum(vocabulary, *part), None

    return jax.lax.scan(add, jnp.float32(0), parts)[0]


def _cut(vocabulary: Vocabulary, arrays, most: int | None):
    """Arrays `[B, U, ...]` as parts `[n, B, u, ...]` along U, and what puts such parts together."""
    B, U = arrays[0].shape[:2]
    longest = max(1, (most or _most()) // (_here(B) * vocabulary.size))
    count = math.ceil(U / longest)
    length = math.ceil(U / count)

    def cut(array):
        padding = [(0, 0)] * array.ndim
        padding[1] = (0, count * length - U)
        array = jnp.pad(array, padding)
        return array.reshape(B, count, length, *array.shape[2:]).swapaxes(0, 1)

    def join(parts):
        return parts.swapaxes(0, 1).reshape(B, count * length, *parts.shape[3:])[:, :U]

    return tuple(cut(array) for array in arrays), join


def _nats(logits, targets):
    # Compare instead of indexing: the gradient of indexing is a scatter over the vocabulary.
    here = jnp.arange(logits.shape[-1]) == targets[..., None]
    chosen = jnp.sum(jnp.where(here, logits, 0), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def _part_sum(vocabulary, states, targets, weights):
    return jnp.sum(_nats(vocabulary.logits(states), targets) * weights)


def _forward(vocabulary, states, targets, weights, most):
    """The sum, and its gradient with respect to the differentiated (`perturbed`) inputs."""
    is_primal = lambda x: hasattr(x, "perturbed")  # noqa: E731
    leaves, tree = jax.tree.flatten(vocabulary, is_leaf=is_primal)
    values = [leaf.value for leaf in leaves]
    trained = [i for i, leaf in enumerate(leaves) if leaf.perturbed]
    whole = jax.tree.unflatten(tree, values)
    parts, join = _cut(whole, (states.value, targets.value, weights.value), most)

    def total(moving, states, targets, weights):
        held = list(values)
        for i, leaf in zip(trained, moving, strict=True):
            held[i] = leaf
        return _part_sum(jax.tree.unflatten(tree, held), states, targets, weights)

    def add(carry, part):
        value, gradients = jax.value_and_grad(total, (0, 1))(moving, *part)
        summed = jax.tree.map(jnp.add, carry, (value, gradients[0]))
        return summed, gradients[1]

    moving = [values[i] for i in trained]
    start = (jnp.float32(0), [jnp.zeros_like(leaf) for leaf in moving])
    (value, gradients), of_states = jax.lax.scan(add, start, parts)
    by_leaf = [None] * len(values)
    for i, gradient in zip(trained, gradients, strict=True):
        by_leaf[i] = gradient
    return value, (jax.tree.unflatten(tree, by_leaf), join(of_states))


def _backward(most, gradients, cotangent):
    scaled = jax.tree.map(lambda g: g * cotangent.astype(g.dtype), gradients)
    return *scaled, None, None


summed_nats.defvjp(_forward, _backward, symbolic_zeros=True)

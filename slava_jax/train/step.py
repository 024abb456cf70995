"""The training step, a pure function of (state, held, batch, key)."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from slava_jax.train.optim import normalise_rank
from slava_jax.train.recipes import draw_rank


@flax.struct.dataclass
class TrainState:
    """Everything that training updates; frozen weights are kept separately.

    Attributes:
      step: int32[]. params: the trainable parameters. opt_state: their optimizer state.
      lr_scale: float32[], halved on a plateau of the validation loss (section 4.7).
    """

    step: jax.Array
    params: dict
    opt_state: optax.OptState
    lr_scale: jax.Array

    @classmethod
    def create(cls, params, optimizer):
        """A fresh state at step 0."""
        return cls(jnp.int32(0), params, optimizer.init(params), jnp.float32(1))


def train_step(state, held, batch, key, *, objective, optimizer, axis_name=None):
    """Makes one optimizer step over all microbatches.

    Args:
      state: TrainState. held: the fixed parameters (recipes.py).
      batch: arrays `[M, b, ...]`, M microbatches of b examples of this device (under pmap) or of
        all devices (under jit over a mesh).
      key: the run's key; the step and microbatch are folded in here.
      objective: see recipes.py. optimizer: see optim.py.
      axis_name: the pmap axis to sum over; `None` if arrays are global.

    Returns:
      (state, metrics): metrics are float32[] over the global batch.
    """

    def everywhere(tree):
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    adapter = objective.adapter
    microbatches = jax.tree.leaves(batch)[0].shape[0]
    totals = everywhere(objective.counts(batch))
    keys = jax.random.split(jax.random.fold_in(key, state.step), microbatches)

    def one(carry, xs):
        grads, touched = carry
        microbatch, micro_key = xs
        rank_key, dropout_key = jax.random.split(micro_key)
        rank = draw_rank(rank_key, adapter)
        gradient = jax.value_and_grad(objective.loss, has_aux=True)
        (_, sums), g = gradient(state.params, held, microbatch, totals, dropout_key, rank)
        if adapter is not None and adapter.rank_normalisation:
            g = normalise_rank(g, rank, adapter.r_max)
        return (jax.tree.map(jnp.add, grads, g), jnp.maximum(touched, rank)), sums

    start = (jax.tree.map(jnp.zeros_like, state.params), jnp.int32(0))
    (grads, touched), sums = jax.lax.scan(one, start, (batch, keys))
    sums = jax.tree.map(lambda s: s.sum(axis=0), sums)
    grads, sums = everywhere((grads, sums))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, touched=touched)
    updates = jax.tree.map(lambda u: u * state.lr_scale, updates)
    params = optax.apply_updates(state.params, updates)
    metrics = {**sums, "grad_norm": optax.tree.norm(grads)}
    return TrainState(state.step + 1, params, opt_state, state.lr_scale), metrics

"""Adam, adapted to dynamic rank (sections 4.1 and 4.7)."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from slava_jax.train.trainable import matches

_B1, _B2, _EPS = 0.9, 0.999, 1e-8
_KNOWN = {"optimizer": ("adam", "muon"), "schedule": ("constant", "cosine")}


def _name(path) -> str:
    return path[-1].key


def normalise_rank(grads, rank, r_max: int):
    """Scales the gradients of every B by `rank / r_max`; leaves the others unchanged.

    LoRA's factor `alpha / rank` gives microbatches of small rank larger gradients on each row.
    This scaling makes the update of a row independent of the rank.
    """

    def scale(path, grad):
        return grad * (rank / r_max) if _name(path) == "lora_b" else grad

    return jax.tree_util.tree_map_with_path(scale, grads)


class RowAdamState(NamedTuple):
    """Moments, and the number of steps that updated each rank row."""

    count: jax.Array  # int32[R]
    mu: optax.Updates
    nu: optax.Updates


def row_adam() -> optax.GradientTransformationExtraArgs:
    """Adam for `lora_b[..., K, R, D_out]` with a separate step count for each rank row.

    `update(..., touched=n)`: no microbatch of this step used rows n and up. They keep their value,
    both moments and their count. With one global count, rarely used rows would move two to three
    times too far.
    """

    def init(params):
        leaves = jax.tree.leaves(params)
        rows = leaves[0].shape[-2] if leaves else 0
        zeros = jax.tree.map(jnp.zeros_like, params)
        return RowAdamState(jnp.zeros(rows, jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))

    def update(updates, state, params=None, *, touched, **_):
        del params
        mask = jnp.arange(state.count.shape[0]) < touched
        count = state.count + mask
        row, steps = mask[:, None], jnp.maximum(count, 1)[:, None].astype(jnp.float32)

        def moment(decay, old, new):
            return jnp.where(row, decay * old + (1 - decay) * new, old)

        mu = jax.tree.map(lambda m, g: moment(_B1, m, g), state.mu, updates)
        nu = jax.tree.map(lambda v, g: moment(_B2, v, g * g), state.nu, updates)

        def direction(m, v):
            step = m / (1 - _B1**steps) / (jnp.sqrt(v / (1 - _B2**steps)) + _EPS)
            return jnp.where(row, step, 0)

        return jax.tree.map(direction, mu, nu), RowAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def _matrices(params):
    """For Muon: the two matrix axes of every kernel (stacked kernels hold one matrix per layer)."""

    def axes(path, leaf):
        if _name(path) != "kernel":
            return None
        return optax.contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)


def _at(pattern: str):
    """A mask of the leaves whose path matches the pattern."""

    def here(path, _):
        return matches(jax.tree_util.keystr(path, simple=True, separator="/"), pattern)

    return lambda params: jax.tree_util.tree_map_with_path(here, params)


def setting_problems(stage: Mapping) -> Iterator[str]:
    """Problems with the settings that `make_optimizer` reads."""
    for name in ("learning_rate", "grad_clip"):
        if not stage[name] > 0:
            yield f"{name}: must be above 0, is {stage[name]}"
    if not all(_is_rate(pair) for pair in stage["rates"]):
        yield f"rates: must be pairs of a path pattern and a factor above 0, is {stage['rates']}"
    for name, known in _KNOWN.items():
        if stage[name] not in known:
            yield f"{name}: must be {' or '.join(known)}, is {stage[name]!r}"
    if stage["schedule"] == "cosine" and not 0 <= stage["warmup"] < stage["steps"]:
        yield f"warmup: must be below steps ({stage['steps']}), is {stage['warmup']}"


def _is_rate(pair) -> bool:
    return (
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and not pair[0].startswith("!")
        and isinstance(pair[1], int | float)
        and pair[1] > 0
    )


def make_optimizer(config) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a stage.

    Args:
      config: has optimizer ('adam' as in the paper, or 'muon': orthogonalized momentum for
        kernels, Adam for the rest), learning_rate, warmup (steps), schedule ('constant' or
        'cosine'), steps, weight_decay (on kernels other than adapters), grad_clip, and rates
        (pairs of a path pattern, see trainable.py, and a learning-rate factor).
    """
    for name, known in _KNOWN.items():
        if (value := getattr(config, name)) not in known:
            raise ValueError(f"{name} must be one of {known}, got {value!r}")
    schedule = optax.linear_schedule(0.0, config.learning_rate, max(config.warmup, 1))
    if config.schedule == "cosine":
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, config.learning_rate, config.warmup, config.steps, config.learning_rate * 0.01
        )

    def labels(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "rows" if _name(path) == "lora_b" else "plain", params
        )

    def kernels(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: _name(path) == "kernel", params)

    plain = optax.chain(
        optax.scale_by_adam(_B1, _B2, _EPS),
        optax.add_decayed_weights(config.weight_decay, kernels),
    )
    if config.optimizer == "muon":
        # consistent_rms matches the step size of Adam. The sign is flipped back to ascent because
        # scale_by_learning_rate below applies the descent sign.
        muon = optax.contrib.muon(
            1.0,
            weight_decay=config.weight_decay,
            adam_b2=0.99,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=_matrices,
        )
        plain = optax.chain(muon, optax.scale(-1.0))
    return optax.chain(
        optax.clip_by_global_norm(config.grad_clip),
        optax.partition({"rows": row_adam(), "plain": plain}, labels),
        *(optax.masked(optax.scale(factor), _at(pattern)) for pattern, factor in config.rates),
        optax.scale_by_learning_rate(schedule),
    )

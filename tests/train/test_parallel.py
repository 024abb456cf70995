"""pmap, a mesh and one device run the same step: with dropout, accumulation and wrong pairs."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slava_jax.models.grounded import GroundedConfig
from slava_jax.models.llama import LlamaConfig
from slava_jax.models.slava import Slava, SlavaConfig
from slava_jax.models.vit import VitConfig
from slava_jax.nn.adapters import AdapterCall, AdapterConfig
from slava_jax.nn.attention import HIDDEN
from slava_jax.train import objectives
from slava_jax.train.optim import make_optimizer
from slava_jax.train.parallel import Mesh, Pmap
from slava_jax.train.step import TrainState, train_step

OPTIMIZER = SimpleNamespace(
    learning_rate=1e-3, warmup=2, schedule="constant", steps=10, weight_decay=0.01, grad_clip=1.0
)
MICROBATCHES, ROWS, VOCABULARY = 2, 16, 60


def random_batch(seed, rows=ROWS):
    """A batch with everything in it: lengths that differ, pairs of weight 0, unequal halves."""
    rng = np.random.default_rng(seed)
    T, U = 14, 8
    lengths = rng.integers(9, T + 1, rows)
    position = np.arange(T)
    first = rng.integers(3, 6, rows)
    answer = rng.integers(2, U + 1, rows)
    offset = np.where(np.arange(rows) % 2 == 0, 1, -1)
    return {
        "images": rng.integers(0, 256, (rows, 1, 32, 32, 1), dtype=np.uint8),
        "tokens": rng.integers(0, VOCABULARY + 4, (rows, T), dtype=np.int32),
        "order": np.where(position < lengths[:, None], position, HIDDEN).astype(np.int32),
        "images_before": np.ones((rows, T), np.int32),
        "encode_at": np.stack([first, lengths - 1], axis=1).astype(np.int32),
        "decoder_in": rng.integers(0, VOCABULARY + 4, (rows, U), dtype=np.int32),
        "targets": rng.integers(0, VOCABULARY + 4, (rows, U), dtype=np.int32),
        "target_weights": (np.arange(U) < answer[:, None]).astype(np.float32),
        "wrong_offset": offset.astype(np.int32),
        "wrong_weight": (rng.random(rows) < 0.7).astype(np.float32),
        "target_image": np.zeros(rows, np.int32),
        "example_id": np.arange(rows, dtype=np.uint32),
    }


def tiny(decoder="transformer", **adapter):
    """The smallest assistant that has every part."""
    return SlavaConfig(
        VitConfig(32, 1, 16, 16, 1, 2, 8, 32),
        LlamaConfig(VOCABULARY, 32, 2, 4, 2, 8, 48),
        GroundedConfig(32, 1, 1, 2, 16, 64),
        AdapterConfig(r_min=2, r_max=6, dropout=0.2, **adapter),
        decoder,
    )


@functools.cache
def setup(decoder="transformer"):
    """(objective, optimizer, state, frozen) with random weights, Bs away from zero."""
    model = Slava(tiny(decoder))
    batch = jax.tree.map(lambda a: a[:2], random_batch(0))
    call = AdapterCall(jnp.int32(4), jnp.arange(2, dtype=jnp.uint32))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.jit(model.init)(keys, batch, call)
    keys = iter(jax.random.split(jax.random.key(2), 200))

    def fill(a):
        if a.dtype == jnp.int8:
            return jax.random.randint(next(keys), a.shape, -127, 128, jnp.int8)
        return a + 0.02 * jax.random.normal(next(keys), a.shape)

    variables = jax.tree.map(fill, variables)
    objective = objectives.Assistant(model, model.config.adapter)
    optimizer = make_optimizer(OPTIMIZER)
    return (
        objective,
        optimizer,
        TrainState.create(variables["params"], optimizer),
        variables["frozen"],
    )


def one_device(batches, key, decoder="transformer"):
    """Parameters and last metrics after plain jit steps on one device."""
    objective, optimizer, state, frozen = setup(decoder)
    step = jax.jit(functools.partial(train_step, objective=objective, optimizer=optimizer))
    for batch in batches:
        split = {k: a.reshape(MICROBATCHES, -1, *a.shape[1:]) for k, a in batch.items()}
        state, metrics = step(state, frozen, split, key)
    return state, metrics


def largest_difference(a, b):
    """Over all leaves of two trees."""
    return max(
        float(np.max(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64))))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("strategy", ["pmap", "mesh", "mesh with a model axis"])
def test_four_devices_equal_one(strategy):
    """To 1e-6 after three steps: losses, ranks, dropout, pairs and Adam's state all agree."""
    objective, optimizer, state, frozen = setup()
    batches, key = [random_batch(i) for i in range(3)], jax.random.key(7)
    runner = {
        "pmap": lambda: Pmap(objective, optimizer, MICROBATCHES),
        "mesh": lambda: Mesh(objective, optimizer, MICROBATCHES),
        "mesh with a model axis": lambda: Mesh(objective, optimizer, MICROBATCHES, 2),
    }[strategy]()
    placed, placed_frozen = runner.place(state, frozen)
    for batch in batches:
        placed, metrics = runner.step(placed, placed_frozen, batch, key)
    wanted, wanted_metrics = one_device(batches, key)
    assert jax.device_count() == 4
    assert largest_difference(runner.fetch(placed).params, wanted.params) < 1e-6
    assert largest_difference(metrics, wanted_metrics) < 1e-5
    assert largest_difference(wanted.params, state.params) > 1e-3  # it did move


def test_dropout_and_rank_depend_on_the_key():
    """The equality above would also hold if neither were in use."""
    batches = [random_batch(0)]
    a, _ = one_device(batches, jax.random.key(7))
    b, _ = one_device(batches, jax.random.key(8))
    assert largest_difference(a.params, b.params) > 1e-5


def test_microbatches_weigh_by_what_they_hold():
    """Without dropout, at one rank: microbatches of unequal token counts equal the whole batch."""
    _, optimizer, state, frozen = setup()
    config = tiny()
    adapter = dataclasses.replace(config.adapter, r_min=6, dropout=0.0)
    model = Slava(dataclasses.replace(config, adapter=adapter))
    objective = objectives.Assistant(model, adapter)
    batch = random_batch(3)
    step = jax.jit(functools.partial(train_step, objective=objective, optimizer=optimizer))
    results = []
    for count in (1, 2):
        split = {k: a.reshape(count, -1, *a.shape[1:]) for k, a in batch.items()}
        results.append(step(state, frozen, split, jax.random.key(0)))
    halves = batch["target_weights"].reshape(2, -1).sum(axis=1)
    assert halves[0] != halves[1]
    assert largest_difference(results[0][1], results[1][1]) < 1e-5
    assert largest_difference(results[0][0].params, results[1][0].params) < 1e-6


def test_a_batch_that_does_not_divide_is_refused():
    """The error names the array and what to change."""
    objective, optimizer, state, frozen = setup()
    runner = Pmap(objective, optimizer, 3)
    state, frozen = runner.place(state, frozen)
    with pytest.raises(ValueError, match="change batch_size or microbatches"):
        runner.step(state, frozen, random_batch(0), jax.random.key(0))

"""pmap, a mesh and one device run the same step, with dropout, accumulation and ITM pairs."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import VOCABULARY, random_batch, tiny, tiny_model

from experiments.collectives import traffic
from slava_jax.models.slava import Slava
from slava_jax.nn import vocabulary
from slava_jax.train import parallel, recipes
from slava_jax.train.optim import make_optimizer
from slava_jax.train.parallel import Mesh, Pmap
from slava_jax.train.step import TrainState, train_step

OPTIMIZER = SimpleNamespace(
    optimizer="adam",
    rates=(),
    learning_rate=1e-3,
    warmup=2,
    schedule="constant",
    steps=10,
    weight_decay=0.01,
    grad_clip=1.0,
)
MICROBATCHES = 2


@functools.cache
def setup(decoder="transformer"):
    """(objective, optimizer, state, frozen) with random weights and nonzero Bs."""
    model, variables = tiny_model(decoder)
    objective = recipes.Assistant(model)
    optimizer = make_optimizer(OPTIMIZER)
    return (
        objective,
        optimizer,
        TrainState.create(variables["params"], optimizer),
        {"frozen": variables["frozen"]},
    )


@functools.cache
def one_device_step(decoder):
    """Compiled once for all tests."""
    objective, optimizer, *_ = setup(decoder)
    return jax.jit(functools.partial(train_step, objective=objective, optimizer=optimizer))


def one_device(batches, key, decoder="transformer"):
    """Parameters and last metrics after plain jit steps on one device."""
    _, _, state, frozen = setup(decoder)
    step = one_device_step(decoder)
    for batch in batches:
        split = {k: a.reshape(MICROBATCHES, -1, *a.shape[1:]) for k, a in batch.items()}
        state, metrics = step(state, frozen, split, key)
    return state, metrics


def adapted(**changes):
    """(compiled step, state, frozen) of `setup` with other settings of the adapters."""
    _, optimizer, state, frozen = setup()
    adapter = dataclasses.replace(tiny().adapter, **changes)
    objective = recipes.Assistant(Slava(dataclasses.replace(tiny(), adapter=adapter)))
    step = jax.jit(functools.partial(train_step, objective=objective, optimizer=optimizer))
    return step, state, frozen


def largest_difference(a, b):
    """Over all leaves of two trees."""
    return max(
        float(np.max(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64))))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        ("transformer", "pmap"),
        pytest.param("transformer", "mesh", marks=pytest.mark.slow),
        pytest.param("transformer", "mesh with a model axis", marks=pytest.mark.slow),
        pytest.param("inline", "pmap", marks=pytest.mark.slow),
        pytest.param("inline", "mesh with a model axis", marks=pytest.mark.slow),
    ],
)
def test_four_devices_equal_one(kind, strategy, caplog, monkeypatch):
    """To 1e-6 after three steps: losses, ranks, dropout, pairs and Adam's state all agree.

    And only the first one compiles: the output of a step has the sharding of its input.
    """
    monkeypatch.setattr(parallel, "_BIG", 1)  # so that the tiny model is split
    objective, optimizer, state, frozen = setup(kind)
    batches, key = [random_batch(i, kind=kind) for i in range(3)], jax.random.key(7)
    runner = {
        "pmap": lambda: Pmap(objective, optimizer, MICROBATCHES),
        "mesh": lambda: Mesh(objective, optimizer, MICROBATCHES),
        "mesh with a model axis": lambda: Mesh(objective, optimizer, MICROBATCHES, 2),
    }[strategy]()
    placed, placed_frozen = runner.place(state, frozen)
    placed, metrics = runner.step(placed, placed_frozen, batches[0], key)
    with jax.log_compiles():
        for batch in batches[1:]:
            placed, metrics = runner.step(placed, placed_frozen, batch, key)
    assert "Compiling" not in caplog.text
    wanted, wanted_metrics = one_device(batches, key, kind)
    assert jax.device_count() == 4
    assert largest_difference(runner.fetch(placed).params, wanted.params) < 1e-6
    assert largest_difference(metrics, wanted_metrics) < 1e-5
    assert largest_difference(wanted.params, state.params) > 1e-3  # it did move


def test_a_model_axis_splits_outputs_and_what_reads_them(monkeypatch):
    """Pairs of layers split as in Megatron, and Adam's moments like their parameters."""
    monkeypatch.setattr(parallel, "_BIG", 1)
    objective, optimizer, state, frozen = setup()
    state, frozen = Mesh(objective, optimizer, model_axis=2).place(state, frozen)
    llama = frozen["frozen"]["language_model"]["blocks"]
    trained = state.params["language_model"]["blocks"]["attention"]
    for tree, split in (
        (llama["attention"]["q"]["kernel"], (None, None, "model")),
        (llama["attention"]["q"]["lora_a"], (None, None, None)),
        (llama["attention"]["o"]["kernel"], (None, "model", None)),
        (llama["attention"]["o"]["lora_a"], (None, "model", None)),
        (llama["down"]["kernel"], (None, "model", None)),
        (trained["q"]["lora_b"], (None, None, None, "model")),
        (trained["o"]["lora_b"], (None, None, None, None)),
    ):
        assert tuple(tree.sharding.spec) == split
    specs = {
        tuple(leaf.sharding.spec)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if "'q'" in (name := jax.tree_util.keystr(path)) and "lora_b" in name
    }
    assert specs == {(None, None, None, "model")}


@pytest.mark.slow
def test_more_devices_send_no_more_each(monkeypatch):
    """Logits are computed in parts; each part's gradient of the table is summed over devices."""
    objective, optimizer, state, frozen = setup()
    size = VOCABULARY + 4
    monkeypatch.setattr(vocabulary, "_most", lambda: 4 * size)  # four of a row's eight tokens

    def sent(devices):
        mesh = Mesh(objective, optimizer, devices=jax.devices()[:devices])
        shapes = jax.tree.map(jax.typeof, (state, frozen, random_batch(0, devices)))
        return traffic(mesh.lower(*shapes).compile().as_text()).payload_bytes

    table = 4 * size * tiny().grounded.width
    two, four = sent(2), sent(4)
    assert abs(four - two) < 2 * table < two  # beside it wrong pairs cross, of the whole batch


@pytest.mark.parametrize(
    "changes, differ",
    [
        ({"r_min": 6, "dropout": 0.2}, True),
        ({"r_min": 2, "dropout": 0.0}, True),
        ({"r_min": 6, "dropout": 0.0}, False),
    ],
    ids=["dropout", "rank", "neither"],
)
@pytest.mark.slow
def test_dropout_and_rank_depend_on_the_key(changes, differ):
    """Separately: the equality above would also hold if neither were used."""
    step, state, frozen = adapted(**changes)
    batch = {name: array[None] for name, array in random_batch(0).items()}
    one, other = (step(state, frozen, batch, jax.random.key(n))[1] for n in (7, 8))
    assert (largest_difference(one, other) > 1e-7) == differ


def test_microbatches_weigh_by_what_they_hold():
    """Without dropout, at one rank: microbatches of unequal token counts equal the whole batch."""
    step, start, frozen = adapted(r_min=6, dropout=0.0)
    batch = random_batch(4)
    halves = batch["weights"].reshape(2, -1).sum(axis=1)
    assert halves[0] != halves[1]
    results = []
    for count in (1, 2):
        split = {k: a.reshape(count, -1, *a.shape[1:]) for k, a in batch.items()}
        state = start
        for _ in range(2):  # the first warmup step has learning rate 0
            state, metrics = step(state, frozen, split, jax.random.key(0))
        results.append((state.params, metrics))
    (params, metrics), (other_params, other_metrics) = results
    assert largest_difference(metrics, other_metrics) < 1e-5
    # Where a gradient is nearly zero, Adam turns rounding errors into steps.
    assert largest_difference(params, other_params) < 5e-6
    assert largest_difference(params, start.params) > 2e-4


def test_a_batch_that_does_not_divide_is_refused():
    """The error names the array and what to change."""
    objective, optimizer, state, frozen = setup()
    runner = Pmap(objective, optimizer, 3)
    state, frozen = runner.place(state, frozen)
    with pytest.raises(ValueError, match="change batch_size or microbatches"):
        runner.step(state, frozen, random_batch(0), jax.random.key(0))


@pytest.mark.parametrize("strategy", ["pmap", "mesh"])
def test_frozen_weights_stay_where_they_are(strategy):
    """The base of a 7B model takes most of the memory, so the first device has only one copy."""
    big = {"kernel": jnp.ones((64, 64), jnp.int8)}
    runner = {"pmap": Pmap, "mesh": Mesh}[strategy](None, None)
    _, placed = runner.place({}, big)
    first = placed["kernel"].addressable_shards[0].data
    assert first.unsafe_buffer_pointer() == big["kernel"].unsafe_buffer_pointer()
    held = runner.local(placed)["kernel"].addressable_shards[0].data
    assert held.unsafe_buffer_pointer() == first.unsafe_buffer_pointer()

"""The training step: updated and unchanged parameters, sampling, memory."""

import dataclasses
import functools
from types import SimpleNamespace

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import random_batch, tiny, tiny_model

from slava_jax.models.decoder import LanguageModel
from slava_jax.models.slava import Slava
from slava_jax.models.vit import VitClassifier
from slava_jax.nn.adapters import AdapterConfig
from slava_jax.train import recipes
from slava_jax.train.optim import make_optimizer
from slava_jax.train.step import TrainState, train_step

OPTIMIZER = SimpleNamespace(
    optimizer="adam",
    rates=(),
    learning_rate=1e-2,
    warmup=0,
    schedule="constant",
    steps=10,
    weight_decay=0.0,
    grad_clip=1.0,
)


@functools.cache
def assistant():
    """(compiled step, state, frozen)."""
    model, variables = tiny_model()
    objective = recipes.Assistant(model)
    optimizer = make_optimizer(OPTIMIZER)
    step = jax.jit(functools.partial(train_step, objective=objective, optimizer=optimizer))
    state = TrainState.create(variables["params"], optimizer)
    return step, state, {"frozen": variables["frozen"]}


@functools.cache
def history():
    """States and metrics of 12 steps on one batch in two microbatches."""
    step, state, frozen = assistant()
    split = {k: a.reshape(2, -1, *a.shape[1:]) for k, a in random_batch(0, 8).items()}
    out = [(state, None)]
    for _ in range(12):
        out.append(step(out[-1][0], frozen, split, jax.random.key(3)))
    return out


def named(tree, name):
    """Leaves of a name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [leaf for path, leaf in leaves if path[-1].key == name]


def test_the_loss_of_one_batch_falls():
    """Clearly in twelve steps, and it is the sum of its two parts."""
    losses = [float(metrics["loss"]) for _, metrics in history()[1:]]
    assert losses[-1] < 0.8 * losses[0]
    last = history()[-1][1]
    assert float(last["loss"]) == pytest.approx(float(last["lm"] + last["itm"]), rel=1e-5)
    assert int(history()[-1][0].step) == 12


def test_every_trainable_leaf_moves():
    """Every parameter gets a gradient; with a zero rate at the first step, from the third."""
    before, after = history()[0][0].params, history()[-1][0].params
    still = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
        )
        if np.array_equal(a, b)
    ]
    assert not still


def test_rows_that_no_microbatch_touched_stay():
    """In value and count; the rows up to the largest rank of the step do change."""
    counts = []
    for (old, _), (new, _) in zip(history()[:-1], history()[1:], strict=True):
        rows = [s.opt_state[1].inner_states["rows"].inner_state.count for s in (old, new)]
        moved = np.asarray(rows[1] - rows[0])
        counts.append(moved)
        for a, b in zip(named(old.params, "lora_b"), named(new.params, "lora_b"), strict=True):
            same = np.all(np.asarray(a) == np.asarray(b), axis=(0, 1, 3))
            assert np.all(same[moved == 0])
    counts = np.stack(counts)
    drawn = []  # the largest rank of each step's two microbatches
    for step in range(12):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(3), step), 2)
        drawn.append(
            max(int(recipes.draw_rank(jax.random.split(k)[0], tiny().adapter)) for k in keys)
        )
    np.testing.assert_array_equal(counts.sum(axis=1), drawn)
    assert 2 <= min(drawn) < max(drawn) <= 6


def test_the_optimiser_holds_two_moments_of_what_is_trained():
    """Plus a few counters, but nothing for frozen weights."""
    _, state, frozen = assistant()
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))  # noqa: E731
    trained, held = size(state.params), size(state.opt_state)
    rows = tiny().adapter.r_max
    assert held == 2 * trained + 4 * (rows + 2)  # counts of the rows, of Adam and of the schedule
    assert size(frozen) > 0
    flat = flax.traverse_util.flatten_dict(state.params)
    assert not any(path[-1] == "lora_a" for path in flat)
    assert all(leaf.dtype == jnp.float32 for leaf in flat.values())


def test_the_plateau_scale_scales_the_update():
    """Half the rate gives half the step."""
    step, state, frozen = assistant()
    split = {k: a.reshape(2, -1, *a.shape[1:]) for k, a in random_batch(0, 8).items()}
    state = history()[3][0]
    full, _ = step(state, frozen, split, jax.random.key(3))
    half, _ = step(state.replace(lr_scale=jnp.float32(0.5)), frozen, split, jax.random.key(3))
    move = lambda new: np.asarray(new.params["answer_embedding"] - state.params["answer_embedding"])  # noqa: E731
    np.testing.assert_allclose(move(half), 0.5 * move(full), atol=1e-6)
    assert float(half.lr_scale) == 0.5 and np.abs(move(full)).max() > 1e-3


@pytest.mark.slow
def test_rank_normalisation_can_be_left_out():
    """The gradient of B is larger then; everything else is the same."""
    model, _ = tiny_model()
    _, state, frozen = assistant()
    split = {k: a[None] for k, a in random_batch(0, 8).items()}
    found = []
    for on in (True, False):
        adapter = dataclasses.replace(model.config.adapter, r_max=6, rank_normalisation=on)
        config = dataclasses.replace(model.config, adapter=adapter)
        objective = recipes.Assistant(Slava(config))
        optimizer = make_optimizer(OPTIMIZER)
        step = jax.jit(functools.partial(train_step, objective=objective, optimizer=optimizer))
        found.append(step(state, frozen, split, jax.random.key(4))[1])
    assert found[0]["loss"] == found[1]["loss"]
    assert found[0]["grad_norm"] < found[1]["grad_norm"] * (1 - 1e-5)


def test_ranks_are_uniform_over_both_ends():
    """From 4..16 as in section 4.1; without an adapter there is no rank."""
    draw = jax.vmap(lambda key: recipes.draw_rank(key, AdapterConfig()))
    ranks = np.asarray(draw(jax.random.split(jax.random.key(0), 6500)))
    counts = np.bincount(ranks, minlength=17)
    assert counts[:4].sum() == 0 and len(counts) == 17
    np.testing.assert_allclose(counts[4:], 500, atol=110)  # five deviations
    assert int(recipes.draw_rank(jax.random.key(0), None)) == 0


def test_fill_rows_of_a_vision_batch_do_not_count():
    """Loss, accuracy and gradient are those of the real rows."""
    model = VitClassifier(tiny().vit, 5)
    batch = {"images": random_batch(0, 6)["images"][:, 0], "labels": np.arange(6) % 5}
    params = jax.jit(model.init)(jax.random.key(0), batch["images"])["params"]
    objective = recipes.Vision(model, 0.1)

    @jax.jit
    def run(batch):
        totals = objective.counts(batch)
        loss = lambda p: objective.loss(p, {}, batch, totals, None, 0)  # noqa: E731
        (value, sums), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, sums["top1"], grads["head"]["kernel"]

    filled = {**batch, "row_weight": np.float32([1, 1, 1, 1, 0, 0])}
    real = {name: a[:4] for name, a in batch.items()}
    for a, b in zip(run(filled), run(real), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_language_model_learns_what_comes_next():
    """A Llama on a sentence it can learn by heart, through the same step."""
    llama = dataclasses.replace(tiny().language_model, layers=1, tie_embeddings=True)
    model = LanguageModel(llama)
    tokens = np.tile(np.arange(9, dtype=np.int32) * 5 % 23, (4, 1))
    order = np.tile(np.arange(8, dtype=np.int32), (4, 1))
    batch = {"tokens": tokens[:, :-1], "order": order, "targets": tokens[:, 1:]}
    batch["target_weights"] = np.ones((4, 8), np.float32)
    params = jax.jit(model.init)(jax.random.key(0), batch["tokens"], order)["params"]
    objective, optimizer = recipes.Language(model), make_optimizer(OPTIMIZER)
    step = jax.jit(functools.partial(train_step, objective=objective, optimizer=optimizer))
    state, losses = TrainState.create(params, optimizer), []
    for _ in range(25):
        split = {k: a[None] for k, a in batch.items()}
        state, metrics = step(state, {}, split, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(60), rel=0.2) and losses[-1] < 0.5

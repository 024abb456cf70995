"""DyA-MoQPE against its formula, one expert at a time; ranks, routing, dropout, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slava_jax.nn.adapters import AdapterCall, AdapterConfig, Linear, gates, joined, split_base
from slava_jax.nn.quantized import dequantize, quantize

B, T, D_IN, D_OUT = 3, 5, 12, 7
CONFIG = AdapterConfig(experts=4, top_k=2, r_min=2, r_max=6, alpha=3.0, dropout=0.3)


def layer(config=CONFIG):
    return Linear(D_OUT, frozen=True, quantized=True, adapter=config)


@functools.cache
def filled(config=CONFIG):
    """Variables of `layer` with a random kernel and non-zero B."""
    rng = np.random.default_rng(0)
    shape = jnp.zeros((1, 1, D_IN))
    variables = layer(config).init(jax.random.key(0), shape, AdapterCall(jnp.int32(1)))
    kernel, scale = quantize(jnp.asarray(rng.normal(size=(D_IN, D_OUT)), jnp.float32))
    noise = lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32)  # noqa: E731
    return {
        "params": jax.tree.map(noise, variables["params"]),
        "frozen": {**variables["frozen"], "kernel": kernel, "scale": scale},
    }


def x_of(seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(B, T, D_IN)), jnp.float32)


@functools.lru_cache
def compiled(config=CONFIG):
    """`layer` with `rank` and `example_id` as arguments, compiled."""

    def run(variables, x, rank, example_id=None):
        call = AdapterCall(rank, example_id)
        return layer(config).apply(variables, x, call, rngs={"dropout": jax.random.key(5)})

    return jax.jit(run)


def slow_twin(variables, x, rank, config):
    """Section 4.1 in float64, with loops over tokens and experts."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    frozen = variables["frozen"]
    w0 = np.asarray(dequantize(frozen["kernel"], frozen["scale"]), np.float64)
    a, x = np.asarray(frozen["lora_a"], np.float64), np.asarray(x, np.float64)
    y = x @ w0
    mask = np.arange(config.r_max) < rank
    for b, t in np.ndindex(x.shape[:2]):
        h = x[b, t] @ a
        logits = (h if config.router == "projected" else x[b, t]) @ params["router"]
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        kept = np.argsort(-p)[: config.top_k]
        for k in kept:
            g = p[k] / p[kept].sum()
            y[b, t] += config.alpha / rank * g * ((h * mask) @ params["lora_b"][k])
    return y


@pytest.mark.parametrize("router", ["projected", "hidden"])
@pytest.mark.parametrize("rank", [2, 5, 6])
def test_equals_the_formula(router, rank):
    """y = x W0 + alpha / b * sum over the kept experts of g_k ((h * mask) B_k)."""
    config = AdapterConfig(4, 2, 2, 6, 3.0, router=router)
    y = compiled(config)(filled(config), x_of(), jnp.int32(rank))
    np.testing.assert_allclose(y, slow_twin(filled(config), x_of(), rank, config), atol=2e-5)


def test_one_expert_is_plain_lora_fa():
    """K = 1 has neither router nor gate."""
    config = AdapterConfig(experts=1, top_k=1, r_min=2, r_max=6)
    variables = filled(config)
    assert set(variables["params"]) == {"lora_b"}
    frozen, b = variables["frozen"], variables["params"]["lora_b"][0]
    wanted = x_of() @ dequantize(frozen["kernel"], frozen["scale"])
    wanted += x_of() @ frozen["lora_a"] @ b / 6
    np.testing.assert_allclose(compiled(config)(variables, x_of(), jnp.int32(6)), wanted, atol=2e-5)


def test_plain_lora_trains_a():
    """The formula of LoRA-FA, with A among the parameters and a gradient for it."""
    config = AdapterConfig(experts=1, top_k=1, r_min=6, r_max=6, train_a=True)
    variables = filled(config)
    params, frozen = variables["params"], variables["frozen"]
    assert set(params) == {"lora_a", "lora_b"} and "lora_a" not in frozen

    def update(params):
        call = AdapterCall(jnp.int32(6))
        return layer(config).apply({"params": params, "frozen": frozen}, x_of(), call)

    base = x_of() @ dequantize(frozen["kernel"], frozen["scale"])
    wanted = lambda p: base + x_of() @ p["lora_a"] @ p["lora_b"][0] / 6  # noqa: E731
    np.testing.assert_allclose(update(params), wanted(params), atol=2e-5)
    ours, plain = (jax.grad(lambda p, f=f: jnp.sum(f(p) ** 2))(params) for f in (update, wanted))
    np.testing.assert_allclose(ours["lora_a"], plain["lora_a"], rtol=2e-4, atol=1e-4)


def test_a_fresh_adapter_changes_nothing():
    """B starts at zero: y is bitwise x W0."""
    variables = filled()
    params = {**variables["params"], "lora_b": jnp.zeros_like(variables["params"]["lora_b"])}
    y = compiled()({**variables, "params": params}, x_of(), jnp.int32(4))
    bare = Linear(D_OUT, frozen=True, quantized=True)
    kernel = {name: variables["frozen"][name] for name in ("kernel", "scale")}
    np.testing.assert_array_equal(y, jax.jit(bare.apply)({"frozen": kernel}, x_of()))


def test_rows_beyond_the_rank_get_no_gradient():
    """Exactly zero; all other rows get one."""

    @jax.jit
    def gradient(params, rank):
        y = lambda p: layer().apply({**filled(), "params": p}, x_of(), AdapterCall(rank))  # noqa: E731
        return jax.grad(lambda p: jnp.sum(y(p) ** 2))(params)["lora_b"]

    for rank in (2, 5):
        by_row = np.abs(np.asarray(gradient(filled()["params"], jnp.int32(rank)))).max(axis=(0, 2))
        assert np.all(by_row[:rank] > 0) and np.all(by_row[rank:] == 0)


def test_all_ranks_are_one_compilation():
    """The rank is a traced value."""
    run = compiled()
    run.clear_cache()
    outs = [run(filled(), x_of(), jnp.int32(rank)) for rank in range(1, 7)]
    assert run._cache_size() == 1
    assert len({float(out.sum()) for out in outs}) == 6


def test_gates_keep_top_k_and_sum_to_one():
    """The kept probabilities preserve their ratios."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4)), jnp.float32)
    kept = np.asarray(gates(logits, 2))
    np.testing.assert_allclose(kept.sum(axis=-1), 1, atol=1e-6)
    assert np.all((kept > 0).sum(axis=-1) == 2)
    top = np.sort(np.asarray(logits), axis=-1)
    ratio = np.sort(kept, axis=-1)[:, -1] / np.sort(kept, axis=-1)[:, -2]
    np.testing.assert_allclose(ratio, np.exp(top[:, -1] - top[:, -2]), rtol=1e-5)
    np.testing.assert_allclose(gates(logits, 4), jax.nn.softmax(logits), atol=1e-6)


def test_ties_keep_exactly_top_k():
    """Equal logits of all experts, or at the top-k boundary."""
    logits = jnp.asarray([[0.0, 0, 0, 0], [1, 2, 1, 1], [3, 3, 3, 1]])
    assert np.all((np.asarray(gates(logits, 2)) > 0).sum(axis=-1) == 2)


def train(variables, steps=30):
    """Params and the router's gradient norms of a regression that two experts solve better."""
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(64, 1, D_IN)), jnp.float32)
    maps = jnp.asarray(rng.normal(size=(2, D_IN, D_OUT)), jnp.float32)
    y = jnp.where(x[..., :1] > 0, x @ maps[0], x @ maps[1])
    optimizer = optax.adam(0.03)

    @jax.jit
    def step(params, state):
        def loss(params):
            out = layer().apply({**variables, "params": params}, x, AdapterCall(jnp.int32(6)))
            return jnp.mean((out - y) ** 2)

        grads = jax.grad(loss)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, jnp.linalg.norm(grads["router"])

    params, state, norms = variables["params"], optimizer.init(variables["params"]), []
    for _ in range(steps):
        params, state, norm = step(params, state)
        norms.append(float(norm))
    return params, norms


def fresh():
    """`filled` with freshly initialised B and router."""
    call = AdapterCall(jnp.int32(1))
    params = layer().init(jax.random.key(0), jnp.zeros((1, 1, D_IN)), call)["params"]
    return {**filled(), "params": params}


def test_experts_diverge_and_the_router_learns():
    """The router's gradient is zero while every B is, and non-zero from the second step."""
    params, norms = train(fresh())
    assert norms[0] == 0 and norms[5] > 1e-4
    b = np.asarray(params["lora_b"])
    for i, j in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        assert np.abs(b[i] - b[j]).max() > 0.05


def test_a_router_of_zeros_would_learn_nothing():
    """Why it is initialised with noise: equal experts with equal gates stay equal."""
    start = fresh()
    start["params"]["router"] = jnp.zeros_like(start["params"]["router"])
    params, norms = train(start)
    b = np.asarray(params["lora_b"])
    assert max(norms) < 1e-6
    np.testing.assert_allclose(b[0], b[1], atol=1e-6)
    assert np.all(b[2:] == 0)


def test_dropout_belongs_to_the_example_not_to_its_place():
    """Permuting examples with their ids permutes the outputs."""
    ids, order = jnp.asarray([7, 1, 4], jnp.uint32), np.array([2, 0, 1])
    run = functools.partial(compiled(), filled())
    y = run(x_of(), jnp.int32(6), ids)
    moved = run(x_of()[order], jnp.int32(6), ids[order])
    np.testing.assert_allclose(moved, y[order], atol=1e-5)
    assert np.abs(run(x_of(), jnp.int32(6), ids + 1) - y).max() > 0.1
    assert np.abs(run(x_of(), jnp.int32(6)) - y).max() > 0.1


def test_dropout_keeps_the_mean():
    """Averaged over many examples, the update equals that without dropout."""
    x = jnp.broadcast_to(x_of()[:1], (4000, T, D_IN))
    y = compiled()(filled(), x, jnp.int32(6), jnp.arange(4000, dtype=jnp.uint32))
    wanted = compiled()(filled(), x[:1], jnp.int32(6))
    deviation = float(y.std(axis=0).max()) / 4000**0.5
    assert deviation > 0
    np.testing.assert_allclose(y.mean(axis=0), wanted[0], atol=5 * deviation)


def test_what_is_frozen_and_what_is_trained():
    """A, the int8 kernel, its scale and bias are frozen; B and router are params."""
    full = Linear(D_OUT, True, True, True, CONFIG)
    call = AdapterCall(jnp.int32(1))
    shapes = jax.eval_shape(full.init, jax.random.key(0), jnp.zeros((1, 1, D_IN)), call)
    assert set(shapes["frozen"]) == {"kernel", "scale", "bias", "lora_a"}
    assert set(shapes["params"]) == {"lora_b", "router"}
    assert shapes["params"]["lora_b"].shape == (4, 6, D_OUT)


@pytest.mark.parametrize("router, keeps_x", [("projected", False), ("hidden", True)])
def test_the_projected_router_keeps_no_wide_activation(router, keeps_x):
    """LoRA-FA's saving: nothing D_in wide is saved for backward, unlike with the other router."""
    config = AdapterConfig(4, 2, 2, 6, router=router, dropout=0.0)
    variables = filled(config)

    def run(params, x):
        call = AdapterCall(jnp.int32(4))
        return layer(config).apply({**variables, "params": params}, x, call)

    _, pull = jax.vjp(run, variables["params"], x_of())
    wide = [leaf for leaf in jax.tree.leaves(pull) if leaf.shape == (B, T, D_IN)]
    assert bool(wide) == keeps_x


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"top_k": 1}, "top_k must be between 2 and experts"),
        ({"top_k": 5}, "top_k must be between 2 and experts"),
        ({"r_min": 0}, "1 <= r_min <= r_max"),
        ({"r_min": 17}, "1 <= r_min <= r_max"),
        ({"router": "x"}, "'projected' or 'hidden'"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"alpha": float("nan")}, "alpha must be above 0"),
        ({"dropout": 1.0}, "dropout must be 0 or more and below 1"),
        ({"dropout": -0.1}, "dropout must be 0 or more and below 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    """With the setting's name, when the configuration is created."""
    with pytest.raises(ValueError, match=message):
        AdapterConfig(**changes)


def test_the_base_and_its_adapters_come_apart_without_a_copy():
    """And can be joined again: the same arrays for any adapter."""
    frozen = {"block": {"q": dict(filled()["frozen"]), "norm": {"scale": jnp.ones(3)}}}
    base, lora_a = split_base(frozen)
    assert set(base["block"]["q"]) == {"kernel", "scale"} and "norm" in base["block"]
    assert lora_a == {"block": {"q": {"lora_a": frozen["block"]["q"]["lora_a"]}}}
    again = joined(base, lora_a)
    same = jax.tree.map(lambda x, y: x is y, again, frozen)
    assert all(jax.tree.leaves(same)) and "lora_a" not in base["block"]["q"]

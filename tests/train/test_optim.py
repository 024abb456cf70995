"""Adam per rank row, rank normalization, and the whole optimizer."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slava_jax.train.optim import make_optimizer, normalise_rank, row_adam

ROWS = 5


def gradients(steps, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"q": (2, 3, ROWS, 4), "v": (2, 3, ROWS, 6)}
    draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return [{name: draw(shape) for name, shape in shapes.items()} for _ in range(steps)]


def test_row_adam_is_adam_where_all_rows_are_touched():
    """Update by update, over enough steps for both bias corrections to matter."""
    mine, adam = row_adam(), optax.scale_by_adam(0.9, 0.999, 1e-8)
    grads = gradients(6)
    state, adam_state = mine.init(grads[0]), adam.init(grads[0])
    for g in grads:
        update, state = mine.update(g, state, touched=ROWS)
        wanted, adam_state = adam.update(g, adam_state)
        for a, b in zip(jax.tree.leaves(update), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)
    assert state.count.tolist() == [6] * ROWS


def test_an_untouched_row_keeps_value_moments_and_count():
    """Regardless of its gradient; later updates are as if the step had not happened."""
    mine = row_adam()
    a, b, c = gradients(3)
    _, first = mine.update(a, mine.init(a), touched=ROWS)
    update, second = mine.update(b, first, touched=2)
    assert second.count.tolist() == [2, 2, 1, 1, 1]
    for name in ("q", "v"):
        assert np.all(np.asarray(update[name])[..., 2:, :] == 0)
        assert np.all(np.asarray(update[name])[..., :2, :] != 0)
        for old, new in ((first.mu, second.mu), (first.nu, second.nu)):
            np.testing.assert_array_equal(old[name][..., 2:, :], new[name][..., 2:, :])
    update, _ = mine.update(c, second, touched=ROWS)
    skipped, _ = mine.update(c, first, touched=ROWS)
    np.testing.assert_array_equal(update["q"][..., 2:, :], skipped["q"][..., 2:, :])


def test_a_rare_row_takes_steps_of_adams_size():
    """Constant gradients move any row by one learning rate per update, however rare it is."""
    mine, g = row_adam(), {"b": jnp.full((1, 2, 1), 0.3)}
    state, moved = mine.init(g), np.zeros(2)
    for step in range(20):
        update, state = mine.update(g, state, touched=2 if step % 5 == 0 else 1)
        moved += np.asarray(update["b"])[0, :, 0]
    np.testing.assert_allclose(moved, [20, 4], rtol=1e-4)


def test_rank_normalisation_scales_every_b_and_nothing_else():
    """By rank / r_max."""
    grads = {"q": {"lora_b": jnp.ones(3), "router": jnp.ones(2), "bias": jnp.ones(2)}}
    out = normalise_rank(grads, jnp.int32(4), 16)["q"]
    np.testing.assert_array_equal(out["lora_b"], np.full(3, 0.25))
    np.testing.assert_array_equal(out["router"], np.ones(2))
    np.testing.assert_array_equal(out["bias"], np.ones(2))


def settings(**changes):
    given = {
        "optimizer": "adam", "rates": (), "learning_rate": 0.1, "warmup": 4,
        "schedule": "constant", "steps": 40,
        "weight_decay": 0.0, "grad_clip": 1e6,
    }  # fmt: skip
    return SimpleNamespace(**{**given, **changes})


PARAMS = {"a": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}}
PARAMS["b"] = {"lora_b": jnp.full((1, 3, 2), 2.0)}


def step_sizes(config, steps, size=1.0):
    """Largest update of each leaf at each step, under constant gradients."""
    optimizer = make_optimizer(config)
    update = jax.jit(optimizer.update)
    state, out = optimizer.init(PARAMS), []
    for _ in range(steps):
        grads = jax.tree.map(lambda p: jnp.full_like(p, size), PARAMS)
        updates, state = update(grads, state, PARAMS, touched=3)
        out.append(jax.tree.map(lambda u: float(jnp.abs(u).max()), updates))
    return out


def test_the_rate_warms_up_and_stays_or_falls():
    """Constant: rises over `warmup` steps, then flat. Cosine: falls to a hundredth at the end."""
    constant = [s["a"]["kernel"] for s in step_sizes(settings(), 8)]
    np.testing.assert_allclose(constant[:6], [0, 0.025, 0.05, 0.075, 0.1, 0.1], rtol=1e-4)
    rows = [s["b"]["lora_b"] for s in step_sizes(settings(), 8)]
    np.testing.assert_allclose(rows, constant, rtol=1e-4)
    cosine = [s["a"]["bias"] for s in step_sizes(settings(schedule="cosine"), 41)]
    assert np.argmax(cosine) == 4 and cosine[-1] == pytest.approx(1e-3, rel=1e-2)


def test_only_kernels_decay():
    """Biases and adapters are not decayed."""
    with_decay = step_sizes(settings(weight_decay=0.5), 2)[1]
    without = step_sizes(settings(), 2)[1]
    pull = jax.tree.map(lambda a, b: a - b, with_decay, without)
    assert pull["a"]["kernel"] == pytest.approx(0.025 * 0.5 * 2.0, rel=1e-4)
    assert pull["a"]["bias"] == 0 and pull["b"]["lora_b"] == 0


def test_the_vision_encoder_can_learn_more_slowly():
    """A learning-rate factor for the leaves that a path pattern matches."""
    params = {name: {"kernel": jnp.ones((2, 2))} for name in ("vit", "encoder")}
    optimizer = make_optimizer(settings(rates=(("vit/**", 0.1),)))
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = jax.jit(optimizer.update)(params, state, params, touched=0)
    np.testing.assert_allclose(
        updates["vit"]["kernel"], 0.1 * updates["encoder"]["kernel"], rtol=1e-5
    )
    assert np.abs(updates["encoder"]["kernel"]).min() > 0


def test_gradients_are_clipped_by_their_global_norm():
    """Before Adam: its second moment holds squares of the clipped gradients."""
    optimizer = make_optimizer(settings(grad_clip=1.0))
    grads = jax.tree.map(lambda p: jnp.full_like(p, 1e4), PARAMS)
    _, state = jax.jit(optimizer.update)(grads, optimizer.init(PARAMS), PARAMS, touched=3)
    rows = state[1].inner_states["rows"].inner_state
    (nu,) = jax.tree.leaves(rows.nu)
    np.testing.assert_allclose(nu, 0.001 / 12, rtol=1e-4)  # 12 entries, norm 1


def test_muon_steps_kernels_alike_in_all_directions():
    """A gradient with very unequal singular values gives a descent step with nearly equal ones."""
    rng = np.random.default_rng(0)
    u, _, v = np.linalg.svd(rng.normal(size=(8, 8)))
    gradient = u @ np.diag([100, 30, 10, 5, 3, 2, 1.5, 1]) @ v
    params = {"m": {"kernel": jnp.zeros((2, 8, 8)), "bias": jnp.zeros(8)}}
    optimizer = make_optimizer(settings(optimizer="muon", warmup=0))
    state, grads = (
        optimizer.init(params),
        {"m": {"kernel": jnp.stack([gradient] * 2), "bias": u[0]}},
    )
    for _ in range(2):
        step, state = jax.jit(optimizer.update)(grads, state, params, touched=0)
    for layer in np.asarray(step["m"]["kernel"]):
        values = np.linalg.svd(layer, compute_uv=False)
        assert values[-1] > 0.5 * values[0]
        assert np.sum(layer * gradient) < 0
    # Everything else takes Adam's step, with Nesterov's look ahead: equal sizes, near the rate.
    bias = np.abs(step["m"]["bias"])
    np.testing.assert_allclose(bias, bias[0], rtol=1e-3)
    assert 0.1 <= bias[0] < 0.13
    with pytest.raises(ValueError, match=r"one of \('adam', 'muon'\), got 'sgd'"):
        make_optimizer(settings(optimizer="sgd"))


def test_a_schedule_nobody_knows_is_refused():
    """The error names both options."""
    with pytest.raises(ValueError, match=r"\('constant', 'cosine'\), got 'linear'"):
        make_optimizer(settings(schedule="linear"))

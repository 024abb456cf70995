"""The classifier computes its last block for `<cls>` only; the reference computes every token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slava_jax.models.vit import Vit, VitConfig

SMALL = VitConfig(
    image_size=32, patch=8, width=32, layers=3, heads=4, head_width=8, mlp_width=64,
    layer_scale=True,
)  # fmt: skip


def made(config):
    """Model, random variables and two images."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    model = Vit(config)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    return model, jax.tree.map(lambda a: a + rng.normal(size=a.shape) * 0.1, variables), images


@pytest.mark.parametrize(("layers", "frozen"), [(1, 0), (3, 0), (3, 2), (3, 3)])
def test_cls_alone_is_the_cls_of_all_tokens(layers, frozen):
    """In value and in the gradient of every weight."""
    config = dataclasses.replace(SMALL, layers=layers, frozen_layers=frozen)
    model, variables, images = made(config)

    def loss(params, cls_only):
        cls = model.apply({**variables, "params": params}, images, cls_only)[:, :1]
        return jnp.sum(jnp.sin(cls)), cls

    graded = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    slow, fast = (graded(variables["params"], only) for only in (False, True))
    assert jax.eval_shape(lambda: model.apply(variables, images, True)).shape == (2, 1, 32)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), fast, slow)
    sizes = [np.abs(leaf).max() for leaf in jax.tree.leaves(fast[1])]
    assert len(sizes) >= 2 and min(sizes) > 1e-4

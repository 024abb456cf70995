"""Image tokens in a decoder's sequence: attention, trained parameters, stored arrays."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import prompt_of, random_batch, random_variables, tiny_inline, tiny_model

from slava_jax.models.connectors import Connector, ConnectorConfig
from slava_jax.models.inline import Inline, InlineConfig
from slava_jax.models.presets import variable_shapes
from slava_jax.nn.adapters import AdapterCall
from slava_jax.nn.quantized import dequantize
from slava_jax.train.recipes import model_batch
from slava_jax.train.trainable import leaf_paths

CALL = AdapterCall(jnp.int32(4))


@functools.cache
def nats():
    """Nats float32[B, U] of a batch given by its fields, compiled."""
    model, variables = tiny_model("inline")

    def run(fields):
        batch = model_batch(model, fields)
        return model.apply(variables, batch, CALL, each=True, method="outputs").nats

    return jax.jit(run)


def test_padding_and_room_for_more_images_change_nothing():
    """The same rows in a longer bucket, with an extra image that no text refers to."""
    fields = random_batch(5, 4, "inline", images=2)
    noise = np.random.default_rng(2).integers(0, 256, (4, 1, 32, 32, 1), dtype=np.uint8)
    roomy = {**fields, "images": np.concatenate([fields["images"], noise], axis=1)}
    roomy["weights"] = np.pad(fields["weights"], ((0, 0), (0, 3)))
    for name, value in (("tokens", 7), ("image_index", -1)):
        roomy[name] = np.pad(fields[name], ((0, 0), (0, 5)), constant_values=value)
    real = fields["weights"] > 0
    a, b = nats()(fields), nats()(roomy)
    np.testing.assert_allclose(b[:, :8][real], a[real], atol=2e-5)


def test_each_position_holds_its_own_image_token():
    """Changing a patch of the second image changes only that token."""
    model, variables = tiny_model("inline")
    prompt = prompt_of(random_batch(5, 4, "inline", images=2))
    embed = jax.jit(functools.partial(model.apply, method="embed"))
    before = embed(variables, prompt, CALL)
    images = prompt.images.copy()
    images[:, 1] = 255 - images[:, 1]
    moved = np.abs(embed(variables, prompt.replace(images=images), CALL) - before).max(axis=-1)
    of_second = prompt.image_index >= model.text_form(3).image_tokens
    assert np.all(moved[of_second] > 1e-4) and np.all(moved[~of_second] == 0)


def test_text_before_an_image_does_not_know_it():
    """Causal: the tokens before an image do not depend on it."""
    model, variables = tiny_model("inline")
    prompt = prompt_of(random_batch(5, 4, "inline", images=2))
    logits = jax.jit(functools.partial(model.apply, method="next_token_logits"))
    images = prompt.images.copy()
    images[:, 1] = 255 - images[:, 1]
    a, b = (logits(variables, prompt.replace(images=i), CALL) for i in (prompt.images, images))
    first = int(np.flatnonzero(prompt.image_index[0] >= model.text_form(3).image_tokens)[0])
    np.testing.assert_array_equal(a[:, :first], b[:, :first])
    assert np.all(np.abs(a - b)[:, first:8].max(axis=-1) > 1e-4)


def test_all_answers_of_a_conversation_are_learned_in_one_pass():
    """With weights on two answers, the sum equals that of two passes over one answer each."""
    fields = random_batch(5, 4, "inline")
    both = np.zeros_like(fields["weights"])
    both[:, :1], both[:, 3:4] = 1, 1
    model, variables = tiny_model("inline")

    def summed(weights):
        batch = model_batch(model, {**fields, "weights": weights})
        return model.apply(variables, batch, CALL, method="outputs").nats

    parts = [np.where(np.arange(8) == at, both, 0) for at in (0, 3)]
    assert float(summed(both)) == pytest.approx(sum(float(summed(p)) for p in parts), rel=1e-5)


@pytest.mark.parametrize("behind", [0, 1])
def test_decoding_begins_with_what_the_prompt_ends_with(behind):
    """An image may be the last thing of a prompt: its last token is no text's."""
    model, variables = tiny_model("inline")
    fields, M = random_batch(5, 2, "inline"), model.text_form(3).image_tokens
    length = 2 + M + behind
    index = np.full((2, length), -1, np.int32)
    index[:, 2 : 2 + M] = np.arange(M)
    tokens = np.where(index >= 0, 0, fields["tokens"][:, :length])
    prompt = prompt_of(fields).replace(
        tokens=tokens, image_index=index, length=np.full(2, length, np.int32)
    )
    whole = model.apply(variables, prompt, CALL, method="next_token_logits")[:, -1]
    state = model.apply(variables, prompt, 2, CALL, method="prefill")
    first, state = model.apply(variables, state.start[:, None], state, CALL, method="decode")
    np.testing.assert_allclose(first[:, 0], whole, atol=2e-5)
    longer = prompt.replace(
        tokens=np.pad(tokens, ((0, 0), (0, 1)), constant_values=7),
        image_index=np.pad(index, ((0, 0), (0, 1)), constant_values=-1),
        length=prompt.length + 1,
    )
    whole = model.apply(variables, longer, CALL, method="next_token_logits")[:, -1]
    second, _ = model.apply(variables, np.full((2, 1), 7, np.int32), state, CALL, method="decode")
    np.testing.assert_allclose(second[:, 0], whole, atol=2e-5)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_connectors_equal_their_formulas(kind):
    """LiMBeR and LLaVA v1: W x + b. LLaVA-1.5: W2 gelu(W1 x + b1) + b2, the exact GELU."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 6)).astype(np.float32)
    module = Connector(ConnectorConfig(kind), 5)
    params = jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32),
        module.init(jax.random.key(0), x, CALL)["params"],
    )
    wanted = x @ params["first"]["kernel"] + params["first"]["bias"]
    if kind == "mlp":
        cdf = 0.5 * (1 + jax.scipy.special.erf(wanted / np.sqrt(2)))
        wanted = wanted * cdf @ params["second"]["kernel"] + params["second"]["bias"]
    found = module.apply({"params": params}, x, CALL)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_dropout_of_the_connector_belongs_to_the_example():
    """Only in training, and independent of the example's place in the batch."""
    module = Connector(ConnectorConfig("linear", 0.5), 5)
    x = np.ones((2, 3, 4), np.float32)
    variables = module.init(jax.random.key(0), x, CALL)
    rngs = {"dropout": jax.random.key(1)}
    train = AdapterCall(jnp.int32(1), jnp.asarray([7, 3], jnp.uint32))
    turned = AdapterCall(jnp.int32(1), jnp.asarray([3, 7], jnp.uint32))
    a, b = (module.apply(variables, x, call, rngs=rngs) for call in (train, turned))
    np.testing.assert_array_equal(a, b[::-1])
    assert np.any(a == 0) and not np.any(module.apply(variables, x, CALL) == 0)


def test_what_is_held_follows_from_the_settings():
    """The language model is frozen if int8 or adapted, otherwise trainable."""
    config = tiny_inline()
    adapted = variable_shapes(Inline(config))
    trained = [p for p in leaf_paths(adapted["params"]) if p.startswith("language_model/")]
    assert {p.split("/")[-1] for p in trained} == {"lora_b", "router"}
    limber = variable_shapes(Inline(dataclasses.replace(config, adapter=None)))
    assert "language_model" not in limber["params"]
    free = variable_shapes(Inline(dataclasses.replace(config, adapter=None, quantized=False)))
    assert not free["frozen"]
    assert any(p.endswith("q/kernel") for p in leaf_paths(free["params"]["language_model"]))


def test_int8_equals_its_dequantised_twin():
    """Up to rounding, int8 kernels and their dequantised floats give the same logits."""
    config = tiny_inline()
    model, twin = Inline(config), Inline(dataclasses.replace(config, quantized=False))
    variables = random_variables(model)

    def floats(tree):
        out = {k: floats(v) if isinstance(v, dict) else v for k, v in tree.items()}
        if "kernel" in out and out["kernel"].dtype == jnp.int8:
            out["kernel"] = dequantize(out["kernel"], out.pop("scale"))
        return out

    prompt = prompt_of(random_batch(5, 4, "inline"))
    logits = [
        m.apply(v, prompt, CALL, method="next_token_logits")
        for m, v in (
            (model, variables),
            (twin, {**variables, "frozen": floats(variables["frozen"])}),
        )
    ]
    np.testing.assert_allclose(*logits, atol=2e-5)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"connector\.kind must be one of linear, mlp, got 'conv'"):
        ConnectorConfig("conv")
    with pytest.raises(ValueError, match=r"connector\.dropout must be 0 or more and below 1"):
        ConnectorConfig(dropout=1.0)
    with pytest.raises(ValueError, match="int8_activations needs int8 kernels"):
        InlineConfig(quantized=False, int8_activations=True)

"""Who knows of whom in the assistant: answers, images, pairs; cached decoding; both decoders."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_model import VOCABULARY, random_batch, tiny, tiny_model

from slava_jax.models.slava import Slava, SlavaConfig, exchange_target
from slava_jax.nn.adapters import AdapterCall
from slava_jax.nn.attention import HIDDEN

DECODERS = ["transformer", "llama"]
CALL = AdapterCall(jnp.int32(4))


def batch_of(rows=4):
    return random_batch(5, rows)


def two_images():
    """`batch_of` with a second image, whose token stands at position 3."""
    batch = batch_of()
    images = np.random.default_rng(8).integers(0, 256, (4, 2, 32, 32, 1), dtype=np.uint8)
    before = np.where(np.arange(14) >= 3, 2, 1) * np.ones((4, 1), np.int32)
    return {**batch, "images": images, "images_before": before.astype(np.int32)}


def steps(model, embedded, batch, call):
    """(grounded states, memory, answer logits) from embedded tokens, as `__call__` makes them."""
    image_tokens = model.see(batch["images"])
    states = model.read(embedded, batch["order"], call)
    grounded = model.ground(states, image_tokens, batch["order"], batch["images_before"])
    first, before = batch["encode_at"][:, 0], batch["images_before"]
    memory = model.memory(grounded, image_tokens, batch["tokens"], batch["order"], first, before)
    return grounded, memory, model.decode(batch["decoder_in"], memory, call)[0]


@functools.cache
def compiled(decoder):
    """`steps` from token ids, compiled; returns arrays of `batch`."""
    model, variables = tiny_model(decoder)

    def run(model, batch):
        return steps(model, model.embed(batch["tokens"]), batch, CALL)

    return jax.jit(lambda batch: model.apply(variables, batch, method=run))


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_answer_is_hidden_from_the_decoder(decoder):
    """The LM loss has exactly no gradient at the encoder's answer, and one at its question."""
    model, variables = tiny_model(decoder)
    batch = batch_of()

    @jax.jit
    def gradient(embedded):
        def loss(embedded):
            logits = model.apply(variables, embedded, batch, CALL, method=steps)[2]
            nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
            return jnp.sum(nats * batch["target_weights"])

        return jax.grad(loss)(embedded)

    embedded = model.apply(variables, batch["tokens"], method="embed")
    size = np.abs(np.asarray(gradient(embedded))).max(axis=-1)
    question = np.arange(14) <= batch["encode_at"][:, :1]
    assert np.all(size[question] > 0)
    assert np.all(size[~question] == 0)


@pytest.mark.parametrize("decoder", DECODERS)
def test_room_for_more_images_changes_nothing(decoder):
    """An example answers and matches alike in a batch of examples with more images than its own."""
    model, variables = tiny_model(decoder)
    batch = two_images()
    noise = np.random.default_rng(2).integers(0, 256, (4, 3, 32, 32, 1), dtype=np.uint8)
    roomy = {**batch, "images": np.concatenate([batch["images"], noise], axis=1)}
    target = {"target_image": np.ones(4, np.int32)}
    out, same = (
        jax.jit(lambda b: model.apply(variables, b, CALL, each=True))({**b, **target})
        for b in (batch, roomy)
    )
    for name, values in out.items():
        np.testing.assert_allclose(values, same[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("decoder", DECODERS)
def test_another_image_changes_memory_and_answer(decoder):
    """The grounded question and the image tokens, in every example."""
    batch = batch_of()
    other = {**batch, "images": 255 - batch["images"]}
    (grounded, memory, logits), changed = compiled(decoder)(batch), compiled(decoder)(other)
    assert np.all(np.abs(memory.values - changed[1].values).max(axis=(1, 2)) > 1e-3)
    assert np.all(np.abs(logits - changed[2]).max(axis=(1, 2)) > 1e-3)
    at_encode = np.abs(grounded - changed[0])[np.arange(4), batch["encode_at"][:, 0]]
    assert np.all(at_encode.max(axis=-1) > 1e-3)


def test_text_sees_only_the_images_before_it():
    """Another second image leaves what stands before the second `<image>` bit for bit."""
    batch = two_images()
    images = batch["images"].copy()
    images[:, 1] = 255 - images[:, 1]
    a, b = (compiled("transformer")({**batch, "images": i})[0] for i in (batch["images"], images))
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    assert np.all(np.abs(a - b)[:, 3:9].max(axis=-1) > 1e-5)


def test_padding_and_bucket_length_change_nothing():
    """The same rows in a longer bucket: losses' inputs agree on what is real."""
    model, variables = tiny_model()
    run = jax.jit(lambda batch: model.apply(variables, batch, CALL, each=True))
    batch = batch_of()
    longer = dict(batch)
    for name, value in (("tokens", 3), ("order", HIDDEN), ("images_before", 1)):
        longer[name] = np.pad(batch[name], ((0, 0), (0, 5)), constant_values=value)
    for name in ("decoder_in", "targets"):
        longer[name] = np.pad(batch[name], ((0, 0), (0, 4)), constant_values=7)
    a, b = run(batch), run(longer)
    np.testing.assert_allclose(b["nats"][:, :8], a["nats"], atol=2e-5)
    np.testing.assert_allclose(b["match"], a["match"], atol=1e-5)
    np.testing.assert_allclose(b["match_wrong"], a["match_wrong"], atol=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_answers_nats_are_those_of_the_logits(decoder):
    """Of each token, and their sum over those that count; logits as generation has them."""
    model, variables = tiny_model(decoder)
    batch = batch_of()
    logits = compiled(decoder)(batch)[2]
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    run = jax.jit(
        lambda batch, each: model.apply(variables, batch, CALL, each)["nats"], static_argnums=1
    )
    each = run(batch, True)
    np.testing.assert_allclose(each, nats, atol=2e-5)
    assert float(run(batch, False)) == pytest.approx(
        float((nats * batch["target_weights"]).sum()), rel=1e-5
    )


def test_wrong_pairs_are_the_same_text_with_the_partners_image():
    """What the training pass calls `match_wrong` is `match` of a batch with those images."""
    model, variables = tiny_model()
    run = jax.jit(lambda batch: model.apply(variables, batch, CALL))
    batch = batch_of()
    partner = np.arange(4) + batch["wrong_offset"]
    swapped = {**batch, "images": batch["images"][partner]}
    np.testing.assert_allclose(run(batch)["match_wrong"], run(swapped)["match"], atol=1e-5)
    assert np.abs(run(batch)["match"] - run(batch)["match_wrong"]).min() > 1e-4


def test_only_the_target_image_is_exchanged():
    """In prompts of several images, by the partner's own target."""
    tokens = jnp.arange(3 * 2 * 2 * 1.0).reshape(3, 2, 2, 1)
    batch = {"wrong_offset": jnp.asarray([2, 1, -1]), "target_image": jnp.asarray([0, 1, 1])}
    out = exchange_target(tokens, batch)
    wanted = np.asarray(tokens).copy()
    wanted[0, 0], wanted[1, 1], wanted[2, 1] = tokens[2, 1], tokens[2, 1], tokens[1, 1]
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("decoder", DECODERS)
def test_cached_decoding_equals_uncached(decoder):
    """Logits token by token; the memory is handed over once."""
    model, variables = tiny_model(decoder)
    batch = batch_of()
    _, memory, whole = compiled(decoder)(batch)

    @jax.jit
    def step(tokens, memory, cache, slot):
        return model.apply(variables, tokens, memory, CALL, cache, slot, method="decode")

    cache = model.apply(variables, 4, 8, method="empty_cache")
    for t in range(8):
        tokens = jnp.asarray(batch["decoder_in"][:, t : t + 1])
        logits, cache = step(tokens, memory if t == 0 else None, cache, jnp.int32(t))
        np.testing.assert_allclose(logits[:, 0], whole[:, t], atol=2e-5)
    assert step._cache_size() == 2


def test_the_llama_decoder_starts_as_the_language_model_it_was():
    """Behind the text's first token; whatever the memory, until its output kernel has learnt."""
    model, variables = tiny_model("llama")
    batch = batch_of()
    memory = compiled("llama")(batch)[1]
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    cross = jax.jit(model.init)(keys, batch, CALL)["params"]["llama"]["blocks"]["cross"]
    fresh = cross["o"]["kernel"]
    assert not fresh.any() and cross["v"]["kernel"].any()

    @jax.jit
    def logits(kernel):
        blocks = variables["params"]["llama"]["blocks"]
        blocks = {**blocks, "cross": {**blocks["cross"], "o": {"kernel": kernel}}}
        params = {
            **variables["params"],
            "llama": {**variables["params"]["llama"], "blocks": blocks},
        }
        changed = {**variables, "params": params}
        return model.apply(changed, batch["decoder_in"], memory, CALL, method="decode")[0]

    @jax.jit
    def language_model(tokens):
        order = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return model.apply(variables, tokens, order, CALL, method="next_token_logits")

    text = np.concatenate([batch["tokens"][:, :1], batch["decoder_in"]], axis=1)
    np.testing.assert_allclose(logits(fresh), language_model(text)[:, 1:], atol=1e-5)
    assert np.abs(logits(fresh + 0.1) - logits(fresh)).max() > 1e-2


def test_special_tokens_have_rows_of_their_own():
    """Behind the base vocabulary; the table of the others is frozen."""
    model, variables = tiny_model()
    tokens = jnp.asarray([[0, VOCABULARY - 1, VOCABULARY, VOCABULARY + 3]])
    table = variables["frozen"]["llama"]["embedding"]
    special = variables["params"]["special_embedding"]
    wanted = jnp.stack([table[0], table[-1], special[0], special[3]])
    np.testing.assert_array_equal(model.apply(variables, tokens, method="embed")[0], wanted)


@functools.cache
def shapes(**changes):
    """The variables' shapes of `tiny()` with these changes, without any array."""
    model = Slava(dataclasses.replace(tiny("llama"), **changes))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return jax.eval_shape(model.init, keys, batch_of(), CALL)


def paths(tree):
    """Paths below the collections of all leaves with their shapes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}


def test_adapting_and_quantising_move_no_path():
    """Either only adds leaves: adapters' and scales."""
    plain = paths(shapes(adapter=None, quantized=False)["frozen"])
    quantized = paths(shapes(adapter=None)["frozen"])
    adapted = paths(shapes()["frozen"])
    assert plain.items() <= quantized.items() <= adapted.items()
    assert {p.split("'")[-2] for p in quantized.keys() - plain.keys()} == {"scale"}
    assert {p.split("'")[-2] for p in adapted.keys() - quantized.keys()} == {"lora_a"}
    new = paths(shapes()["params"]).keys() - paths(shapes(adapter=None)["params"]).keys()
    assert {p.split("'")[-2] for p in new} == {"lora_b", "router"}


def test_nothing_of_llama_is_trained_but_adapters_and_cross_attention():
    """Neither kernels nor norms nor embeddings."""
    trained = paths(shapes()["params"]["llama"])
    assert all("cross" in p or "lora_b" in p or "router" in p for p in trained)
    assert len([p for p in trained if "lora_b" in p]) == 4  # q, k, v, o


def test_a_decoder_nobody_knows_is_refused():
    """By name."""
    with pytest.raises(ValueError, match="'transformer' or 'llama', got 'gpt'"):
        SlavaConfig(decoder="gpt")

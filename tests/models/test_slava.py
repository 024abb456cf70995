"""Dependencies between answers, images and pairs; cached decoding; both decoders."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_model import VOCABULARY, random_batch, tiny, tiny_model

from slava_jax.models.interface import Prompt
from slava_jax.models.presets import variable_shapes
from slava_jax.models.slava import Slava, SlavaConfig, _marked
from slava_jax.nn.adapters import AdapterCall, joined
from slava_jax.train.recipes import model_batch

DECODERS = ["transformer", "llama"]
DECODE = VOCABULARY + 2
CALL = AdapterCall(jnp.int32(4))


def batch_of(rows=4, images=1):
    return random_batch(5, rows, images=images)


def steps(model, embedded, fields, call):
    """(fused states, memory, answer logits) from embedded tokens, as in `outputs`."""
    batch = model_batch(model, fields)
    text = _marked(batch.prompt, VOCABULARY, batch.answer_start)
    image_tokens = model.encode_images(fields["images"])
    states = model.encode_text(embedded, text.inputs(call))
    fused = model.fuse(states, image_tokens, text.inputs(), text.images_before)
    memory = model.memory(fused, image_tokens, text)
    targets = batch.window(fields["tokens"])
    read = jnp.concatenate([jnp.full_like(targets[:, :1], DECODE), targets[:, :-1]], axis=1)
    states = model._answer(read, memory, call)
    return fused, memory, model.vocabulary().logits(states)


def marked_tokens(fields):
    """The text encoder's input: question, `<Encode>`, answer, `<Encode>`."""
    batch = model_batch(tiny_model()[0], fields)
    return _marked(batch.prompt, VOCABULARY, batch.answer_start).tokens


@functools.cache
def compiled(decoder):
    """`steps` from token ids, compiled; returns arrays of `batch`."""
    model, variables = tiny_model(decoder)

    def run(model, fields):
        return steps(model, model.embed(marked_tokens(fields)), fields, CALL)

    return jax.jit(lambda fields: model.apply(variables, fields, method=run))


def outputs(decoder="transformer", each=True):
    """`outputs` of a batch given by its fields, compiled."""
    model, variables = tiny_model(decoder)

    def run(fields):
        return model.apply(variables, model_batch(model, fields), CALL, each, method="outputs")

    return jax.jit(run)


def test_encode_stands_behind_question_and_answer():
    """`<Encode>` follows the question and replaces the end token of the answer."""
    prompt = Prompt(
        None, np.int32([[5, 60, 7, 8, 9, 63, 1, 1]]), np.int32([[-1, 0] + [-1] * 6]), np.int32([6])
    )
    text = _marked(prompt, 60, np.int32([3]))
    assert text.tokens[0, :7].tolist() == [5, 60, 7, 61, 8, 9, 61]
    assert text.images_before[0].tolist() == [0] + [1] * 8
    assert (text.length.tolist(), text.encode_at.tolist()) == ([7], [3])
    alone = _marked(prompt.replace(length=np.int32([3])), 60)
    assert alone.tokens[0, :4].tolist() == [5, 60, 7, 61] and alone.length.tolist() == [4]


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_answer_is_hidden_from_the_decoder(decoder):
    """The LM loss has zero gradient at the encoder's answer, and a non-zero one at its question."""
    model, variables = tiny_model(decoder)
    fields = batch_of()

    @jax.jit
    def gradient(embedded):
        def loss(embedded):
            logits = model.apply(variables, embedded, fields, CALL, method=steps)[2]
            targets = model_batch(model, fields).window(fields["tokens"])
            nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            return jnp.sum(nats * fields["weights"])

        return jax.grad(loss)(embedded)

    embedded = model.apply(variables, marked_tokens(fields), method="embed")
    size = np.abs(np.asarray(gradient(embedded))).max(axis=-1)
    question = np.arange(size.shape[1]) <= fields["answer_start"][:, None]
    assert np.all(size[question] > 0)
    assert np.all(size[~question] == 0)


@pytest.mark.parametrize("decoder", DECODERS)
def test_room_for_more_images_changes_nothing(decoder):
    """An example gives the same outputs in a batch whose other examples have more images."""
    fields = batch_of(images=2)
    noise = np.random.default_rng(2).integers(0, 256, (4, 3, 32, 32, 1), dtype=np.uint8)
    roomy = {**fields, "images": np.concatenate([fields["images"], noise], axis=1)}
    out, same = outputs(decoder)(fields), outputs(decoder)(roomy)
    for name in ("nats", "match", "match_mismatched"):
        np.testing.assert_allclose(getattr(out, name), getattr(same, name), atol=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_another_image_changes_memory_and_answer(decoder):
    """The fused question and the image tokens, in every example."""
    fields = batch_of()
    other = {**fields, "images": 255 - fields["images"]}
    (fused, memory, logits), changed = compiled(decoder)(fields), compiled(decoder)(other)
    assert np.all(np.abs(memory.values - changed[1].values).max(axis=(1, 2)) > 1e-3)
    assert np.all(np.abs(logits - changed[2]).max(axis=(1, 2)) > 1e-3)
    at_encode = np.abs(fused - changed[0])[np.arange(4), fields["answer_start"]]
    assert np.all(at_encode.max(axis=-1) > 1e-3)


def test_text_attends_only_to_the_images_before_it():
    """Changing the second image leaves everything before its `<image>` bitwise equal."""
    fields = batch_of(images=2)
    second = int(np.flatnonzero(fields["image_index"][0] == 1)[0])
    images = fields["images"].copy()
    images[:, 1] = 255 - images[:, 1]
    a, b = (compiled("transformer")({**fields, "images": i})[0] for i in (fields["images"], images))
    np.testing.assert_array_equal(a[:, :second], b[:, :second])
    assert np.all(np.abs(a - b)[:, second : second + 3].max(axis=-1) > 1e-5)


def test_padding_and_bucket_length_change_nothing():
    """The same rows in a longer bucket: outputs agree on real tokens."""
    fields = batch_of()
    longer = {**fields, "weights": np.pad(fields["weights"], ((0, 0), (0, 4)))}
    for name, value in (("tokens", 7), ("image_index", -1)):
        longer[name] = np.pad(fields[name], ((0, 0), (0, 5)), constant_values=value)
    a, b = outputs()(fields), outputs()(longer)
    real = fields["weights"] > 0
    np.testing.assert_allclose(b.nats[:, :8][real], a.nats[real], atol=2e-5)
    np.testing.assert_allclose(b.match, a.match, atol=1e-5)
    np.testing.assert_allclose(b.match_mismatched, a.match_mismatched, atol=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_answers_nats_are_those_of_the_logits(decoder):
    """Of each token, and their weighted sum; logits as in generation."""
    fields = batch_of()
    logits = compiled(decoder)(fields)[2]
    targets = model_batch(tiny_model()[0], fields).window(fields["tokens"])
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    np.testing.assert_allclose(outputs(decoder)(fields).nats, nats, atol=2e-5)
    assert float(outputs(decoder, False)(fields).nats) == pytest.approx(
        float((nats * fields["weights"]).sum()), rel=1e-5
    )


def test_wrong_pairs_are_the_same_text_with_the_partners_image():
    """`match_mismatched` is `match` of a batch with those images."""
    fields = batch_of()
    partner = np.arange(4) + fields["mismatch_offset"]
    swapped = {**fields, "images": fields["images"][partner]}
    run = outputs()
    np.testing.assert_allclose(run(fields).match_mismatched, run(swapped).match, atol=1e-5)
    assert np.abs(run(fields).match - run(fields).match_mismatched).min() > 1e-4


def test_the_llama_decoder_starts_as_the_language_model_it_was():
    """After the text's first token, for any memory, while the output kernel is zero."""
    model, variables = tiny_model("llama")
    fields = batch_of()
    memory = compiled("llama")(fields)[1]
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    init = functools.partial(model.init, method="outputs")
    params = jax.jit(init)(keys, model_batch(model, fields), CALL)["params"]
    cross = params["language_model"]["blocks"]["cross"]
    fresh = cross["o"]["kernel"]
    assert not fresh.any() and cross["v"]["kernel"].any()
    read = np.concatenate([np.full((4, 1), DECODE), fields["tokens"][:, 6:10]], axis=1)

    @jax.jit
    def logits(kernel):
        change = {"language_model": {"blocks": {"cross": {"o": {"kernel": kernel}}}}}
        changed = {**variables, "params": joined(variables["params"], change)}
        states = model.apply(changed, read, memory, CALL, method="_answer")
        return model.apply(changed, states, method=lambda m, s: m.vocabulary().logits(s))

    @jax.jit
    def language_model(tokens):
        order = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return model.apply(variables, tokens, order, CALL, method="next_token_logits")

    text = np.concatenate([fields["tokens"][:, :1], read], axis=1)
    np.testing.assert_allclose(logits(fresh), language_model(text)[:, 1:], atol=1e-5)
    assert np.abs(logits(fresh + 0.1) - logits(fresh)).max() > 1e-2


def test_special_tokens_have_rows_of_their_own():
    """After the base vocabulary; the base table is frozen."""
    model, variables = tiny_model()
    tokens = jnp.asarray([[0, VOCABULARY - 1, VOCABULARY, VOCABULARY + 3]])
    table = variables["frozen"]["language_model"]["embedding"]
    special = variables["params"]["special_embedding"]
    wanted = jnp.stack([table[0], table[-1], special[0], special[3]])
    np.testing.assert_array_equal(model.apply(variables, tokens, method="embed")[0], wanted)


@functools.cache
def shapes(**changes):
    """Shapes of the variables of `tiny()` with these changes, without allocation."""
    return variable_shapes(Slava(dataclasses.replace(tiny("llama"), **changes)))


def paths(tree):
    """Paths of all leaves, without the collection, with their shapes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}


def test_adapting_and_quantising_move_no_path():
    """Both only add leaves: those of adapters, and scales."""
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
    trained = paths(shapes()["params"]["language_model"])
    assert all("cross" in p or "lora_b" in p or "router" in p for p in trained)
    assert len([p for p in trained if "lora_b" in p]) == 4  # q, k, v, o


def test_a_decoder_nobody_knows_is_refused():
    """By name."""
    with pytest.raises(ValueError, match="'transformer' or 'llama', got 'gpt'"):
        SlavaConfig(decoder="gpt")

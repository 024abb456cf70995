"""Generation against naive re-decoding; an assistant saved, loaded and asked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_model import as_config, random_batch, random_variables, tiny, tiny_model

from slava_jax.checkpoint import CheckpointError
from slava_jax.data.tokenizer import encode_texts, special_tokens, train_tokenizer
from slava_jax.inference import assistant as assistant_module
from slava_jax.inference import decode
from slava_jax.inference.assistant import (
    Assistant,
    as_prompt,
    load_assistant,
    save_assistant,
)
from slava_jax.models.slava import Prompt, Slava
from slava_jax.nn.adapters import AdapterCall
from slava_jax.train import recipes

DECODERS = ["transformer", "llama"]
START, NEVER, LENGTH = 62, 1000, 9
RANK = jnp.int32(6)
KEY = jax.random.key(0)
SENTENCES = ("The wires lie in parallel.", "Porous sponge, 40 nm.", "What is shown in the image?")


@functools.cache
def memory_of(decoder="transformer"):
    """Of six prompts."""
    model, variables = tiny_model(decoder)
    return decode.encode(model, variables, as_prompt(random_batch(5, 6)), RANK)


def generate(decoder="transformer", memory=None, key=KEY, stop=NEVER, **sampling):
    model, variables = tiny_model(decoder)
    memory = memory_of(decoder) if memory is None else memory
    return np.asarray(
        decode.generate(
            model, variables, memory, RANK, key, start=START, stop=stop, length=LENGTH, **sampling
        )
    )


@functools.cache
def naive(decoder="transformer"):
    """Greedy answers without a cache: the whole answer is decoded anew for each token."""
    model, variables = tiny_model(decoder)
    memory = memory_of(decoder)  # not within jit, which would leave a tracer in its cache

    @jax.jit
    def logits(tokens):
        call = AdapterCall(RANK)
        return model.apply(variables, tokens, memory, call, method="decode")[0]

    tokens = np.zeros((6, LENGTH + 1), np.int32)
    tokens[:, 0] = START
    for t in range(LENGTH):
        tokens[:, t + 1] = np.argmax(logits(tokens)[:, t], axis=-1)
    return tokens[:, 1:]


@pytest.mark.parametrize("decoder", DECODERS)
def test_generation_equals_naive_decoding(decoder):
    """Token for token."""
    np.testing.assert_array_equal(generate(decoder), naive(decoder))
    assert len(np.unique(naive(decoder))) > 3


def test_answers_stop_at_eos_each_on_its_own():
    """From the first stop on all is stop; the others go on to what they would have said."""
    free = naive()
    stop = next(int(token) for token in free[:, 1:].flat if token not in free[:, 0])
    got = generate(stop=stop)
    stopped = np.cumsum(free == stop, axis=1) > 0
    assert stopped.any() and not stopped.all(axis=1).any() and not stopped.any(axis=1).all()
    np.testing.assert_array_equal(got, np.where(stopped, stop, free))


def test_a_batch_equals_its_single_examples():
    """Greedy."""
    for i in (0, 4):
        one = jax.tree.map(lambda a, i=i: a[i : i + 1], memory_of())
        np.testing.assert_array_equal(generate(memory=one), naive()[i : i + 1])


def test_a_tiny_top_p_is_greedy():
    """The most probable token is always kept."""
    np.testing.assert_array_equal(generate(temperature=1.5, top_p=1e-6), naive())


def test_sampling_depends_on_the_seed_and_not_on_the_neighbours():
    """An example's draw is its own."""
    hot = functools.partial(generate, temperature=0.5)
    a = hot()
    np.testing.assert_array_equal(a, hot())
    assert np.any(a != hot(key=jax.random.key(1)))
    order = np.array([0, 3, 2, 5, 4, 1])
    other = hot(memory=jax.tree.map(lambda a: a[order], memory_of()))
    np.testing.assert_array_equal(other[[0, 2, 4]], a[[0, 2, 4]])
    assert np.any(other[1] != a[1])


def test_draws_follow_the_distribution():
    """Frequencies are softmax(logits / temperature); top-p keeps the smallest set that has p."""
    p = np.array([0.5, 0.3, 0.15, 0.05])
    draws = 20_000
    logits = jnp.broadcast_to(jnp.log(p), (draws, 4))
    ids = jnp.arange(draws, dtype=jnp.uint32)
    choose = jax.jit(decode.choose, static_argnums=(3, 4))

    def frequencies(temperature, top_p):
        return np.bincount(choose(logits, KEY, ids, temperature, top_p), minlength=4) / draws

    np.testing.assert_allclose(frequencies(1.0, 1.0), p, atol=0.015)
    flat = p**0.5 / (p**0.5).sum()
    np.testing.assert_allclose(frequencies(2.0, 1.0), flat, atol=0.015)
    np.testing.assert_allclose(frequencies(1.0, 0.7), [0.625, 0.375, 0, 0], atol=0.015)


def test_scores_of_a_batch_are_the_losses_of_the_objective():
    """Nats and match logits of each example add up to what training minimises."""
    model, variables = tiny_model()
    batch = random_batch(5, 4)
    parts = decode.score_batch(model, variables, batch, RANK)
    objective = recipes.Assistant(model, model.config.adapter)
    totals = objective.counts(batch)
    args = (variables["params"], variables["frozen"], batch, totals, None, RANK)
    _, sums = jax.jit(objective.loss, static_argnums=4)(*args)
    nats = float(parts["nats"].sum() / parts["tokens"].sum())
    assert nats == pytest.approx(float(sums["lm"]), rel=1e-5)


def test_gate_use_counts_the_tokens_it_is_told_to():
    """Fractions of the experts add up to one, whatever stands behind `<Encode>`."""
    model, variables = tiny_model()
    batch = random_batch(5, 4)
    counted = (batch["order"] <= batch["encode_at"][:, :1]).astype(np.float32)

    def gates(tokens):  # with the answers that as_prompt takes away
        seen = (batch["images"], tokens, batch["order"], batch["images_before"])
        prompt = Prompt(*seen, batch["encode_at"][:, 0])
        return decode.gate_use(model, variables, prompt, counted, RANK) / counted.sum()

    use = gates(batch["tokens"])
    assert use.shape == (2, 4, 4)
    np.testing.assert_allclose(use.sum(axis=-1), 1, atol=1e-5)
    behind = np.arange(14) > batch["encode_at"][:, :1]
    np.testing.assert_allclose(gates(np.where(behind, 1, batch["tokens"])), use, atol=1e-6)


@functools.cache
def assistant():
    """With a tokenizer of three sentences, and random weights that listen to the memory."""
    tokenizer = train_tokenizer(SENTENCES, 300)
    model = Slava(tiny(vocabulary=len(tokenizer)))
    variables = random_variables(model)
    cross = variables["params"]["decoder"]["blocks"]["cross"]
    cross["o"]["kernel"] *= 20
    return Assistant(model, variables, tokenizer, ("Nanowires", "Powder"))


def images(count=3):
    drawn = np.random.default_rng(4).integers(0, 256, (count, 32, 32, 1), dtype=np.uint8)
    return list(drawn)


QUESTIONS = ("What is shown?", "<image>Are the wires parallel, or is it a porous sponge?", "nm?")


def test_answers_of_a_batch_are_the_answers_one_by_one():
    """Questions of different lengths: padding is not read."""
    a = assistant()
    together = a.answers(a.remember(a.prompts([[i] for i in images()], QUESTIONS)), 8)
    alone = [
        a.answers(a.remember(a.prompts([[image]], [question])), 8)[0]
        for image, question in zip(images(), QUESTIONS, strict=True)
    ]
    assert together == alone
    assert len(set(together)) > 1 and all(together)


@pytest.mark.parametrize("decoder", DECODERS)
def test_one_question_to_several_images_is_read_once(decoder):
    """The same memory as when every row has a text of its own; other questions stay apart."""
    model, variables = tiny_model(decoder)
    batch = random_batch(5, 4)
    for name in ("tokens", "order", "encode_at"):
        batch[name] = np.broadcast_to(batch[name][:1], batch[name].shape)
    prompt = as_prompt(batch)
    assert prompt.tokens.shape == prompt.order.shape == (1, 14)
    seen = (batch["images"], batch["tokens"], batch["order"], batch["images_before"])
    each = decode.encode(model, variables, Prompt(*seen, batch["encode_at"][:, 0]), RANK)
    once = decode.encode(model, variables, prompt, RANK)
    visible = np.asarray(each.order) == 0
    np.testing.assert_array_equal(once.order, each.order)
    np.testing.assert_allclose(once.values[visible], each.values[visible], atol=1e-5)
    assert as_prompt(random_batch(5, 4)).tokens.shape == (4, 14)


def test_candidate_scores_are_sums_of_log_p():
    """Over the candidate's tokens and `<EOS>`, each candidate by itself, not divided by length."""
    a = assistant()
    memory = a.remember(a.prompts([[i] for i in images()], QUESTIONS))
    candidates = ("Porous sponge", "Nanowires", "The wires lie in parallel.")
    got = a.candidate_scores(memory, candidates)
    special = special_tokens(a.tokenizer)
    call = AdapterCall(jnp.int32(a.rank))
    for m, ids in enumerate(encode_texts(a.tokenizer, candidates)):
        tokens = jnp.asarray([[special.decode, *ids]] * 3)
        logits, _ = jax.jit(functools.partial(a.model.apply, method="decode"))(
            a.variables, tokens, memory, call
        )
        p = np.exp(np.float64(logits))
        p /= p.sum(axis=-1, keepdims=True)
        wanted = [sum(np.log(row[t, k]) for t, k in enumerate([*ids, special.eos])) for row in p]
        np.testing.assert_allclose(got[:, m], wanted, rtol=1e-4)


def test_many_candidates_are_scored_a_few_at_a_time(monkeypatch):
    a = assistant()
    memory = a.remember(a.prompts([[i] for i in images()], QUESTIONS))
    candidates = [f"Class {i}" for i in range(7)]
    at_once = a.candidate_scores(memory, candidates)
    seen, scored = [], decode.answer_log_probs

    def counted(*arguments):
        seen.append(len(arguments[-1]))
        return scored(*arguments)

    monkeypatch.setattr(decode, "answer_log_probs", counted)
    width = a._candidates(tuple(candidates))[0].shape[1]
    room = 3 * len(QUESTIONS) * width * len(a.tokenizer)  # for three candidates
    monkeypatch.setattr(assistant_module, "_LOGITS_AT_ONCE", room)
    np.testing.assert_allclose(a.candidate_scores(memory, candidates), at_once, rtol=1e-5)
    assert seen == [3, 3, 1]


def test_a_saved_assistant_answers_the_same(tmp_path):
    """Asked about a file; class names come back too."""
    a = assistant()
    save_assistant(a, as_config(a.model), tmp_path)
    b = load_assistant(tmp_path)
    Image.fromarray(images()[0][..., 0]).save(tmp_path / "image.png")
    path = tmp_path / "image.png"
    answer = a.ask(path, QUESTIONS[0], "100 nm", max_tokens=8)
    assert b.ask(path, QUESTIONS[0], "100 nm", max_tokens=8) == answer
    assert answer != a.ask(path, QUESTIONS[2], "100 nm", max_tokens=8)
    assert (b.class_names, b.model) == (a.class_names, a.model)


def test_a_lower_rank_is_another_answer():
    """`rank` reaches the adapters; unless asked otherwise it is the largest."""
    a = assistant()
    batch = a.prompts([[i] for i in images()], QUESTIONS)
    full, asked, low = (np.asarray(a.remember(batch, rank).values) for rank in (None, 6, 2))
    np.testing.assert_array_equal(full, asked)
    assert np.abs(full - low).max() > 1e-3


@pytest.mark.parametrize("rank", [0, 7, -1])
def test_a_rank_that_the_adapters_lack_is_refused(rank):
    """Instead of answering as at another one."""
    a = assistant()
    memory = a.remember(a.prompts([[i] for i in images()], QUESTIONS))
    for ask in (
        lambda: a.answers(memory, 2, rank=rank),
        lambda: a.candidate_scores(memory, ["a"], rank=rank),
    ):
        with pytest.raises(ValueError, match=rf"rank {rank}: .* 1 to 6"):
            ask()


def test_a_folder_without_an_assistant_is_named_with_what_to_do(tmp_path):
    """Where it was looked for, and the command that makes one."""
    with pytest.raises(CheckpointError, match=r"nowhere.*no trained assistant.*slava_jax\.main"):
        load_assistant(tmp_path / "nowhere")

"""The engine against plain decoding, token for token."""

import dataclasses
import functools
import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import (
    KINDS,
    prompt_of,
    random_batch,
    random_variables,
    tiny_inline,
    tiny_model,
)

from slava_jax.inference import decode, steps
from slava_jax.inference.engine import Engine, EngineError, Request, Requests
from slava_jax.models.decoder import DecoderConfig
from slava_jax.models.inline import Inline, InlineConfig

LENGTH, NEVER, SEED = 20, 1000, 7


@functools.cache
def engine(kind="inline"):
    return Engine(*tiny_model(kind))


@functools.cache
def prompts(kind="inline"):
    return prompt_of(random_batch(5, 6, kind))


def one(prompt, row):
    return jax.tree.map(lambda a: np.asarray(a)[row : row + 1], prompt)


def plain(model, variables, prompt, rank, temperature=0.0, top_p=1.0, stop=NEVER, seed=SEED):
    state = decode.prefill(model, variables, prompt, jnp.int32(rank), room=LENGTH)
    answers, log_p = decode.generate(
        model, variables, state, jnp.int32(rank), jax.random.key(seed),
        stop=stop, length=LENGTH, temperature=temperature, top_p=top_p,
    )  # fmt: skip
    return np.asarray(answers), np.asarray(log_p)


def assert_same(got, wanted):
    np.testing.assert_array_equal(got[0], wanted[0])
    np.testing.assert_allclose(got[1], wanted[1], rtol=1e-3)


@pytest.mark.parametrize("rank", [6, 3])
@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (0.7, 1.0), (1.3, 0.8)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_plain_decoding(kind, temperature, top_p, rank):
    """Greedy and sampled, with another number of adapter ranks."""
    got = engine(kind).generate(
        prompts(kind), rank, LENGTH, NEVER, seed=SEED, temperature=temperature, top_p=top_p
    )
    wanted = plain(*tiny_model(kind), prompts(kind), rank, temperature, top_p)
    assert_same(got, wanted)
    assert len(np.unique(wanted[0])) > 5


def families():
    """Settings of the language model that DecoderConfig has, each with what it brings."""
    sizes = DecoderConfig(60, 32, 2, 4, 2, 8, 48)
    c = tiny_inline()
    qwen = dict(qkv_bias=True, qk_norm=True, tie_embeddings=True, rope_scaling=(8, 1, 4, 16))
    return {
        "no adapter": InlineConfig(c.vit, c.connector, sizes, None),
        "float": InlineConfig(c.vit, c.connector, sizes, None, quantized=False),
        "int8 x int8": InlineConfig(c.vit, c.connector, sizes, c.adapter, int8_activations=True),
        "one expert": tiny_inline(experts=1),
        "hidden router": tiny_inline(router="hidden"),
        "trained A": tiny_inline(train_a=True),
        "Qwen": InlineConfig(c.vit, c.connector, dataclasses.replace(sizes, **qwen)),
    }


@pytest.mark.parametrize("name", families())
def test_every_setting_of_the_decoder_is_followed(name):
    """Each is another branch of the layers. With seed 0 two logits of 'float' are a tie."""
    model = Inline(families()[name])
    variables = random_variables(model, seed=1)
    rank = 6 if model.adapter else 0
    got = Engine(model, variables).generate(prompts(), rank, LENGTH, NEVER)
    assert_same(got, plain(model, variables, prompts(), rank))


def test_answers_end_at_the_stop_and_the_engine_with_the_last():
    """The likelihood counts tokens up to the stop."""
    free, _ = plain(*tiny_model("inline"), prompts(), 6)
    stop = next(int(token) for token in free[:, 1:].flat if token not in free[:, 0])
    wanted = plain(*tiny_model("inline"), prompts(), 6, stop=stop)
    assert_same(engine().generate(prompts(), 6, LENGTH, stop), wanted)


def test_long_prompts_are_read_in_pieces(monkeypatch):
    """Of both lengths, the last one padded; equal to reading all at once."""
    rows = engine().generate(prompts(), 6, LENGTH, NEVER)
    monkeypatch.setattr(steps, "LONG", 8)
    monkeypatch.setattr(steps, "SHORT", 3)
    seen = []
    real = steps._read_piece
    monkeypatch.setattr(
        steps, "_read_piece", lambda w, x, r, s: (seen.append(x.shape[1]), real(w, x, r, s))[1]
    )
    assert_same(engine().generate(prompts(), 6, LENGTH, NEVER), rows)
    assert set(seen) == {8, 3}


def test_another_temperature_or_rank_does_not_compile_again():
    """They are traced."""

    def ask(**asked):
        rank = asked.pop("rank", 6)
        engine().generate(one(prompts(), 0), rank, 3, NEVER, **asked)

    ask()
    before = steps.step._cache_size(), steps._read_piece._cache_size()
    ask(temperature=0.3)
    ask(temperature=0.9, top_p=0.5, seed=3, rank=2)
    assert (steps.step._cache_size(), steps._read_piece._cache_size()) == before


def test_a_second_question_about_an_image_reads_only_what_differs(monkeypatch):
    """The image is neither encoded nor read again, and the answer is that of a fresh engine."""
    fresh = Engine(*tiny_model("inline"))
    first = one(prompts(), 0)
    wanted = {}
    second = first.replace(tokens=first.tokens.copy())
    second.tokens[0, int(first.length[0]) - 1] += 1
    for name, prompt in (("first", first), ("second", second)):
        wanted[name] = plain(*tiny_model("inline"), prompt, 6)
    read, real = [], steps._read_piece
    monkeypatch.setattr(
        steps, "_read_piece", lambda w, x, r, s: (read.append(int(s)), real(w, x, r, s))[1]
    )
    assert_same(fresh.generate(first, 6, LENGTH, NEVER), wanted["first"])
    held = dict(fresh._images)
    assert_same(fresh.generate(second, 6, LENGTH, NEVER), wanted["second"])
    assert_same(fresh.generate(first, 6, LENGTH, NEVER), wanted["first"])
    last = int(first.length[0]) - 1
    assert read == [0, last, last]
    assert dict(fresh._images) == held
    other = first.replace(images=first.images + 1)
    assert_same(fresh.generate(other, 6, LENGTH, NEVER), plain(*tiny_model("inline"), other, 6))
    assert read[-1] == 0
    lower = plain(*tiny_model("inline"), first, 2)
    assert_same(fresh.generate(first, 2, LENGTH, NEVER), lower)
    assert read[-1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_requests_that_join_and_leave_get_the_answers_they_get_alone(kind):
    """Six requests of different settings in two slots; each joins while another is answered."""
    heat = [0.0, 0.9, 0.0, 1.2, 0.5, 0.0]
    requests = [
        Request(one(prompts(kind), i), 6 - i % 2, NEVER, 5 + 3 * i, SEED, heat[i], 0.9)
        for i in range(6)
    ]
    server = Requests(engine(kind), slots=2, context=64)
    streams = [server.submit(request) for request in requests]
    got = [[] for _ in streams]
    for _ in range(40):
        for stream, tokens in zip(streams, got, strict=True):
            tokens.extend(itertools.islice(stream, 1))
    for i, tokens in enumerate(got):
        wanted, _ = plain(
            *tiny_model(kind), one(prompts(kind), i), requests[i].rank, heat[i],
            1.0 if heat[i] == 0 else 0.9,
        )  # fmt: skip
        assert tokens == wanted[0, : 5 + 3 * i].tolist()


def test_threads_share_the_slots():
    """Every thread gets its own answer."""
    server = Requests(engine(), slots=2, context=64)
    answers = {}

    def ask(i):
        answers[i] = list(server.submit(Request(one(prompts(), i), 6, NEVER, 8)))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted, _ = plain(*tiny_model("inline"), prompts(), 6)
    assert [answers[i] for i in range(6)] == wanted[:, :8].tolist()


def test_a_closed_answer_frees_its_slot_and_too_much_is_refused():
    """A request beyond the waiting ones, or longer than the context, is refused by an error."""
    server = Requests(engine(), slots=1, context=64, waiting=1)
    request = Request(one(prompts(), 0), 6, NEVER, 8)
    first = server.submit(request)
    next(first)
    second = server.submit(request)
    with pytest.raises(EngineError, match="1 requests are waiting"):
        server.submit(request)
    first.close()
    assert len(list(second)) == 8
    with pytest.raises(EngineError, match=r"the prompt has \d+ tokens.*more than the 64"):
        server.submit(Request(one(prompts(), 0), 6, NEVER, 60))


def test_a_request_that_fails_is_told_so_and_the_others_are_answered():
    """A prompt with images of another size cannot be read."""
    server = Requests(engine(), slots=2, context=64)
    good = one(prompts(), 0)
    first = server.submit(Request(good, 6, NEVER, 8))
    bad = server.submit(Request(good.replace(images=good.images[:, :, :8]), 6, NEVER, 8))
    assert len(list(first)) == 8
    with pytest.raises(Exception, match="needs images of"):
        next(bad)
    assert len(list(server.submit(Request(good, 6, NEVER, 8)))) == 8

"""Generation against naive re-decoding; saving, loading and asking an assistant."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_model import (
    KINDS,
    VOCABULARY,
    as_config,
    prompt_of,
    random_batch,
    random_variables,
    tiny,
    tiny_inline,
    tiny_model,
)

from slava_jax.checkpoint import CheckpointError
from slava_jax.data.chat import encode_answers
from slava_jax.data.collate import prompt_part
from slava_jax.data.tokenizer import train_tokenizer
from slava_jax.inference import decode
from slava_jax.inference.assistant import Assistant, load_assistant, save_assistant
from slava_jax.models.inline import Inline
from slava_jax.models.interface import Batch, Prompt, State
from slava_jax.models.slava import Slava
from slava_jax.nn.adapters import AdapterCall
from slava_jax.train import recipes

NEVER, LENGTH = 1000, 9
RANK = jnp.int32(6)
KEY = jax.random.key(0)
SENTENCES = ("The wires lie in parallel.", "Porous sponge, 40 nm.", "What is shown in the image?")


@functools.cache
def state_of(kind="transformer", room=LENGTH):
    """The state of six prompts."""
    model, variables = tiny_model(kind)
    prompt = prompt_of(random_batch(5, 6, kind))
    return decode.prefill(model, variables, prompt, RANK, room=room)


def generate(kind="transformer", state=None, key=KEY, stop=NEVER, **sampling):
    model, variables = tiny_model(kind)
    state = state_of(kind) if state is None else state
    sampling = {"stop": stop, "length": LENGTH, **sampling}
    return np.asarray(decode.generate(model, variables, state, RANK, key, **sampling)[0])


def part(state, rows):
    """Some rows of a state. The cache has a leading layer axis, the slot has no rows."""
    cache = jax.tree.map(lambda a: a[:, rows], state.cache)
    return State(state.start[rows], state.position[rows], state.order[rows], state.slot, cache)


@functools.cache
def uncached(kind="transformer"):
    """Log p [6, 9, V] of every token from the training pass, given the answers so far."""
    model, variables = tiny_model(kind)
    fields = random_batch(5, 6, kind)
    prompt = prompt_of(fields)
    room = prompt.tokens.shape[1] + LENGTH + 1
    size = VOCABULARY + (0 if kind == "inline" else 4)

    @jax.jit
    def log_p(answers, count):
        """Log p of each token at position `count` of the answers int32[6, 9]."""

        def nats(candidate):
            said = answers.at[:, count].set(candidate)
            position = jnp.arange(room)
            place = position - prompt.length[:, None]
            inside = (place >= 0) & (place < LENGTH)
            old = jnp.pad(prompt.tokens, ((0, 0), (0, LENGTH + 1)))
            new = jnp.take_along_axis(said, jnp.clip(place, 0, LENGTH - 1), axis=1)
            index = jnp.pad(prompt.image_index, ((0, 0), (0, LENGTH + 1)), constant_values=-1)
            text = Prompt(prompt.images, jnp.where(inside, new, old), index, prompt.length + LENGTH)
            batch = Batch(text, prompt.length, jnp.ones((6, LENGTH)))
            out = model.apply(variables, batch, AdapterCall(RANK), True, method="outputs")
            return out.nats[:, count]

        return -jax.lax.map(nats, jnp.arange(size)).T

    return log_p


@functools.cache
def naive(kind="transformer"):
    """Greedy answers without a cache: the training pass scores every token at every position."""
    answers = jnp.zeros((6, LENGTH), jnp.int32)
    for count in range(LENGTH):
        answers = answers.at[:, count].set(uncached(kind)(answers, count).argmax(axis=1))
    return np.asarray(answers)


@pytest.mark.parametrize("kind", KINDS)
def test_generation_equals_naive_decoding(kind):
    """Token for token."""
    np.testing.assert_array_equal(generate(kind), naive(kind))
    assert len(np.unique(naive(kind))) > 3


def test_answers_stop_at_eos_each_on_its_own():
    """All tokens from the first stop on are stop; the other rows are unaffected."""
    free = naive()
    stop = next(int(token) for token in free[:, 1:].flat if token not in free[:, 0])
    got = generate(stop=stop)
    stopped = np.cumsum(free == stop, axis=1) > 0
    assert stopped.any() and not stopped.all(axis=1).any() and not stopped.any(axis=1).all()
    np.testing.assert_array_equal(got, np.where(stopped, stop, free))


@pytest.mark.parametrize("stop", [NEVER, None])
def test_the_likelihood_of_an_answer_is_that_of_its_tokens_up_to_the_stop(stop):
    """Beside the scores of the same answers as candidates; unchanged by the temperature."""
    model, variables = tiny_model("transformer")
    free = naive()
    if stop is None:
        stop = next(int(token) for token in free[:, 1:].flat if token not in free[:, 0])
    call = (model, variables, state_of(), RANK)
    answers, log_p = decode.generate(*call, KEY, stop=stop, length=LENGTH)
    stops = np.asarray(answers) == stop
    # Everything behind the first stop is not counted.
    behind = np.cumsum(stops, axis=1) - stops > 0
    wanted = decode.answer_log_probs(*call, answers, jnp.asarray(~behind, jnp.float32))
    np.testing.assert_allclose(log_p, np.diag(wanted), rtol=1e-4)
    sampled, log_p = decode.generate(
        *call, KEY, stop=stop, length=LENGTH, temperature=1.5, top_p=1e-6
    )
    np.testing.assert_array_equal(sampled, answers)
    np.testing.assert_allclose(log_p, np.diag(wanted), rtol=1e-4)


@pytest.mark.parametrize("kind", ["transformer", "inline"])
def test_a_batch_equals_its_single_examples(kind):
    """Greedy."""
    for i in (0, 4):
        one = part(state_of(kind), slice(i, i + 1))
        np.testing.assert_array_equal(generate(kind, one), naive(kind)[i : i + 1])


def test_a_tiny_top_p_is_greedy():
    """The most likely token is always kept."""
    np.testing.assert_array_equal(generate(temperature=1.5, top_p=1e-6), naive())


def test_sampling_depends_on_the_seed_and_not_on_the_neighbours():
    """Each example has its own random draws."""
    hot = functools.partial(generate, temperature=0.5)
    a = hot()
    np.testing.assert_array_equal(a, hot())
    assert np.any(a != hot(key=jax.random.key(1)))
    order = np.array([0, 3, 2, 5, 4, 1])
    other = hot(state=part(state_of(), order))
    np.testing.assert_array_equal(other[[0, 2, 4]], a[[0, 2, 4]])
    assert np.any(other[1] != a[1])


def test_draws_follow_the_distribution():
    """Frequencies match softmax(logits / temperature); top-p keeps the smallest set of mass p."""
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


@pytest.mark.parametrize("kind", ["transformer", "inline"])
def test_scores_of_a_batch_are_the_losses_of_the_objective(kind):
    """Nats and match logits per example add up to the training loss."""
    model, variables = tiny_model(kind)
    fields = random_batch(5, 4, kind)
    parts = decode.score_batch(model, variables, recipes.model_batch(model, fields), RANK)
    objective = recipes.Assistant(model)
    held = {"frozen": variables["frozen"]}
    args = (variables["params"], held, fields, objective.counts(fields), None, RANK)
    _, sums = jax.jit(objective.loss, static_argnums=4)(*args)
    nats = float(parts["nats"].sum() / parts["tokens"].sum())
    assert nats == pytest.approx(float(sums["lm"]), rel=1e-5)
    assert ("match" in parts) == ("itm" in sums) == model.matches


@pytest.mark.parametrize("kind", ["transformer", "inline"])
def test_gate_use_counts_the_tokens_of_prompts(kind):
    """The experts' shares add up to one, whatever the padding."""
    model, variables = tiny_model(kind)
    prompt = prompt_of(random_batch(5, 4, kind))

    def gates(tokens):
        use, count = decode.gate_use(
            model, variables, prompt.replace(tokens=tokens), np.ones(4, np.float32), RANK
        )
        assert count == (prompt.length - 1).sum()
        return use / count

    use = gates(prompt.tokens)
    assert use.shape == (2, 4, 4)
    np.testing.assert_allclose(use.sum(axis=-1), 1, atol=1e-5)
    behind = np.arange(prompt.tokens.shape[1]) >= prompt.length[:, None]
    np.testing.assert_allclose(gates(np.where(behind, 1, prompt.tokens)), use, atol=1e-6)


@functools.cache
def assistant(kind="transformer"):
    """Tokenizer trained on three sentences, random weights that attend to the image."""
    tokenizer = train_tokenizer(SENTENCES, 300)
    if kind == "inline":
        model = Inline(tiny_inline(vocabulary=len(tokenizer)))
        return Assistant(model, random_variables(model), tokenizer, ("Nanowires", "Powder"))
    model = Slava(tiny(kind, len(tokenizer)))
    variables = random_variables(model)
    cross = variables["params"]["decoder"]["blocks"]["cross"]
    cross["o"]["kernel"] *= 20
    return Assistant(model, variables, tokenizer, ("Nanowires", "Powder"))


def images(count=3):
    drawn = np.random.default_rng(4).integers(0, 256, (count, 32, 32, 1), dtype=np.uint8)
    return list(drawn)


QUESTIONS = ("What is shown?", "<image>Are the wires parallel, or is it a porous sponge?", "nm?")
ASSISTANTS = ["transformer", "inline"]


@pytest.mark.parametrize("kind", ASSISTANTS)
def test_answers_of_a_batch_are_the_answers_one_by_one(kind):
    """Questions of different lengths: padding is not read."""
    a = assistant(kind)
    together = a.answers(a.prompts([[i] for i in images()], QUESTIONS), 8)
    alone = [
        a.answers(a.prompts([[image]], [question]), 8)[0]
        for image, question in zip(images(), QUESTIONS, strict=True)
    ]
    assert together == alone
    assert len(set(together)) > 1 and all(together)


@pytest.mark.parametrize("kind", KINDS)
def test_one_question_to_several_images_is_read_once(kind):
    """The same answers as with one text per row; different questions are not merged."""
    model, variables = tiny_model(kind)
    fields = random_batch(5, 4, kind)
    for name in ("tokens", "image_index", "answer_start"):
        fields[name] = np.broadcast_to(fields[name][:1], fields[name].shape)
    once = prompt_part(fields)
    assert once["tokens"].shape[0] == len(once["length"]) == 1
    state = decode.prefill(model, variables, Prompt(fields["images"], **once), RANK, room=LENGTH)
    each = decode.prefill(model, variables, prompt_of(fields), RANK, room=LENGTH)
    np.testing.assert_array_equal(generate(kind, state), generate(kind, each))
    assert len(prompt_part(random_batch(5, 4, kind))["tokens"]) == 4


@pytest.mark.parametrize("kind", ASSISTANTS)
def test_candidate_scores_are_sums_of_log_p(kind):
    """Over the candidate's tokens and its end, without length normalisation."""
    a = assistant(kind)
    batch = a.prompts([[i] for i in images()], QUESTIONS)
    candidates = ("Porous sponge", "Nanowires", "The wires lie in parallel.")
    got = a.candidate_scores(batch, candidates)
    call = AdapterCall(jnp.int32(a.rank))
    decode_next = jax.jit(functools.partial(a.model.apply, method="decode"))
    for m, ids in enumerate(encode_answers(candidates, a.tokenizer, a.form)):
        state = decode.prefill(a.model, a.variables, a.prompt(batch), a.rank, room=12)
        wanted, token = np.zeros(3), state.start
        for expected in ids:
            logits, state = decode_next(a.variables, token[:, None], state, call)
            wanted += np.asarray(jax.nn.log_softmax(logits))[:, 0, expected]
            token = jnp.full(3, expected)
        np.testing.assert_allclose(got[:, m], wanted, rtol=1e-4)
        assert ids[-1] == a.form.end_id


@pytest.mark.parametrize("kind", ASSISTANTS)
def test_a_saved_assistant_answers_the_same(kind, tmp_path):
    """About a file; class names are restored, too."""
    a = assistant(kind)
    save_assistant(a, as_config(a.model), tmp_path)
    b = load_assistant(tmp_path)
    Image.fromarray(images()[0][..., 0]).save(tmp_path / "image.png")
    path = tmp_path / "image.png"
    answer = a.ask(path, QUESTIONS[0], 100.0, max_tokens=8)
    assert b.ask(path, QUESTIONS[0], 100.0, max_tokens=8) == answer
    assert any(answer != a.ask(path, other, 100.0, max_tokens=8) for other in QUESTIONS[1:])
    assert (b.class_names, b.model) == (a.class_names, a.model)


@pytest.mark.parametrize("kind", ASSISTANTS)
def test_a_lower_rank_is_another_answer(kind):
    """`rank` reaches the adapters; the default is the largest."""
    a = assistant(kind)
    batch = a.prompts([[i] for i in images()], QUESTIONS)
    full, asked, low = (a.candidate_scores(batch, ["Powder"], rank) for rank in (None, 6, 2))
    np.testing.assert_array_equal(full, asked)
    assert np.abs(full - low).max() > 1e-3


@pytest.mark.parametrize("rank", [0, 7, -1])
def test_a_rank_that_the_adapters_lack_is_refused(rank):
    """Instead of silently using another rank."""
    a = assistant()
    batch = a.prompts([[i] for i in images()], QUESTIONS)
    for ask in (
        lambda: a.answers(batch, 2, rank=rank),
        lambda: a.candidate_scores(batch, ["a"], rank=rank),
    ):
        with pytest.raises(ValueError, match=rf"rank {rank}: .* 1 to 6"):
            ask()


def test_a_folder_without_an_assistant_is_named_with_what_to_do(tmp_path):
    """The error names the path and the command that trains one."""
    with pytest.raises(CheckpointError, match=r"nowhere.*no trained assistant.*slava train"):
        load_assistant(tmp_path / "nowhere")

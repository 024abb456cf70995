"""Generation and scoring: prompts to states, states to answers, one token at a time.

All functions are compiled once per model and shape, and depend only on models/interface.py.
`variables` are the collections `params` and `frozen` of a model. Axis letters: see
nn/attention.py; `U` answer tokens.
"""

import functools

import jax
import jax.numpy as jnp

from slava_jax.models.interface import Batch, Prompt, State, VisionLanguageModel
from slava_jax.nn.adapters import AdapterCall


def choose(logits, key, example_id, temperature: float, top_p: float):
    """Next tokens int32[B] from logits float32[B, V].

    Greedy at temperature 0, otherwise sampled from the smallest set of tokens whose probabilities
    sum to `top_p`. Each example has its own key, so its answer does not depend on the batch.
    """
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / temperature
    if top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        before = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1) - jax.nn.softmax(ordered)
        kept = jnp.where(before < top_p, ordered, jnp.inf)
        logits = jnp.where(logits >= kept.min(axis=-1, keepdims=True), logits, -jnp.inf)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(example_id)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("model", "room"))
def prefill(model: VisionLanguageModel, variables, prompt: Prompt, rank, *, room: int) -> State:
    """Reads a batch of prompts at adapter rank int32[]; the state has room for `room` tokens."""
    return model.apply(variables, prompt, room, AdapterCall(rank), method="prefill")


@functools.partial(jax.jit, static_argnames=("model", "stop", "length", "temperature", "top_p"))
def generate(
    model: VisionLanguageModel,
    variables,
    state: State,
    rank,
    key,
    *,
    stop: int,
    length: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
):
    """Answers of a batch.

    Args:
      state: from `prefill`, with room for `length` tokens. rank: int32[]. key: used when
        temperature > 0.
      stop: the id that ends an answer. length: maximum tokens of an answer, U.

    Returns:
      (answers, log_p): int32[B, U], all tokens from the first `stop` on are `stop`; float32[B], the
      log-likelihood of each answer up to its first `stop`, at temperature 1.
    """
    call = AdapterCall(rank)
    batch = state.start.shape[0]
    example_id = jnp.arange(batch, dtype=jnp.uint32)

    def more(carry):
        count, token, done, state, answers, log_p = carry
        logits, state = model.apply(variables, token[:, None], state, call, method="decode")
        own = jax.random.fold_in(key, count)
        token = choose(logits[:, 0], own, example_id, temperature, top_p)
        token = jnp.where(done, stop, token)
        each = jax.nn.log_softmax(logits[:, 0])
        log_p += jnp.where(done, 0, jnp.take_along_axis(each, token[:, None], axis=-1)[:, 0])
        answers = answers.at[:, count].set(token)
        return count + 1, token, done | (token == stop), state, answers, log_p

    def running(carry):
        return (carry[0] < length) & ~jnp.all(carry[2])

    answers = jnp.full((batch, length), stop, jnp.int32)
    begin = (
        jnp.int32(0), state.start, jnp.zeros(batch, bool), state, answers, jnp.zeros(batch)
    )  # fmt: skip
    return jax.lax.while_loop(running, more, begin)[-2:]


@functools.partial(jax.jit, static_argnames=("model",))
def answer_log_probs(model: VisionLanguageModel, variables, state: State, rank, answers, weights):
    """Sum of log p over each candidate answer.

    Args:
      state: of B prompts, with room for U tokens. answers int32[M, U]: M candidates with their end
        token, the same for every prompt. weights float32[M, U]: 1 on their tokens, 0 on padding.

    Returns:
      float32[B, M]; no length normalisation.
    """
    call = AdapterCall(rank)

    def one(candidate):
        tokens, counted = candidate
        rows = jnp.broadcast_to(tokens, (state.start.shape[0], len(tokens)))
        read = jnp.concatenate([state.start[:, None], rows[:, :-1]], axis=1)
        logits, _ = model.apply(variables, read, state, call, method="decode")
        log_p = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_p, rows[..., None], axis=-1)[..., 0]
        return jnp.sum(chosen * counted, axis=-1)

    # One at a time: all at once would need a copy of the cache for each.
    return jax.lax.map(one, (answers, weights)).T


@functools.partial(jax.jit, static_argnames=("model",))
def score_batch(model: VisionLanguageModel, variables, batch: Batch, rank):
    """The loss terms of each example of a batch.

    Returns:
      nats float32[B] (summed over the answer), tokens float32[B]; and for a model with matching,
      the logits match and match_mismatched float32[B] (the latter for the mismatched images).
    """
    out = model.apply(variables, batch, AdapterCall(rank), each=True, method="outputs")
    scores = {
        "nats": jnp.sum(out.nats * batch.weights, axis=-1),
        "tokens": jnp.sum(batch.weights, axis=-1),
    }
    if out.match is not None:
        scores.update(match=out.match, match_mismatched=out.match_mismatched)
    return scores


@functools.partial(jax.jit, static_argnames=("model",))
def gate_use(model: VisionLanguageModel, variables, prompt: Prompt, rows, rank):
    """Gates of each expert, summed over tokens, float32[layers, 4, K]: q, k, v, o projections.

    `rows` float32[B] or `[1]`: weight of each prompt. Its last token is not counted, because some
    models read it only when decoding starts.

    Returns:
      (the sums, the number of tokens summed over).
    """
    _, sown = model.apply(
        variables, prompt, 0, AdapterCall(rank), method="prefill", mutable=["intermediates"]
    )
    attention = sown["intermediates"]["language_model"]["blocks"]["attention"]
    gates = jnp.stack([attention[name]["gates"][0] for name in "qkvo"], axis=1)
    counted = (jnp.arange(gates.shape[3]) < prompt.length[:, None] - 1) * rows[:, None]
    return jnp.einsum("lpbtk,bt->lpk", gates, counted), counted.sum()

"""Generation: prompt to memory, memory to answer, one token at a time with a KV cache.

All functions are compiled once per model and shape. `variables` are the collections `params` and
`frozen` of a `Slava`. Axis letters: see nn/attention.py; `U` answer tokens.
"""

import functools

import jax
import jax.numpy as jnp

from slava_jax.models.slava import Memory, Prompt, Slava
from slava_jax.nn.adapters import AdapterCall


def choose(logits, key, example_id, temperature: float, top_p: float):
    """Next tokens int32[B] from logits float32[B, V].

    Greedy at temperature 0, else sampled from the smallest set of tokens whose probabilities sum
    to `top_p`; each example by a key of its own, so that its answer does not depend on the batch.
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


@functools.partial(jax.jit, static_argnames=("model",))
def encode(model: Slava, variables, prompt: Prompt, rank) -> Memory:
    """The decoder's memory of a batch of prompts, at adapter rank int32[]."""
    return model.apply(variables, prompt, AdapterCall(rank), method="encode")


@functools.partial(
    jax.jit, static_argnames=("model", "start", "stop", "length", "temperature", "top_p")
)
def generate(
    model: Slava,
    variables,
    memory: Memory,
    rank,
    key,
    *,
    start: int,
    stop: int,
    length: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
):
    """Answers of a batch.

    Args:
      memory: from `encode`. rank: int32[]. key: used when temperature > 0.
      start, stop: ids of `<Decode>` and `<EOS>`. length: most tokens of an answer, U.

    Returns:
      int32[B, U]; from the first `stop` on, all are `stop`.
    """
    call = AdapterCall(rank)
    batch = memory.values.shape[0]
    example_id = jnp.arange(batch, dtype=jnp.uint32)

    def step(tokens, memory, cache, slot):
        logits, cache = model.apply(
            variables, tokens[:, None], memory, call, cache, slot, method="decode"
        )
        chosen = choose(logits[:, 0], jax.random.fold_in(key, slot), example_id, temperature, top_p)
        return chosen, cache

    cache = model.apply(variables, batch, length, method="empty_cache")
    first = jnp.full((batch,), start, jnp.int32)
    # The first step reads the memory and leaves its keys and values in the cache.
    token, cache = step(first, memory, cache, jnp.int32(0))
    answers = jnp.full((batch, length), stop, jnp.int32).at[:, 0].set(token)

    def running(carry):
        slot, _, _, _, answers = carry
        return (slot < length) & jnp.any(answers[:, slot - 1] != stop)

    def more(carry):
        slot, token, done, cache, answers = carry
        done = done | (token == stop)
        token, cache = step(token, None, cache, slot)
        token = jnp.where(done, stop, token)
        return slot + 1, token, done, cache, answers.at[:, slot].set(token)

    start_state = (jnp.int32(1), token, jnp.zeros(batch, bool), cache, answers)
    return jax.lax.while_loop(running, more, start_state)[-1]


@functools.partial(jax.jit, static_argnames=("model",))
def answer_log_probs(model: Slava, variables, memory: Memory, rank, decoder_in, targets, weights):
    """Sum of log p over each candidate answer.

    Args:
      memory: of B prompts. decoder_in, targets int32[M, U], weights float32[M, U]: M candidates,
        the same for every prompt (`<Decode>` answer; answer `<EOS>`; 1 on real targets).

    Returns:
      float32[B, M]; no length normalisation.
    """
    B, M = memory.values.shape[0], decoder_in.shape[0]
    repeated = jax.tree.map(lambda a: jnp.repeat(a, M, axis=0), memory)
    tokens = jnp.tile(decoder_in, (B, 1))
    logits, _ = model.apply(variables, tokens, repeated, AdapterCall(rank), method="decode")
    log_p = jax.nn.log_softmax(logits).reshape(B, M, *logits.shape[1:])
    chosen = jnp.take_along_axis(log_p, targets[None, :, :, None], axis=-1)[..., 0]
    return jnp.sum(chosen * weights, axis=-1)


@functools.partial(jax.jit, static_argnames=("model",))
def score_batch(model: Slava, variables, batch: dict, rank):
    """The losses' parts for each example of an assistant batch.

    Returns:
      nats float32[B] (summed over the answer), tokens float32[B], match and match_wrong
      float32[B] (logits).
    """
    out = model.apply(variables, batch, AdapterCall(rank), each=True)
    weights = batch["target_weights"]
    return {
        "nats": jnp.sum(out["nats"] * weights, axis=-1),
        "tokens": jnp.sum(weights, axis=-1),
        "match": out["match"],
        "match_wrong": out["match_wrong"],
    }


@functools.partial(jax.jit, static_argnames=("model",))
def gate_use(model: Slava, variables, prompt: Prompt, counted, rank):
    """Gates of each expert, summed over tokens, float32[layers, 4, K]: q, k, v, o projections.

    `counted` float32 of the prompt's `[B, T]` or `[1, T]`: how often each token counts.
    """
    _, sown = model.apply(
        variables, prompt, AdapterCall(rank), method="encode", mutable=["intermediates"]
    )
    attention = sown["intermediates"]["llama"]["blocks"]["attention"]
    gates = jnp.stack([attention[name]["gates"][0] for name in "qkvo"], axis=1)
    return jnp.einsum("lpbtk,bt->lpk", gates, counted)

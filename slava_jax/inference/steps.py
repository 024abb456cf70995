"""Decoding as pure functions of one layer's weights after the other (models/layers.py).

`decode.py` does the same through models/interface.py alone: it is the reference, and slower. Here
`read` reads embeddings, in pieces of few lengths, so that few programs are compiled, and `step`
chooses the next token of every row and reads it. Rows are independent of each other: each has its
own position, adapter rank, temperature and random draws, all traced.
Axis letters: see nn/attention.py; `S` columns of the cache.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from slava_jax.models.interface import Opening, VisionLanguageModel
from slava_jax.models.layers import Layer, LayerCache, apply_layer, empty_cache, remember
from slava_jax.nn.adapters import AdapterCall
from slava_jax.nn.attention import rms_norm
from slava_jax.nn.rows import Kernel, kernel_rows, rows_matmul

LONG, SHORT = 256, 32  # lengths of the pieces that are read


@flax.struct.dataclass
class Weights:
    """The decoder of answers: its layers, last norm and head (logits of base and added tokens)."""

    layers: tuple[Layer, ...]
    norm: jax.Array
    head: tuple[Kernel, ...]
    eps: float = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Sampling:
    """How each row chooses its tokens.

    Attributes:
      key: typed keys [B]; example_id: uint32[B]: with `Rows.count` they seed a draw.
      temperature: float32[B], 0 for the most likely token. top_p: float32[B].
    """

    key: jax.Array
    example_id: jax.Array
    temperature: jax.Array
    top_p: jax.Array


@flax.struct.dataclass
class Rows:
    """Texts being written, one a row.

    Attributes:
      states: float[B, D], the decoder's output for the last token, which predicts the next.
      position: int32[B], of the next token; count: int32[B], tokens chosen so far.
      rank: int32[B], the adapters'.
      shown: bool[B, 1 + M], see layers.apply_layer, or `None`.
    """

    states: jax.Array
    position: jax.Array
    count: jax.Array
    rank: jax.Array
    sampling: Sampling
    cache: tuple[LayerCache, ...]
    shown: jax.Array | None


def lay_out(model: VisionLanguageModel, variables) -> Weights:
    """The weights for decoding; kernels are copied, so this takes their memory once more."""
    layers, norm, eps = model.apply(variables, method="answer_decoder")
    vocabulary = model.apply(variables, method="vocabulary")
    kernel = vocabulary.kernel.T if vocabulary.tied else vocabulary.kernel
    head = [kernel_rows([(kernel, vocabulary.scale)])]
    if vocabulary.added is not None:
        head.append(kernel_rows([(vocabulary.added.T, None)]))
    return Weights(tuple(layers), norm, tuple(head), eps)


def sampling(batch: int, seed: int = 0, temperature: float = 0.0, top_p: float = 1.0) -> Sampling:
    """The same for every row of a batch; each draws its own numbers."""
    key = jnp.broadcast_to(jax.random.key(seed), (batch,))
    full = jnp.full(batch, 1, jnp.float32)
    return Sampling(key, jnp.arange(batch, dtype=jnp.uint32), temperature * full, top_p * full)


@functools.partial(jax.jit, static_argnames=("columns",))
def begin(weights: Weights, opening: Opening, rank, how: Sampling, *, columns: int) -> Rows:
    """Rows that have read nothing yet, with room for texts of `columns` tokens.

    `rank`: int32[]. The memory of the opening, if any, is put into the cache.
    """
    x = opening.embedded
    B, zero = x.shape[0], jnp.zeros(x.shape[0], jnp.int32)
    cache = tuple(empty_cache(layer, B, columns, x.dtype) for layer in weights.layers)
    shown = None
    if opening.memory is not None:
        cache = tuple(
            remember(layer, opening.memory, held)
            for layer, held in zip(weights.layers, cache, strict=True)
        )
        shown = jnp.pad(opening.shown, ((0, 0), (1, 0)), constant_values=True)
    return Rows(jnp.zeros_like(x[:, 0]), opening.length, zero, zero + rank, how, cache, shown)


def read(weights: Weights, embedded, rows: Rows, start: int = 0) -> Rows:
    """Reads float[B, T, D] from position `start` on; `rows.position` is the end of each text.

    The rows given are used up.
    """
    length = embedded.shape[1]
    short = min(SHORT, length)
    embedded = _padded(embedded, to=length + short)
    while start < length:
        size = LONG if length - start >= LONG else short
        rows = _read_piece(weights, _piece(embedded, start, size=size), rows, start)
        start += size
    return rows


def columns_for(tokens: int) -> int:
    """Columns of a cache for texts of so many tokens: few sizes, and room for padded pieces."""
    unit = 64 if tokens <= 512 else 512
    return -(-(tokens + SHORT) // unit) * unit


@functools.partial(jax.jit, static_argnames="to")
def _padded(x, *, to: int):
    return jnp.pad(x, ((0, 0), (0, to - x.shape[1]), (0, 0)))


@functools.partial(jax.jit, static_argnames="size")
def _piece(x, start, *, size: int):
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)


@functools.partial(jax.jit, donate_argnames="rows")
def _read_piece(weights: Weights, x, rows: Rows, start) -> Rows:
    begin = jnp.full_like(rows.position, start)
    states, cache = _through(weights, x, rows, begin)
    last = rows.position - 1 - start
    here = jnp.clip(last, 0, x.shape[1] - 1)[:, None, None]
    found = jnp.take_along_axis(states, here, axis=1)[:, 0]
    inside = (last >= 0) & (last < x.shape[1])
    return rows.replace(states=jnp.where(inside[:, None], found, rows.states), cache=cache)


def _through(weights: Weights, x, rows: Rows, position):
    """x float[B, T, D] from `position` int32[B] on through all layers: (states, cache)."""
    call, out = AdapterCall(rows.rank[:, None, None]), []
    for layer, held in zip(weights.layers, rows.cache, strict=True):
        x, held = apply_layer(layer, x, held, position, rows.shown, call)
        out.append(held)
    return rms_norm(x, weights.norm, weights.eps), tuple(out)


@functools.partial(jax.jit, static_argnames="model", donate_argnames="rows")
def step(model: VisionLanguageModel, variables, weights: Weights, rows: Rows):
    """The next token of each row.

    Returns:
      (the rows having read it, the tokens int32[B], their log-likelihood float32[B] in nats at
      temperature 1).
    """
    logits = [rows_matmul(rows.states, kernel).astype(jnp.float32) for kernel in weights.head]
    logits = jnp.concatenate(logits, axis=-1)
    token = choose(logits, rows.sampling, rows.count)
    log_p = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    log_p = log_p - jax.nn.logsumexp(logits, axis=-1)
    x = model.apply(variables, token[:, None], method="embed_answer")
    states, cache = _through(weights, x, rows, rows.position)
    rows = rows.replace(
        states=states[:, 0], position=rows.position + 1, count=rows.count + 1, cache=cache
    )
    return rows, token, log_p


def choose(logits, how: Sampling, count):
    """`decode.choose` with traced settings: next tokens int32[B] from logits float32[B, V]."""
    best = jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def drawn(_):
        heat = jnp.where(how.temperature > 0, how.temperature, 1)[:, None]
        scaled = jax.lax.cond(jnp.any(how.top_p < 1), _nucleus, lambda x, _: x, logits / heat, how)
        keys = jax.vmap(jax.random.fold_in)(how.key, count)
        keys = jax.vmap(jax.random.fold_in)(keys, how.example_id)
        token = jax.vmap(jax.random.categorical)(keys, scaled).astype(jnp.int32)
        return jnp.where(how.temperature > 0, token, best)

    # A draw from a large vocabulary takes longer than a layer, and sorting it far longer.
    return jax.lax.cond(jnp.any(how.temperature > 0), drawn, lambda _: best, None)


def _nucleus(logits, how: Sampling):
    """Logits of the smallest set of tokens whose probabilities sum to top_p; -inf elsewhere."""
    top_p = how.top_p[:, None]
    ordered = jnp.sort(logits, axis=-1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1) - jax.nn.softmax(ordered)
    kept = jnp.where((before < top_p) | (top_p == 1), ordered, jnp.inf)
    return jnp.where(logits >= kept.min(axis=-1, keepdims=True), logits, -jnp.inf)

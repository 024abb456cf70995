"""An engine for answers: weights laid out once, what it has read lately, and requests in turns.

    engine = Engine(model, variables)
    for tokens, log_p in engine.answers(prompt, rank, length):    # a batch, token by token
    for token in Requests(engine, slots=4, context=1024).submit(request):    # one of many

The same image asked a second question is not encoded again, and a model that reads images inline
(models/inline.py) reads only what differs from an earlier prompt.
"""

import collections
import dataclasses
import functools
import hashlib
import threading
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from slava_jax.errors import UserError
from slava_jax.inference import steps
from slava_jax.models.interface import Prompt, VisionLanguageModel
from slava_jax.nn.adapters import AdapterCall

_IMAGES, _TEXTS = 16, 4  # how many encoded images and read prompts are kept


class EngineError(UserError, ValueError):
    """A request that the engine cannot take."""


class _Recent(collections.OrderedDict):
    """The `most` last used entries."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def put(self, key, value):
        self[key] = value
        self.move_to_end(key)
        if len(self) > self.most:
            self.popitem(last=False)


@dataclasses.dataclass(frozen=True)
class _Text:
    """A prompt that was read: its tokens and image indices int32[T], and the cache of it."""

    tokens: np.ndarray
    index: np.ndarray
    cache: tuple

    def shared(self, tokens, index) -> int:
        """How many leading tokens of another text are the same."""
        least = min(len(tokens), len(self.tokens))
        same = (tokens[:least] == self.tokens[:least]) & (index[:least] == self.index[:least])
        return least if same.all() else int(same.argmin())


@functools.partial(jax.jit, static_argnames=("model", "method"))
def _apply(model, variables, call, *inputs, method):
    return model.apply(variables, *inputs, call, method=method)


class Engine:
    """Reads prompts and writes answers; `decode.py` is its slow reference.

    Attributes:
      model, variables: of an assistant.
      weights: those of its answer decoder, laid out for decoding.
    """

    def __init__(self, model: VisionLanguageModel, variables: dict):
        self.model, self.variables = model, variables
        self.weights = steps.lay_out(model, variables)
        self._images, self._texts = _Recent(_IMAGES), _Recent(_TEXTS)

    def read(self, prompt: Prompt, rank: int, columns: int, how: steps.Sampling) -> steps.Rows:
        """Rows that have read a batch of prompts; `columns` is the room for them and answers.

        Prompts and their images that were read before are not read again if there is one.
        """
        rank, alone = jnp.int32(rank), len(prompt.images) == 1
        digests = tuple(map(_digest, prompt.images[0])) if alone else ()
        images = self._encoded(prompt.images, digests, rank)
        opening = _apply(
            self.model, self.variables, AdapterCall(rank), prompt, images, method="opening"
        )
        rows = steps.begin(self.weights, opening, rank, how, columns=columns)
        if not (alone and self.model.inline):
            return steps.read(self.weights, opening.embedded, rows)
        return self._read_rest(prompt, opening, rows, (*digests, int(rank)))

    def _encoded(self, images, digests, rank):
        """The output of `encode_images`, kept for each image of a single prompt."""

        def encode(images):
            call = AdapterCall(rank)
            return _apply(self.model, self.variables, call, images, method="encode_images")

        if not digests:
            return encode(images)
        for at, digest in enumerate(digests):
            held = self._images.get(digest)
            self._images.put(digest, encode(images[:, at : at + 1]) if held is None else held)
        return jnp.concatenate([self._images[digest] for digest in digests], axis=1)

    def _read_rest(self, prompt, opening, rows, key):
        """Reads one prompt from where it differs from an earlier one with the same images."""
        count = int(np.asarray(prompt.length)[0])
        tokens, index = (np.asarray(a)[0, :count] for a in (prompt.tokens, prompt.image_index))
        shared, held = 0, self._texts.get(key)
        if held is not None:
            # The last token is read in any case: its state predicts the answer.
            shared = min(held.shared(tokens, index), count - 1)
            rows = rows.replace(cache=_copied(held.cache, rows.cache))
        embedded = opening.embedded[:, : _whole(count)]
        rows = steps.read(self.weights, embedded, rows, shared)
        self._texts.put(key, _Text(tokens, index, _cut(rows.cache, columns=_whole(count))))
        return rows

    def answers(
        self,
        prompt: Prompt,
        rank: int,
        length: int,
        seed: int = 0,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the next token of every prompt, `length` times, and its log-likelihood.

        Yields:
          (int32[B], float32[B]) as `decode.generate` chooses them, which stops at a token.
        """
        how = steps.sampling(len(prompt.images), seed, temperature, top_p)
        columns = steps.columns_for(prompt.tokens.shape[1] + length)
        rows = self.read(prompt, rank, columns, how)
        for _ in range(length):
            rows, token, log_p = self.step(rows)
            yield token, log_p

    def step(self, rows: steps.Rows):
        """(rows, tokens int32[B], log p float32[B]) of `steps.step`, the latter on the host."""
        rows, *chosen = steps.step(self.model, self.variables, self.weights, rows)
        return rows, *map(np.asarray, chosen)

    def generate(self, prompt: Prompt, rank: int, length: int, stop: int, **sampling):
        """As `decode.generate`: (answers int32[B, length], log-likelihoods float32[B])."""
        batch = len(prompt.images)
        answers, log_p = np.full((batch, length), stop, np.int32), np.zeros(batch, np.float32)
        writing = np.ones(batch, bool)
        for at, (token, each) in enumerate(self.answers(prompt, rank, length, **sampling)):
            answers[writing, at] = token[writing]
            log_p[writing] += each[writing]
            writing &= token != stop
            if not writing.any():
                break
        return answers, log_p


def _digest(image) -> tuple:
    image = np.ascontiguousarray(image)
    return image.shape, image.dtype.str, hashlib.sha256(image.tobytes()).hexdigest()


def _whole(count: int) -> int:
    return -(-count // steps.SHORT) * steps.SHORT


def _fit(held, like):
    """Columns [B, G, S, C] cut or padded to those of another cache."""
    columns = like.shape[2]
    held = held[:, :, :columns]
    return jnp.pad(held, ((0, 0), (0, 0), (0, columns - held.shape[2]), (0, 0)))


@jax.jit
def _copied(held, like):
    return jax.tree.map(_fit, held, like)


@functools.partial(jax.jit, static_argnames="columns")
def _cut(cache, *, columns: int):
    return jax.tree.map(lambda a: a[:, :, :columns], cache)


@dataclasses.dataclass(frozen=True)
class Request:
    """A question to answer, beside others.

    Attributes:
      prompt: one prompt, B = 1. stop: the id that ends its answer. length: tokens at most.
    """

    prompt: Prompt
    rank: int
    stop: int
    length: int
    seed: int = 0
    temperature: float = 0.0
    top_p: float = 1.0


class Requests:
    """Answers requests side by side, as many as there are slots; others wait their turn.

    Whoever needs a token takes a step for all, so that no thread runs when nobody asks. All methods
    may be called from several threads.
    """

    def __init__(self, engine: Engine, slots: int = 4, context: int = 1024, waiting: int = 16):
        """`context`: tokens of a prompt with its answer at most; `waiting`: requests at most."""
        self._engine, self._context, self._most = engine, context, waiting
        self._slots: list[_Answer | None] = [None] * slots
        self._waiting: collections.deque[_Answer] = collections.deque()
        self._rows: steps.Rows | None = None
        self._lock = threading.Lock()

    def submit(self, request: Request) -> Iterator[int]:
        """The tokens of an answer as they are written, without `stop`.

        Close the iterator to end the answer early; its slot is then free.

        Raises:
          EngineError: prompt and answer are longer than the context, or too many requests wait.
        """
        tokens = int(np.asarray(request.prompt.length)[0])
        if tokens + request.length > self._context:
            raise EngineError(
                f"the prompt has {tokens} tokens and the answer up to {request.length}, more than "
                f"the {self._context} that fit: ask a shorter question, with fewer images, or for "
                "a shorter answer"
            )
        with self._lock:
            if len(self._waiting) >= self._most:
                raise EngineError(f"{self._most} requests are waiting already: try again later")
            answer = _Answer(request)
            self._waiting.append(answer)
        return self._tokens(answer)

    def _tokens(self, answer: "_Answer") -> Iterator[int]:
        try:
            while True:
                with self._lock:
                    while not answer.tokens and not answer.done:
                        self._step()
                    if not answer.tokens:
                        if answer.error is not None:
                            raise answer.error
                        return
                    token = answer.tokens.popleft()
                yield token
        finally:
            with self._lock:
                self._leave(answer)

    def _leave(self, answer):
        answer.done = True
        if answer in self._waiting:
            self._waiting.remove(answer)
        self._slots = [None if held is answer else held for held in self._slots]

    def _step(self):
        """Lets waiting requests join, then writes a token of every answer."""
        for at, held in enumerate(self._slots):
            if held is None and self._waiting:
                answer = self._waiting.popleft()
                try:
                    self._join(answer.request, at)
                except Exception as error:
                    answer.fail(error)
                else:
                    self._slots[at] = answer
        if not any(self._slots):
            return
        try:
            self._rows, tokens, _ = self._engine.step(self._rows)
        except Exception as error:
            for answer in filter(None, self._slots):
                answer.fail(error)
            self._slots, self._rows = [None] * len(self._slots), None
            return
        for answer, token in zip(self._slots, tokens.tolist(), strict=True):
            if answer is not None and answer.takes(token):
                self._leave(answer)

    def _join(self, request: Request, at: int):
        how = steps.sampling(1, request.seed, request.temperature, request.top_p)
        columns = steps.columns_for(self._context)
        row = self._engine.read(request.prompt, request.rank, columns, how)
        if self._rows is None:
            self._rows = jax.tree.map(lambda a: jnp.repeat(a, len(self._slots), axis=0), row)
        self._rows = _with_row(_roomy(self._rows, row), row, at)


class _Answer:
    """A request with the tokens that nobody has taken yet."""

    def __init__(self, request: Request):
        self.request, self.done = request, False
        self.error: Exception | None = None
        self.tokens: collections.deque[int] = collections.deque()
        self._count = 0

    def fail(self, error: Exception):
        """Ends the answer; whoever waits for it gets the error."""
        self.error, self.done = error, True

    def takes(self, token: int) -> bool:
        """Takes the next token; whether the answer is complete."""
        self._count += 1
        if token != self.request.stop:
            self.tokens.append(token)
        self.done = token == self.request.stop or self._count == self.request.length
        return self.done


def _roomy(rows: steps.Rows, row: steps.Rows) -> steps.Rows:
    """The rows with room for the memory of another one."""
    if rows.shown is None or rows.shown.shape[1] >= row.shown.shape[1]:
        return rows
    more = row.shown.shape[1] - rows.shown.shape[1]

    def wider(a):
        return jnp.pad(a, ((0, 0), (0, 0), (0, more), (0, 0)))

    cache = tuple(
        c.replace(memory_k=wider(c.memory_k), memory_v=wider(c.memory_v)) for c in rows.cache
    )
    return rows.replace(shown=jnp.pad(rows.shown, ((0, 0), (0, more))), cache=cache)


@functools.partial(jax.jit, donate_argnums=0)
def _with_row(rows: steps.Rows, row: steps.Rows, at) -> steps.Rows:
    """The rows with another one in place of row `at`; what it lacks in columns stays hidden."""
    if row.shown is not None:
        more = rows.shown.shape[1] - row.shown.shape[1]
        row = row.replace(shown=jnp.pad(row.shown, ((0, 0), (0, more))))

    def put(a, b):
        return jax.lax.dynamic_update_slice(a, b, (at, *(0,) * (a.ndim - 1)))

    return jax.tree.map(put, rows, row)

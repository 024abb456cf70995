"""Merges several experts into one, at the router's average over texts.

The router depends on the token, so no single expert equals the mixture; `divergence` measures the
difference. Letters: see nn/attention.py; `L` layers.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from transformers import PreTrainedTokenizerFast

from slava_jax.convert.rules import ConvertError
from slava_jax.data.chat import Message, TextForm, encode_prompt
from slava_jax.data.collate import text_fields
from slava_jax.data.instructions import IMAGE_TOKEN
from slava_jax.data.strict_json import parsed
from slava_jax.models.decoder import BlockInputs, Decoder
from slava_jax.models.interface import VisionLanguageModel
from slava_jax.nn.adapters import AdapterCall
from slava_jax.nn.attention import HIDDEN

_LENGTHS = 32  # prompts are padded to a multiple of this, so that few shapes are compiled


def read_texts(path: str | Path) -> list[str]:
    """The texts of a JSON Lines file: each line's `text`, or its `question` (instructions).

    Raises:
      ConvertError: the file cannot be read, or a line has neither; file and line are named.
    """
    texts = []
    try:
        # Not splitlines: it would also split at U+2028 and the like, which JSON text may contain.
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConvertError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = parsed(line)
            texts.append(record["text"] if "text" in record else record["question"])
        except ValueError as error:
            raise ConvertError(f"{path}:{number}: cannot be parsed as JSON: {error}") from error
        except (KeyError, TypeError) as error:
            raise ConvertError(
                f'{path}:{number}: must be {{"text": "..."}} or an instruction with a question'
            ) from error
    if not all(isinstance(text, str) for text in texts) or not texts:
        raise ConvertError(f"{path}: has no texts, or values that are not strings")
    return texts


def prompts(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, form: TextForm) -> list[dict]:
    """Each text as the language model reads it: tokens and order int32[1, T].

    If an image takes more than one position, there is no image token to stand for it, and texts
    are read without their images.
    """
    batches = []
    for text in texts:
        if form.image_tokens > 1:
            text = text.replace(IMAGE_TOKEN, "")
        ids, spans = encode_prompt(
            [Message("user", text)], tokenizer, form, text.count(IMAGE_TOKEN)
        )
        length = -(-len(ids) // _LENGTHS) * _LENGTHS
        fields = text_fields([ids], [spans], length)
        position = np.arange(length, dtype=np.int32)[None]
        order = np.where(position < len(ids), position, HIDDEN)
        batches.append({"tokens": fields["tokens"], "order": order})
    return batches


def mean_gates(
    model: VisionLanguageModel, variables: dict, batches: Sequence[dict], rank: int
) -> dict:
    """The router's average over all tokens of `prompts`: float32[L, K] for 'q', 'k', 'v', 'o'."""
    sums = [_read(model, variables, batch, rank)[1] for batch in batches]
    total = jax.tree.map(lambda *parts: sum(parts), *sums)
    return {name: gates / gates.sum(axis=-1, keepdims=True) for name, gates in total.items()}


def one_expert(
    model: VisionLanguageModel, variables: dict, gates: dict
) -> tuple[VisionLanguageModel, dict]:
    """The model with one expert, the mixture `sum_k gates_k B_k`; the base is shared.

    Args:
      gates: float32[L, K] of each projection, from `mean_gates`.

    Returns:
      (model, variables).
    """
    adapter = dataclasses.replace(model.adapter, experts=1)
    merged = model.clone(config=dataclasses.replace(model.config, adapter=adapter))
    params = variables["params"]
    blocks = params["language_model"]["blocks"]
    attention = {
        name: {"lora_b": jnp.einsum("LK,LKRD->LRD", gates[name], held["lora_b"])[:, None]}
        for name, held in blocks["attention"].items()
    }
    llama = {**params["language_model"], "blocks": {**blocks, "attention": attention}}
    return merged, {**variables, "params": {**params, "language_model": llama}}


def merged_at_mean(
    model: VisionLanguageModel, variables: dict, batches: Sequence[dict], rank: int
) -> tuple[VisionLanguageModel, dict]:
    """`one_expert` at the `mean_gates` of these batches.

    Raises:
      ConvertError: nothing to merge (one expert or no adapter), or the experts do not read the
        text.
    """
    adapter = model.adapter
    if adapter is None or adapter.experts == 1:
        raise ConvertError("there are no experts to merge; leave out --merge_at_mean_routing")
    if not model.adapted:
        raise ConvertError("text_encoder is 'embeddings', so the experts do not read the text")
    return one_expert(model, variables, mean_gates(model, variables, batches, rank))


@dataclasses.dataclass(frozen=True)
class Divergence:
    """The cost of a merge, over the tokens of some texts.

    Attributes:
      kl: nats per token, KL(mixture || merged) of the next-token distributions.
      top1: share of tokens at which both have the same most likely next token.
    """

    kl: float
    top1: float


def divergence(before, after, batches: Sequence[dict], rank: int) -> Divergence:
    """The divergence of the language model `after` from `before`; each is (model, variables)."""
    kl = agree = tokens = 0.0
    for batch in batches:
        p, q = (jax.nn.log_softmax(_read(*one, batch, rank)[0]) for one in (before, after))
        real = batch["order"] < batch["tokens"].shape[1]
        kl += float(jnp.sum(jnp.sum(jnp.exp(p) * (p - q), axis=-1) * real))
        agree += float(jnp.sum((p.argmax(axis=-1) == q.argmax(axis=-1)) * real))
        tokens += float(np.sum(real))
    return Divergence(max(kl / tokens, 0.0), agree / tokens)  # rounding can make it negative


@functools.partial(jax.jit, static_argnames=("model",))
def _read(model: VisionLanguageModel, variables, batch, rank):
    """(logits float32[B, T, V], gates summed over real tokens float32[L, K] of each projection)."""
    shape, tokens = model.config.language_model, batch["tokens"]
    special = variables["params"].get("special_embedding")  # tokens after the vocabulary
    inputs = BlockInputs(batch["order"], batch["order"], AdapterCall(jnp.int32(rank)))

    def run(decoder):
        x = decoder.embed(jnp.minimum(tokens, shape.vocab_size - 1))
        if special is not None:
            own = special[jnp.maximum(tokens - shape.vocab_size, 0)].astype(x.dtype)
            x = jnp.where((tokens >= shape.vocab_size)[..., None], own, x)
        return decoder.vocabulary(special).logits(decoder(x, inputs)[0])

    held = {name: variables[name]["language_model"] for name in ("params", "frozen")}
    decoder = Decoder(shape, model.config.decoder_mode(model.dtype))
    logits, sown = decoder.apply(held, method=run, mutable=["intermediates"])
    if not sown:  # one expert has no gates
        return logits, {}
    attention = sown["intermediates"]["blocks"]["attention"]
    real = (batch["order"] < tokens.shape[1])[None, :, :, None]
    return logits, {n: jnp.sum(attention[n]["gates"][0] * real, axis=(1, 2)) for n in "qkvo"}

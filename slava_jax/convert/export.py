"""The text encoder out: a Hugging Face folder of the base alone, or with its adapters merged in.

A folder is config.json, safetensors in float32 and the tokenizer. It goes by the table that reads
such folders, whose changes (none, or two axes turned round) undo themselves.
"""

import copy
import dataclasses
import functools
import json
import math
import operator
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerFast

from slava_jax.checkpoint import CheckpointError, appearing
from slava_jax.convert.huggingface import INDEX, SINGLE
from slava_jax.convert.llama import huggingface_table
from slava_jax.convert.peft import Lora
from slava_jax.convert.rules import ConvertError, Row, Step, steps_of
from slava_jax.data.tokenizer import save_tokenizer
from slava_jax.models.decoder import LlamaConfig
from slava_jax.models.slava import SPECIAL_TOKENS, SlavaConfig

_SHARD = 2**31  # bytes of a file, unless one tensor has more; all of them are in memory at once


@dataclasses.dataclass(frozen=True)
class TextModel:
    """A Llama that leaves, read one tensor at a time so that it is never whole in float32.

    Attributes:
      read: (path of a leaf, layer or None) -> float32 array, as our tree holds it.
    """

    config: LlamaConfig
    read: Callable[[str, int | None], np.ndarray]


def base_model(config: LlamaConfig, tree: dict) -> TextModel:
    """The frozen Llama, int8 kernels dequantised; `tree` as below `{"llama": ...}`."""
    return TextModel(config, functools.partial(_dequantised, tree))


def merged_model(config: SlavaConfig, variables: dict, lora: Lora) -> TextModel:
    """The text encoder with its adapters in its kernels.

    The four tokens of the assistant have their trained rows behind the table: `V + 4` tokens, with
    the logits of `Slava.next_token_logits`.
    """
    base = base_model(config.llama, variables["frozen"]["llama"])
    special = np.asarray(variables["params"]["special_embedding"], np.float32)

    def read(path: str, layer: int | None) -> np.ndarray:
        array = base.read(path, layer)
        if path == "embedding":
            return np.concatenate([array, special])
        if path == "head/kernel":
            return np.concatenate([array, special.T], axis=1)
        module = path.split("/")[-2]
        return array + lora.update(module, layer) if module in lora.a else array

    return TextModel(dataclasses.replace(config.llama, vocab_size=config.vocab_size), read)


def _dequantised(tree: dict, path: str, layer: int | None) -> np.ndarray:
    *parents, name = path.split("/")
    node = functools.reduce(operator.getitem, parents, tree)
    part = (lambda leaf: leaf) if layer is None else (lambda leaf: leaf[layer])
    array = np.asarray(part(node[name]))
    if array.dtype == np.int8:
        return array.astype(np.float32) * np.asarray(part(node["scale"]))
    return array.astype(np.float32)


def write_folder(
    model: TextModel, tokenizer: PreTrainedTokenizerFast, directory: str | Path
) -> None:
    """Writes a folder that transformers loads; it appears when it is whole.

    Args:
      tokenizer: of the base vocabulary; the assistant's tokens are added where the model has them.

    Raises:
      CheckpointError: the directory exists, has no room (asked before), or cannot be written.
      ConvertError: the vocabulary has a token with the name of one of the assistant's.
    """
    steps = [
        step
        for row in huggingface_table(model.config)
        if isinstance(row, Row)
        for step in steps_of(row, model.config.layers)
    ]
    tokenizer = _with_special(tokenizer, model.config.vocab_size)
    shards = list(_shards(steps))
    with appearing(directory, sum(map(_size, steps))) as folder:
        save_tokenizer(tokenizer, folder)
        names = _names(len(shards))
        for name, shard in zip(names, shards, strict=True):
            try:
                save_file({s.name: _tensor(model, s) for s in shard}, folder / name, _FORMAT)
            except SafetensorError as error:  # so safetensors reports a full disk
                raise CheckpointError(f"{directory}: could not be written: {error}") from error
        if len(shards) > 1:
            named = zip(names, shards, strict=True)
            places = {step.name: name for name, shard in named for step in shard}
            index = {"metadata": {"total_size": sum(map(_size, steps))}, "weight_map": places}
            _write_json(folder / INDEX, index)
        _write_json(folder / "config.json", _settings(model.config, tokenizer))


_UNLIMITED = 10**9  # what a tokenizer without a limit says is far beyond
_FORMAT = {"format": "pt"}  # without it transformers refuses the file


def _tensor(model: TextModel, step: Step) -> np.ndarray:
    array = step.row.change(model.read(step.row.path, step.layer))
    if array.shape != step.row.shape:
        raise ConvertError(f"{step.row.path}: is {array.shape}, should give {step.row.shape}")
    return np.ascontiguousarray(array)


def _size(step: Step) -> int:
    return 4 * math.prod(step.row.shape)


def _shards(steps: list[Step]) -> Iterator[list[Step]]:
    shard: list[Step] = []
    held = 0
    for step in steps:
        if shard and held + _size(step) > _SHARD:
            yield shard
            shard, held = [], 0
        shard.append(step)
        held += _size(step)
    yield shard


def _names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE]
    return [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


def _with_special(tokenizer: PreTrainedTokenizerFast, rows: int) -> PreTrainedTokenizerFast:
    """A copy with `rows` tokens that, as others expect, reads special tokens in a text."""
    leaving = copy.deepcopy(tokenizer)
    leaving.split_special_tokens = False
    if len(leaving) < rows:
        leaving.add_tokens(list(SPECIAL_TOKENS), special_tokens=True)
    if len(leaving) != rows:
        raise ConvertError(
            f"the vocabulary has one of {', '.join(SPECIAL_TOKENS)} already, so that the "
            "assistant's own would be taken for it"
        )
    return leaving


def _settings(c: LlamaConfig, tokenizer: PreTrainedTokenizerFast) -> dict:
    """config.json, under the names that old and new releases of transformers read."""
    scaling = None
    if c.rope_scaling:
        factor, low, high, original = c.rope_scaling
        scaling = {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low,
            "high_freq_factor": high, "original_max_position_embeddings": int(original),
        }  # fmt: skip
    length = {}
    if tokenizer.model_max_length < _UNLIMITED:
        length["max_position_embeddings"] = tokenizer.model_max_length
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_width,
        "intermediate_size": c.mlp_width,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": c.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **length,
    }


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")

"""Export to a Hugging Face folder: a language model or a LLaVA, with adapters merged or dropped.

A folder has JSON files, float32 safetensors and the tokenizer. Export inverts the table that reads
such folders.
"""

import copy
import dataclasses
import functools
import json
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerFast

from slava_jax.checkpoint import CheckpointError, atomic_folder
from slava_jax.convert.decoders import decoder_settings, huggingface_table
from slava_jax.convert.huggingface import INDEX, SINGLE
from slava_jax.convert.peft import Lora
from slava_jax.convert.rules import ConvertError, Row, Table, steps_of
from slava_jax.data.tokenizer import save_tokenizer
from slava_jax.models.decoder import DecoderConfig
from slava_jax.models.interface import VisionLanguageModel
from slava_jax.models.slava import SPECIAL_TOKENS

_SHARD = 2**31  # bytes per file unless one tensor is larger; a whole file is held in memory

Read = Callable[[str, int | None], np.ndarray]  # (path of a leaf, layer or None) -> float32 array


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a folder, read only when it is written."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Exportable(Protocol):
    """A model to export, read one tensor at a time so it is never whole in float32."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens of the model."""

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the tokens appended to the tokenizer's."""

    def tensors(self) -> list[Tensor]:
        """The tensors of its safetensors files."""

    def files(self, tokenizer: PreTrainedTokenizerFast) -> dict[str, dict[str, Any]]:
        """Its JSON files by name; `tokenizer` is the exported one."""


@dataclasses.dataclass(frozen=True)
class TextModel:
    """A language model to export; see Exportable. `read` returns arrays in our layout."""

    config: DecoderConfig
    read: Read
    added: tuple[str, ...] = ()

    @property
    def vocab_size(self) -> int:
        """See Exportable."""
        return self.config.vocab_size

    def tensors(self) -> list[Tensor]:
        """See Exportable."""
        return tensors_of(huggingface_table(self.config), self.config.layers, self.read)

    def files(self, tokenizer: PreTrainedTokenizerFast) -> dict[str, dict[str, Any]]:
        """See Exportable."""
        own = decoder_settings(self.config)
        return {"config.json": {**own, "torch_dtype": "float32", **text_limits(tokenizer)}}

    def with_lora(self, lora: Lora) -> "TextModel":
        """This model with a LoRA merged into its kernels."""

        def read(path: str, layer: int | None) -> np.ndarray:
            array, (*_, module, name) = self.read(path, layer), ["", *path.split("/")]
            changed = name == "kernel" and module in lora.a
            return array + lora.update(module, layer) if changed else array

        return dataclasses.replace(self, read=read)

    def with_tokens(self, names: Sequence[str], rows: np.ndarray) -> "TextModel":
        """This model with appended tokens: rows float32[n, D] of embedding and head."""

        def read(path: str, layer: int | None) -> np.ndarray:
            array = self.read(path, layer)
            if path == "embedding":
                return np.concatenate([array, rows])
            return np.concatenate([array, rows.T], axis=1) if path == "head/kernel" else array

        config = dataclasses.replace(self.config, vocab_size=self.vocab_size + len(rows))
        return TextModel(config, read, (*self.added, *names))


def base_model(config: DecoderConfig, tree: dict) -> TextModel:
    """A language model without adapters, int8 kernels dequantised.

    `tree`: the subtree of `{"language_model": ...}`.
    """
    return TextModel(config, reader(tree))


def merged_model(model: VisionLanguageModel, variables: dict, lora: Lora | None) -> TextModel:
    """The language model of an assistant with its adapters merged into the kernels.

    The trained rows of sLAVA's four special tokens follow the table: `V + 4` tokens, with the
    logits of `Slava.next_token_logits`.
    """
    text = base_model(model.config.language_model, language_tree(variables))
    special = variables["params"].get("special_embedding")
    if special is not None:
        text = text.with_tokens(SPECIAL_TOKENS, np.asarray(special, np.float32))
    return text if lora is None else text.with_lora(lora)


def language_tree(variables: dict) -> dict:
    """The language model of an assistant, frozen or trained."""
    frozen = variables.get("frozen", {}).get("language_model")
    return variables["params"]["language_model"] if frozen is None else frozen


def reader(tree: dict) -> Read:
    """Reads arrays of a tree, dequantising int8 kernels."""
    return functools.partial(_dequantised, tree)


def _dequantised(tree: dict, path: str, layer: int | None) -> np.ndarray:
    *parents, name = path.split("/")
    node = functools.reduce(operator.getitem, parents, tree)
    part = (lambda leaf: leaf) if layer is None else (lambda leaf: leaf[layer])
    array = np.asarray(part(node[name]))
    if array.dtype == np.int8:
        return array.astype(np.float32) * np.asarray(part(node["scale"]))
    return array.astype(np.float32)


def tensors_of(table: Table, layers: int, read: Read) -> list[Tensor]:
    """The tensors of the rows of a table."""
    steps = [step for row in table if isinstance(row, Row) for step in steps_of(row, layers)]
    return [
        Tensor(step.name, step.row.shape, functools.partial(_undone, step.row, step.layer, read))
        for step in steps
    ]


def _undone(row: Row, layer: int | None, read: Read) -> np.ndarray:
    array = (row.undo or row.change)(read(row.path, layer))
    if array.shape != row.shape:
        raise ConvertError(f"{row.path}: converted shape is {array.shape}, must be {row.shape}")
    return np.ascontiguousarray(array)


def write_folder(
    model: Exportable, tokenizer: PreTrainedTokenizerFast, directory: str | Path
) -> None:
    """Writes a folder that transformers loads; it appears only when complete.

    Args:
      tokenizer: the base vocabulary; the model's added tokens are appended to a copy.

    Raises:
      CheckpointError: the directory exists, the disk is too full (checked first), or it cannot be
        written.
      ConvertError: the vocabulary already has a token with the name of an added one.
    """
    tensors = model.tensors()
    tokenizer = _with_added(tokenizer, model)
    files, shards = model.files(tokenizer), list(_shards(tensors))
    with atomic_folder(directory, sum(map(_size, tensors))) as folder:
        save_tokenizer(tokenizer, folder, sealed=False)
        names = _names(len(shards))
        for name, shard in zip(names, shards, strict=True):
            try:
                save_file({t.name: t.read() for t in shard}, folder / name, _FORMAT)
            except SafetensorError as error:  # what safetensors raises when the disk is full
                raise CheckpointError(f"{directory}: cannot be written: {error}") from error
        if len(shards) > 1:
            named = zip(names, shards, strict=True)
            places = {tensor.name: name for name, shard in named for tensor in shard}
            index = {"metadata": {"total_size": sum(map(_size, tensors))}, "weight_map": places}
            _write_json(folder / INDEX, index)
        for name, settings in files.items():
            _write_json(folder / name, settings)


_UNLIMITED = 10**9  # a tokenizer without a limit reports far more
_FORMAT = {"format": "pt"}  # without it transformers refuses the file


def _size(tensor: Tensor) -> int:
    return 4 * math.prod(tensor.shape)


def _shards(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    shard: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if shard and held + _size(tensor) > _SHARD:
            yield shard
            shard, held = [], 0
        shard.append(tensor)
        held += _size(tensor)
    yield shard


def _names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE]
    return [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


def _with_added(tokenizer: PreTrainedTokenizerFast, model: Exportable) -> PreTrainedTokenizerFast:
    """A copy with the model's tokens that parses special tokens in text, as other tools expect."""
    exported = copy.deepcopy(tokenizer)
    exported.split_special_tokens = False
    exported.add_tokens(list(model.added), special_tokens=True)
    if len(exported) != model.vocab_size:
        raise ConvertError(
            f"the vocabulary already has one of {', '.join(model.added)}, which would clash with "
            "the assistant's own token"
        )
    return exported


def text_limits(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The tokenizer's entries in config.json: maximum text length and special token ids."""
    length = {}
    if tokenizer.model_max_length < _UNLIMITED:
        length["max_position_embeddings"] = tokenizer.model_max_length
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **length,
    }


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")

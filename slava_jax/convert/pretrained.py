"""Converted weights on disk: a folder with `weights/PART/` (checkpoint.py) and `tokenizer/`.

A vision encoder or a language model is one part, a LLaVA has three. Each part has its own config
and arrays, so a run can use any of them.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from transformers import PreTrainedTokenizerFast

from slava_jax.checkpoint import CheckpointError, atomic_folder, load_facts, load_tree
from slava_jax.convert.rules import ConvertError, Step, Table, Tensors, placed, plan, slices
from slava_jax.data.tokenizer import load_tokenizer, save_tokenizer
from slava_jax.facts import checked, filled, shown
from slava_jax.layout import check_place
from slava_jax.models.connectors import Connector, ConnectorConfig
from slava_jax.models.decoder import DecoderConfig, LanguageModel
from slava_jax.models.vit import Vit, VitConfig
from slava_jax.nn.adapters import AdapterCall
from slava_jax.nn.quantized import quantize, quantize_linear_layers
from slava_jax.streaming import save_slices

WEIGHTS, TOKENIZER = "weights", "tokenizer"  # below a folder of converted weights
_FACTS = {"config": dict, "quantized": bool, "image_token": int | None}  # of a part
_COLUMNS = 4096  # columns of a kernel quantised at a time, to bound memory
_CONFIGS = {"vit": VitConfig, "connector": ConnectorConfig, "language_model": DecoderConfig}

PartConfig = VitConfig | ConnectorConfig | DecoderConfig


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a model: its config, and the table of its tensors."""

    config: PartConfig
    table: Table


@dataclasses.dataclass(frozen=True)
class Source:
    """The parts of a model and its tensors, as read from a file or folder.

    Attributes:
      parts: by the names of their trees: 'vit', 'connector', 'language_model'.
      image_token: the id of image tokens in the texts of a LLaVA.
    """

    parts: Mapping[str, Part]
    tensors: Tensors
    tokenizer: PreTrainedTokenizerFast | None = None
    image_token: int | None = None

    @property
    def configs(self) -> dict[str, PartConfig]:
        """The config of every part."""
        return {name: part.config for name, part in self.parts.items()}


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Converted weights.

    Attributes:
      configs: the config of every converted part.
      tree: numpy arrays of `{"vit": ..., "connector": ..., "language_model": ...}` or some of
        them; kernels of a quantised language model are int8, each with a `scale` next to it.
      image_token: see Source.
    """

    configs: dict[str, PartConfig]
    tree: dict
    quantized: bool
    tokenizer: PreTrainedTokenizerFast | None
    image_token: int | None = None


def write(source: Source, directory: str | Path, quantized: bool = False) -> None:
    """Converts into `directory`, which appears only when complete.

    Args:
      quantized: store kernels of the language model as int8 (nn/quantized.py); the rest stays
        float32.

    Raises:
      ConvertError: the tensors do not match; or `quantized` without a language model.
      CheckpointError: the directory exists, its path cannot hold arrays, the disk is full, or it
        cannot be written; nothing is left behind.
    """
    if quantized and "language_model" not in source.parts:
        raise ConvertError(
            "only language models are stored in int8; leave out --quantize for a vision encoder"
        )
    check_place(Path(directory))
    steps = _plan(source)
    held = {
        name: _leaves(name, source.configs, quantized and name == "language_model")
        for name in source.parts
    }
    facts = {"from": Path(source.tensors.place).name, "image_token": source.image_token}
    size = sum(leaf.size * leaf.dtype.itemsize for of in held.values() for leaf in of.values())
    with atomic_folder(directory, size, reads=source.tensors.place) as unfinished:
        for name, config in source.configs.items():
            own = [step for step in steps if step.row.path.split("/")[0] == name]
            pieces, to_int8 = slices(own, source.tensors), quantized and name == "language_model"
            save_slices(
                unfinished / WEIGHTS / name,
                held[name],
                _quantized(pieces) if to_int8 else pieces,
                {**facts, "config": dataclasses.asdict(config), "quantized": to_int8},
            )
        if source.tokenizer is not None:
            save_tokenizer(source.tokenizer, unfinished / TOKENIZER)


def load(directory: str | Path, *parts: str) -> Pretrained:
    """Loads what `write` wrote: all parts, or only those named.

    Raises:
      CheckpointError: not such a directory, a part is missing, or it is damaged. TokenizerError:
        the tokenizer is missing or damaged.
    """
    facts = _facts(directory)
    configs = {name: of["config"] for name, of in facts.items()}
    quantized = any(of["quantized"] for of in facts.values())
    tree, token = {}, None
    for name in parts or configs:
        place = part_place(directory, name)
        part, _ = load_tree(place, _template(place, name, configs, facts[name]["quantized"]))
        tree, token = {**tree, **part}, facts[name]["image_token"]
    tokenizer = None
    if "language_model" in tree:
        beside = part_place(directory, "language_model")
        tokenizer = load_tokenizer(Path(directory) / TOKENIZER, beside)
    return Pretrained(configs, tree, quantized, tokenizer, token)


def described(directory: str | Path) -> tuple[dict[str, PartConfig], bool]:
    """The parts in a directory of `write`, and whether kernels are int8; reads no arrays.

    Raises:
      CheckpointError: not such a directory, or it is damaged.
    """
    facts = _facts(directory)
    configs = {name: of["config"] for name, of in facts.items()}
    return configs, any(of["quantized"] for of in facts.values())


def _facts(directory: str | Path) -> dict[str, dict[str, Any]]:
    """What each part says of itself; its "config" is a PartConfig."""
    weights = Path(directory) / WEIGHTS
    names = [name for name in _CONFIGS if (weights / name).is_dir()]
    if not names:
        raise CheckpointError(
            f"{directory}: has no {WEIGHTS}/ from slava convert, or one from an older slava_jax; "
            "convert the weights again"
        )
    return {name: _part_facts(weights / name, _CONFIGS[name]) for name in names}


def _part_facts(place: Path, kind: type) -> dict[str, Any]:
    try:
        facts = checked(load_facts(place), _FACTS)
        return {**facts, "config": filled(kind, facts["config"], "config")}
    except ValueError as error:
        raise CheckpointError(
            f"{place}: its description is damaged ({error}); convert the weights again"
        ) from error


def _template(place: Path, name: str, configs: Mapping[str, PartConfig], quantized: bool) -> dict:
    """A tree of the arrays that a part must have, without memory of their own."""
    try:
        shapes = _shapes(name, configs, quantized)
    except Exception as error:  # sizes that make no model fail in many ways inside jax and flax
        raise CheckpointError(
            f"{place}: its description is damaged ({shown(error)}); convert the weights again"
        ) from error
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes)


def part_place(directory: str | Path, part: str) -> Path:
    """The checkpoint of a part, whose tree is `{part: ...}`.

    Raises:
      CheckpointError: the directory lacks the part; the message lists those it has.
    """
    place = Path(directory) / WEIGHTS / part
    if not place.is_dir():
        held = ", ".join(described(directory)[0])
        raise CheckpointError(f"{directory}: has no {part}, only {held}")
    return place


def is_converted(directory: str | Path) -> bool:
    """Whether a directory looks like one written by `write`."""
    return (Path(directory) / WEIGHTS).is_dir()


def _plan(source: Source) -> list[Step]:
    """The steps of all parts together: any unneeded tensor must be listed in one of the tables."""
    table: list = []
    leaves: list[str] = []
    for name, part in source.parts.items():
        layers = getattr(part.config, "layers", None)
        table += placed(part.table, name, layers)
        leaves += _leaves(name, source.configs, False)
    return plan(table, source.tensors, 0, leaves)


def _leaves(
    name: str, configs: Mapping[str, PartConfig], quantized: bool
) -> dict[str, jax.ShapeDtypeStruct]:
    """Path and shape of every leaf of a part, without allocating arrays."""
    flat = jax.tree_util.tree_leaves_with_path(_shapes(name, configs, quantized))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _shapes(name: str, configs: Mapping[str, PartConfig], quantized: bool) -> dict:
    shapes = jax.eval_shape(lambda: _initialised(name, configs))
    return {name: jax.eval_shape(quantize_linear_layers, shapes) if quantized else shapes}


def _initialised(name: str, configs: Mapping[str, PartConfig]) -> dict:
    config, key = configs[name], jax.random.key(0)
    if name == "language_model":
        tokens = jnp.zeros((1, 2), jnp.int32)
        return LanguageModel(config).init(key, tokens, tokens)["params"][name]
    if name == "vit":
        side = config.image_size
        images = jnp.zeros((1, side, side, config.channels), jnp.uint8)
        return Vit(config).init(key, images)["params"]
    tokens = jnp.zeros((1, 1, configs["vit"].width))
    connector = Connector(config, configs["language_model"].width)
    return connector.init(key, tokens, AdapterCall(jnp.int32(0)))["params"]


def _quantized(pieces) -> Iterator[tuple[str, int | None, np.ndarray]]:
    """Every kernel as int8 and its scale, as `quantize_linear_layers` does for a whole tree."""
    to_int8 = jax.jit(quantize)
    for path, layer, array in pieces:
        if not path.endswith("/kernel"):
            yield path, layer, array
        else:
            kernel, scale = _by_columns(to_int8, array)
            yield path, layer, kernel
            yield f"{path.removesuffix('kernel')}scale", layer, scale
        del array  # free it before the next one is read


def _by_columns(to_int8, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8[in, out] and scales float32[out] of a kernel; each column has its own scale."""
    columns = range(0, kernel.shape[1], _COLUMNS)
    parts = [to_int8(kernel[:, start : start + _COLUMNS]) for start in columns]
    kernels, scales = zip(*parts, strict=True)
    return np.concatenate(kernels, axis=1), np.concatenate(scales)

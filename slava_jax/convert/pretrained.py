"""Converted weights on disk: a folder with `weights/` (checkpoint.py) and `tokenizer/`."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from transformers import PreTrainedTokenizerFast

from slava_jax.checkpoint import CheckpointError, appearing, load_facts, load_tree
from slava_jax.convert.rules import Table, Tensors, plan, slices
from slava_jax.data.tokenizer import load_tokenizer, save_tokenizer
from slava_jax.models.decoder import LanguageModel, LlamaConfig
from slava_jax.models.presets import hashable
from slava_jax.models.vit import Vit, VitConfig
from slava_jax.nn.quantized import quantize, quantize_linear_layers
from slava_jax.streaming import save_slices

WEIGHTS, TOKENIZER = "weights", "tokenizer"  # below a folder of converted weights
_COLUMNS = 4096  # of a kernel that are quantised together, which bounds the memory it takes
_CONFIGS = {"llama": LlamaConfig, "vit": VitConfig}


@dataclasses.dataclass(frozen=True)
class Source:
    """What a reader found: the model, its tensors, and the table between them."""

    config: LlamaConfig | VitConfig
    table: Table
    tensors: Tensors
    tokenizer: PreTrainedTokenizerFast | None = None

    @property
    def family(self) -> str:
        """'llama' or 'vit': the name that the model's tree stands under."""
        return "llama" if isinstance(self.config, LlamaConfig) else "vit"


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Converted weights.

    Attributes:
      tree: `{"llama": ...}` or `{"vit": ...}`, of numpy arrays; kernels of a quantised Llama are
        int8 with their `scale` beside them.
    """

    config: LlamaConfig | VitConfig
    tree: dict
    quantized: bool
    tokenizer: PreTrainedTokenizerFast | None


def write(source: Source, directory: str | Path, quantized: bool = False) -> None:
    """Converts into `directory`, which appears when it is whole.

    Args:
      quantized: kernels of a Llama as int8 (nn/quantized.py); everything else stays float32.

    Raises:
      ConvertError: the tensors do not fit.
      CheckpointError: the directory exists, has no room, or cannot be written to; nothing is left
        behind.
      ValueError: a vision encoder, which is not held in int8, shall be quantised.
    """
    if quantized and source.family != "llama":
        raise ValueError("only a Llama is held in int8; leave --quantize out for a vision encoder")
    leaves = _leaves(source.config, False)
    steps = plan(source.table, source.tensors, source.config.layers, list(leaves))
    pieces = slices(steps, source.tensors)
    if quantized:
        leaves, pieces = _leaves(source.config, True), _quantized(pieces)
    named = {f"{source.family}/{path}": leaf for path, leaf in leaves.items()}
    facts = {
        "family": source.family,
        "config": dataclasses.asdict(source.config),
        "quantized": quantized,
        "from": Path(source.tensors.place).name,
    }
    with appearing(directory, reads=source.tensors.place) as unfinished:
        save_slices(
            unfinished / WEIGHTS,
            named,
            ((f"{source.family}/{path}", layer, array) for path, layer, array in pieces),
            facts,
        )
        if source.tokenizer is not None:
            save_tokenizer(source.tokenizer, unfinished / TOKENIZER)


def load(directory: str | Path) -> Pretrained:
    """What `write` left in a directory.

    Raises:
      CheckpointError: it is not that. TokenizerError: the tokenizer of a Llama is gone or damaged.
    """
    config, quantized = described(directory)
    tree, _ = load_tree(Path(directory) / WEIGHTS)
    tokenizer = load_tokenizer(Path(directory) / TOKENIZER) if "llama" in tree else None
    return Pretrained(config, tree, quantized, tokenizer)


def described(directory: str | Path) -> tuple[LlamaConfig | VitConfig, bool]:
    """The model that `write` left in a directory, and whether its kernels are int8; no array read.

    Raises:
      CheckpointError: the directory is not that.
    """
    facts = load_facts(Path(directory) / WEIGHTS)
    if facts.get("family") not in _CONFIGS:
        raise CheckpointError(f"{directory}: not written by python -m slava_jax.convert")
    return _CONFIGS[facts["family"]](**hashable(facts["config"])), facts["quantized"]


def is_converted(directory: str | Path) -> bool:
    """Whether a directory looks like one that `write` left."""
    return (Path(directory) / WEIGHTS).is_dir()


def _leaves(config: LlamaConfig | VitConfig, quantized: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """Path and shape of every leaf of the model, nothing allocated."""
    if isinstance(config, LlamaConfig):
        tokens = jnp.zeros((1, 2), jnp.int32)
        make = lambda: LanguageModel(config).init(jax.random.key(0), tokens, tokens)  # noqa: E731
        shapes = jax.eval_shape(make)["params"]["llama"]
    else:
        side = config.image_size
        images = jnp.zeros((1, side, side, config.channels), jnp.uint8)
        shapes = jax.eval_shape(lambda: Vit(config).init(jax.random.key(0), images))["params"]
    if quantized:
        shapes = jax.eval_shape(quantize_linear_layers, shapes)
    flat = jax.tree_util.tree_leaves_with_path(shapes)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _quantized(pieces) -> Iterator[tuple[str, int | None, np.ndarray]]:
    """Every kernel as int8 and its scale, as `quantize_linear_layers` does to the whole."""
    to_int8 = jax.jit(quantize)
    for path, layer, array in pieces:
        if not path.endswith("/kernel"):
            yield path, layer, array
        else:
            kernel, scale = _by_columns(to_int8, array)
            yield path, layer, kernel
            yield f"{path.removesuffix('kernel')}scale", layer, scale
        del array  # before the next one is read


def _by_columns(to_int8, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8[in, out] and scales float32[out] of a kernel; each column has its own scale."""
    columns = range(0, kernel.shape[1], _COLUMNS)
    parts = [to_int8(kernel[:, start : start + _COLUMNS]) for start in columns]
    kernels, scales = zip(*parts, strict=True)
    return np.concatenate(kernels, axis=1), np.concatenate(scales)

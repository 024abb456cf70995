"""Tiny GGUF files with random weights in every storage format, written by the gguf package."""

import json
import tempfile
from pathlib import Path

import gguf
import numpy as np
from reference_models import VOCABULARY, random_tensors, save_tiny_tokenizer

from slava_jax.convert.decoders import gguf_table
from slava_jax.convert.rules import Row
from slava_jax.models.decoder import DecoderConfig

CONFIG = DecoderConfig(VOCABULARY, 256, 2, 4, 2, 64, 256, norm_eps=1e-5)  # K-quants: blocks of 256
KINDS = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
)  # fmt: skip
# Where in a block of random bytes the half-precision factors stand, which must be small numbers.
_FACTORS = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def write_gguf(
    path: Path, kind: str, architecture="llama", drop=(), extra=None, fields=None
) -> Path:
    """A file whose matrices are stored as `kind`; `drop` leaves fields or tensors out.

    `extra`: more tensors. `fields`: more numbers among the metadata, or others.
    """
    config = CONFIG
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.layers)
    writer.add_context_length(64)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    for name, value in {"llama.rope.dimension_count": config.head_width, **(fields or {})}.items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(name, value)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, "eos" not in drop)
    rng = np.random.default_rng(1)
    rows = [row for row in gguf_table(config) if isinstance(row, Row)]
    for name, array in {**random_tensors(rows, config.layers), **(extra or {})}.items():
        if name in drop:
            continue
        if array.ndim == 1:
            writer.add_tensor(name, array)
            continue
        form = gguf.GGMLQuantizationType[kind]
        stored = (
            _blocks(array, form, rng) if kind in _FACTORS else gguf.quants.quantize(array, form)
        )
        writer.add_tensor(name, stored, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _blocks(array, form, rng):
    """Random uint8[rows, bytes of a row] as large as `array`: the package cannot make K-quants."""
    size, bytes_each = gguf.GGML_QUANT_SIZES[form]
    blocks = rng.integers(0, 256, (len(array), array.shape[1] // size, bytes_each), np.uint8)

    def with_factor(factor):
        factors = (factor * rng.uniform(0.5, 1.5, blocks.shape[:2])).astype(np.float16)
        for at in _FACTORS[form.name]:
            blocks[..., at : at + 2] = factors[..., None].view(np.uint8)
        return blocks.reshape(len(array), -1)

    one = gguf.quants.dequantize(with_factor(1), form)
    return with_factor(array.std() / one.std())


def _add_tokenizer(writer, end_token: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_tiny_tokenizer(Path(folder))
        model = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    tokens += [f"<extra_{i}>" for i in range(VOCABULARY - len(tokens))]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control] * 4 + [normal] * (len(tokens) - 4))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(2)
    if end_token:
        writer.add_eos_token_id(3)

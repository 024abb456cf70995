"""Kinds of input: weights and tokenizers of other libraries."""

import functools
import json
import tempfile
import zlib
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import safetensors.numpy
import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from experiments.fuzz.mutators import chance, chosen, damaged_bytes, damaged_json
from experiments.fuzz.trial import Files, Kind
from slava_jax.convert.decoders import gguf_table, huggingface_table
from slava_jax.convert.gguf import read_gguf
from slava_jax.convert.huggingface import Safetensors, read_folder
from slava_jax.convert.pretrained import _plan
from slava_jax.convert.reading import Source
from slava_jax.convert.rules import Row, Step, Tensors, slices, steps_of
from slava_jax.convert.tokenizers import folder_tokenizer
from slava_jax.data.tokenizer import (
    decode_text,
    encode_texts,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from slava_jax.files import SUMS
from slava_jax.models.decoder import DecoderConfig

ROWS = 268  # of the embedding: 264 tokens, and 4 rows without one
CONFIG = DecoderConfig(ROWS, 8, 2, 2, 1, 4, 12, norm_eps=1e-5)
_PLANNED = 10  # one of so many accepted models is compared with its tensors, which takes longest
_TEXT = "the film is thin: 12 nm"
_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_HEAD = 8  # bytes of the length of a safetensors header
_HF = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": ROWS,
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 4, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "max_position_embeddings": 64, "tie_word_embeddings": False, "attention_bias": False,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "mlp_bias": False,
}  # fmt: skip


def content(folder: Path) -> Files:
    """The files below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@functools.cache
def tokenizer_files() -> Files:
    """A byte-level tokenizer as this library saves it, with checksums."""
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(train_tokenizer(["the film is thin"] * 3, ROWS - 4), folder)
        return content(Path(folder))


def _tensors(table) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    steps = [s for row in table if isinstance(row, Row) for s in steps_of(row, CONFIG.layers)]
    return {s.name: rng.standard_normal(s.row.shape).astype(np.float32) for s in steps}


@functools.cache
def folder_files() -> Files:
    """A language model as transformers saves it."""
    tokenizer = {name: raw for name, raw in tokenizer_files().items() if name != SUMS}
    weights = safetensors.numpy.save(_tensors(huggingface_table(CONFIG)))
    return {"config.json": json.dumps(_HF).encode(), "model.safetensors": weights, **tokenizer}


@functools.cache
def _small_safetensors() -> bytes:
    rng = np.random.default_rng(0)
    arrays = {"a": np.float32, "b": np.float16, "c": ml_dtypes.bfloat16, "d": np.int64}
    held = {name: rng.standard_normal((3, 4)).astype(dtype) for name, dtype in arrays.items()}
    return safetensors.numpy.save(held, {"format": "pt"})


def _safetensors(rng: np.random.Generator) -> Files:
    raw = _small_safetensors()
    if chance(rng, 0.6):
        end = _HEAD + int.from_bytes(raw[:_HEAD], "little")
        header = damaged_json(json.loads(raw[_HEAD:end]), rng)
        return {"x.safetensors": len(header).to_bytes(_HEAD, "little") + header + raw[end:]}
    return {"x.safetensors": damaged_bytes(raw, rng)}


def _all_read(tensors: Tensors) -> dict[str, np.ndarray]:
    names = [name for name in tensors.shapes if name not in tensors.unreadable]
    steps = [Step(name, Row(name, name, tensors.shapes[name]), None) for name in names]
    return {name: array for name, _, array in slices(steps, tensors)}


def _other_tensors(files: Files, found: dict[str, np.ndarray]) -> str:
    raw = files["x.safetensors"]
    end = _HEAD + int.from_bytes(raw[:_HEAD], "little")
    header = json.loads(raw[_HEAD:end])
    for name, array in found.items():
        entry = header[name]
        start, stop = entry["data_offsets"]
        stated = np.frombuffer(raw[end:][start:stop], _DTYPES[entry["dtype"]])
        stated = stated.astype(np.float32).reshape(entry["shape"])
        if not np.array_equal(stated, array):
            return f"{name}: other numbers than its bytes"
    return ""


@functools.cache
def _gguf() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path, config = Path(folder) / "x.gguf", CONFIG
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_block_count(config.layers)
        writer.add_context_length(64)
        writer.add_embedding_length(config.width)
        writer.add_feed_forward_length(config.mlp_width)
        writer.add_head_count(config.heads)
        writer.add_head_count_kv(config.kv_heads)
        writer.add_layer_norm_rms_eps(config.norm_eps)
        writer.add_rope_dimension_count(config.head_width)
        model = json.loads(tokenizer_files()["tokenizer.json"])["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].get)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        types = [gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.NORMAL] * (len(tokens) - 4)
        writer.add_token_types(types)
        writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
        writer.add_bos_token_id(2)
        writer.add_eos_token_id(3)
        for name, array in _tensors(gguf_table(config)).items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _gguf_input(rng: np.random.Generator) -> Files:
    raw = _gguf()
    # The vocabulary is most of the file: the fields before it and the tensors' are damaged, too.
    start = raw.index(b"tokenizer.ggml.model") if chance(rng, 0.5) else len(raw)
    last = raw.index(b"tokenizer.ggml.bos") if chance(rng, 0.5) else start
    return {"x.gguf": raw[:0] + damaged_bytes(raw[:start], rng) + raw[start:] if start < len(raw)
            else raw[:last] + damaged_bytes(raw[last:], rng) if last < len(raw)
            else damaged_bytes(raw, rng)}  # fmt: skip


def one_of(count: int, path: Path) -> bool:
    """True for one of `count` contents of a file: for what takes too long to do every time."""
    return zlib.crc32(path.read_bytes()) % count == 0


def _checked(source: Source, path: Path) -> Source:
    """For some sources, which differ in `path`, also compares the config with the tensors."""
    if one_of(_PLANNED, path):
        _plan(source)
    return source


def _gguf_read(folder: Path) -> dict[str, Any]:
    source = _checked(read_gguf(folder / "x.gguf"), folder / "x.gguf")
    arrays = _all_read(source.tensors)
    return {"arrays": arrays, "text": _round_trip(source.tokenizer)}


def _round_trip(tokenizer) -> str:
    return decode_text(tokenizer, encode_texts(tokenizer, [_TEXT])[0])


def _config(rng: np.random.Generator) -> Files:
    files = dict(folder_files())
    name = chosen(rng, ("config.json", "config.json", "config.json", "tokenizer_config.json"))
    files[name] = damaged_json(json.loads(files[name]), rng)
    return files


def _config_read(folder: Path) -> DecoderConfig:
    source = _checked(read_folder(folder), folder / "config.json")
    _round_trip(source.tokenizer)
    return source.parts["language_model"].config


def _other_config(files: Files, found: DecoderConfig) -> str:
    """Sizes are those of the file."""
    held = json.loads(files["config.json"])
    pairs = {"vocab_size": "vocab_size", "hidden_size": "width", "num_hidden_layers": "layers",
             "num_attention_heads": "heads", "intermediate_size": "mlp_width",
             "rms_norm_eps": "norm_eps"}  # fmt: skip
    known = {key: getattr(found, name) for key, name in pairs.items() if key in held}
    wrong = [key for key, value in known.items() if held[key] != value]
    return f"{wrong[0]}: {held[wrong[0]]!r} became {found}" if wrong else ""


@functools.cache
def _pieces() -> bytes:
    """A sentencepiece model of byte pairs."""
    proto = ModelProto()
    for name, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)):
        proto.pieces.add(piece=name, score=0.0, type=kind)
    for byte in range(256):
        proto.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=6)
    letters = sorted({*_TEXT.replace(" ", "\u2581")})
    for i, piece in enumerate(["th", "\u2581th", "in", "\u2581is", "il", *letters]):
        proto.pieces.add(piece=piece, score=-float(i), type=1)
    spec = proto.trainer_spec
    spec.model_type, spec.byte_fallback, spec.vocab_size = 2, True, len(proto.pieces)
    spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = 0, 1, 2, -1
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    return proto.SerializeToString()


def _tokenizer(rng: np.random.Generator) -> Files:
    sealed = tokenizer_files()
    form = rng.random()
    if form < 0.3:
        name = chosen(rng, sorted(sealed))
        return {**sealed, name: damaged_bytes(sealed[name], rng)}
    if form < 0.7:
        files = {name: raw for name, raw in sealed.items() if name != SUMS}
        name = chosen(rng, ("tokenizer.json", "tokenizer.json", "tokenizer_config.json"))
        return {**files, name: damaged_json(json.loads(files[name]), rng)}
    settings = {"added_tokens_decoder": {"1": {"content": "<s>", "special": True}},
                "tokenizer_class": "LlamaTokenizer", "eos_token": "</s>"}  # fmt: skip
    files = {"tokenizer.model": _pieces(), "tokenizer_config.json": json.dumps(settings).encode()}
    if chance(rng, 0.3):
        return {**files, "tokenizer_config.json": damaged_json(settings, rng)}
    return {**files, "tokenizer.model": damaged_bytes(files["tokenizer.model"], rng)}


def _tokenizer_read(folder: Path) -> list[int]:
    if (folder / "tokenizer.model").exists():
        found = folder_tokenizer(folder, 400)
    else:
        found = load_tokenizer(folder)
    ids = encode_texts(found, [_TEXT])[0]
    decode_text(found, ids)
    return ids


def _other_tokenizer(files: Files, ids: list[int]) -> str:
    if SUMS in files:
        sealed = tokenizer_files()
        return "" if files == sealed else "a folder with checksums that differs is read"
    if "tokenizer.model" not in files:
        return ""
    settings = json.loads(files["tokenizer_config.json"])
    proto = ModelProto()
    proto.ParseFromString(files["tokenizer.model"])
    proto.normalizer_spec.add_dummy_prefix &= settings.get("add_prefix_space") is not False
    other = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    wanted = other.encode(_TEXT)
    return "" if ids == wanted else f"{ids} where sentencepiece has {wanted}"


WEIGHTS = {
    "safetensors": Kind(
        _safetensors,
        lambda folder: _all_read(Safetensors(folder, "x.safetensors")),
        _other_tensors,
    ),
    "GGUF": Kind(_gguf_input, _gguf_read),
    "tokenizers": Kind(_tokenizer, _tokenizer_read, _other_tokenizer),
    "configs": Kind(_config, _config_read, _other_config),
}

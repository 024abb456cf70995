"""GGUF files: rows in our order, numbers as the gguf package reads them, Llama-3's scaling."""

import gguf
import numpy as np
import pytest
from gguf_files import CONFIG, KINDS, write_gguf

from slava_jax.convert.gguf import GgufTensors, read_gguf
from slava_jax.convert.pretrained import load, write
from slava_jax.convert.rules import ConvertError, plan
from slava_jax.convert.tokenizers import gguf_tokenizer
from slava_jax.nn.attention import rope_frequencies


def test_gguf_rows_come_back_in_our_order(tmp_path):
    """llama.cpp stores row (pair, half) of a head where Hugging Face has (half, pair)."""
    path = write_gguf(tmp_path / "model.gguf", "F32")
    source, held = read_gguf(path), GgufTensors(path)
    steps = plan(
        source.parts["language_model"].table,
        held,
        CONFIG.layers,
        [row.path for row in source.parts["language_model"].table[:-1]],
    )
    (step,) = (s for s in steps if s.name == "blk.1.attn_k.weight")
    stored, found = held.read(step.name), step.row.change(held.read(step.name)).T
    half = CONFIG.head_width // 2
    for head in range(CONFIG.kv_heads):
        for pair in (0, 1, half - 1):
            at = head * CONFIG.head_width
            np.testing.assert_array_equal(found[at + pair], stored[at + 2 * pair])
            np.testing.assert_array_equal(found[at + half + pair], stored[at + 2 * pair + 1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_storage_format(kind, tmp_path):
    """A whole file: its matrices are what the package dequantises, transposed."""
    path = write_gguf(tmp_path / "model.gguf", kind)
    write(read_gguf(path), tmp_path / "ours")
    found, held = load(tmp_path / "ours"), GgufTensors(path)
    assert found.configs["language_model"] == CONFIG
    up = found.tree["language_model"]["blocks"]["up"]["kernel"]
    np.testing.assert_array_equal(up[1], held.read("blk.1.ffn_up.weight").T)
    assert 0.05 < up.std() < 0.08  # 1 / 16, as written


SCALING = (8.0, 1.0, 4.0, 8192.0)


def divisors(scaling) -> np.ndarray:
    half = CONFIG.head_width // 2
    plain = rope_frequencies(half, CONFIG.rope_theta)
    return np.asarray(plain / rope_frequencies(half, CONFIG.rope_theta, scaling), np.float32)


def test_llama_3_scaling_is_recognised(tmp_path):
    """GGUF has one divisor per frequency instead of four numbers; other divisors are refused."""
    path = tmp_path / "model.gguf"
    write_gguf(path, "F16", extra={"rope_freqs.weight": divisors(SCALING)})
    assert read_gguf(path).configs["language_model"].rope_scaling == SCALING
    write_gguf(path, "F16", extra={"rope_freqs.weight": divisors((8.0, 1.0, 2.0, 8192.0))})
    with pytest.raises(ConvertError, match="is not Llama 3's rope scaling"):
        read_gguf(path)


def test_numbers_come_as_they_were_written(tmp_path):
    """1e-5, not the nearest float32, so that it equals the number in a config."""
    assert (
        read_gguf(write_gguf(tmp_path / "model.gguf", "F16")).configs["language_model"].norm_eps
        == 1e-5
    )


def test_a_format_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """The package cannot dequantise every format."""

    def refuse(*_):
        raise NotImplementedError

    path = write_gguf(tmp_path / "model.gguf", "Q8_0")
    monkeypatch.setattr(gguf.quants, "dequantize", refuse)
    with pytest.raises(ConvertError, match=r"token_embd.weight is Q8_0.*use a file in"):
        write(read_gguf(path), tmp_path / "ours")


@pytest.mark.parametrize(
    ("name", "value"),
    [("rope.scaling.factor", 4.0), ("rope.scale_linear", 4.0), ("rope.dimension_count", 32)],
)
def test_another_rotation_is_refused(tmp_path, name, value):
    """Scaled (older files give no type) or partial; factors 0 and 1 have no effect."""
    path = write_gguf(tmp_path / "model.gguf", "F16", fields={f"llama.{name}": value})
    with pytest.raises(ConvertError, match=f"model.gguf: llama.{name} is {value}"):
        read_gguf(path)
    if "dimension" not in name:
        for nothing in (0.0, 1.0):
            write_gguf(path, "F16", fields={f"llama.{name}": nothing})
            assert read_gguf(path).configs["language_model"] == CONFIG


def tokens_of(pre: str | None, text: str) -> list[str]:
    """With a character vocabulary that merges two spaces, and the digits 1 and 2."""
    tokens = ["<s>", "</s>", "a", "5", "n", "m", "1", "2", "Ġ", "ĠĠ", "12"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["Ġ Ġ", "1 2"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    metadata = {name: value for name, value in metadata.items() if value is not None}
    tokenizer = gguf_tokenizer(metadata, len(tokens), "model.gguf")
    return [tokens[i] for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


def test_text_is_cut_as_the_vocabulary_was_learned():
    """Worked out by hand.

    SmolLM splits at every digit first, so spaces before a digit stay together; GPT-2 keeps a space
    with the number after it, and the digits of a number together.
    """
    assert tokens_of("smollm", "a  5 nm") == ["a", "ĠĠ", "5", "Ġ", "n", "m"]
    assert tokens_of("gpt-2", "a  5 nm") == ["a", "Ġ", "Ġ", "5", "Ġ", "n", "m"]
    assert tokens_of("smollm", "12") == ["1", "2"]
    assert tokens_of("gpt-2", "12") == ["12"]
    with pytest.raises(ConvertError, match=r"tokenizer.ggml.pre is 'poro-chat'.*Hugging Face"):
        tokens_of("poro-chat", "a")


@pytest.mark.parametrize("pre", [None, "default"])
def test_a_cut_that_is_not_stated_is_refused(pre):
    """Llama 3's early files: GPT-2's cut would read "4096" as 40 96."""
    with pytest.raises(ConvertError, match=r"model.gguf: tokenizer.ggml.pre.*--pre-tokenizer NAME"):
        tokens_of(pre, "12")

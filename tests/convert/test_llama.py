"""The Llama family against transformers: from folders and from GGUF, plain and cached."""

import json
from pathlib import Path

import numpy as np
import pytest
from gguf_files import KINDS, write_gguf
from reference_models import (
    VOCABULARY,
    Cached,
    plain_logits,
    plain_states,
    randomise,
    save_folder,
)
from safetensors.numpy import load_file, save_file

from slava_jax.convert.gguf import read_gguf
from slava_jax.convert.huggingface import read_folder
from slava_jax.convert.pretrained import load, write
from slava_jax.nn.attention import rope_frequencies

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (1, 40), dtype=np.int32)
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip


def tiny(**settings):
    """A tiny transformers Llama, with wavelengths long enough for scaling to matter."""
    settings = {"num_key_value_heads": 2, "tie_word_embeddings": False, **settings}
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, attn_implementation="eager", **settings,
    )  # fmt: skip
    return randomise(transformers.LlamaForCausalLM(config))


def reference(model, tokens=TOKENS):
    """(logits, normalised states) of transformers."""
    with torch.no_grad():
        ids = torch.from_numpy(tokens).long()
        return model(ids).logits.numpy(), model.model(ids).last_hidden_state.numpy()


def check(loaded, model):
    """Logits and states in one pass, and logits from a cache in three pieces."""
    wanted, states = reference(model)
    assert wanted.std() > 0.3
    np.testing.assert_allclose(plain_logits(loaded, TOKENS), wanted, atol=1e-4)
    np.testing.assert_allclose(plain_states(loaded, TOKENS), states, atol=1e-4)
    cached = Cached(loaded, 48)
    pieces = [cached.feed(piece) for piece in np.split(TOKENS[0], [25, 26])]
    np.testing.assert_allclose(np.concatenate(pieces), wanted[0], atol=1e-4)


def convert(folder: Path):
    write(read_folder(folder), folder / "ours")
    return load(folder / "ours")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_logits_and_states(kv_heads, tied, tmp_path):
    """With and without grouped heads; separate and tied output head."""
    model = tiny(num_key_value_heads=kv_heads, tie_word_embeddings=tied)
    loaded = convert(save_folder(model, tmp_path / "theirs"))
    assert (
        loaded.configs["language_model"].kv_heads == kv_heads
        and loaded.configs["language_model"].tie_embeddings == tied
    )
    check(loaded, model)


def test_settings_that_are_not_the_defaults(tmp_path):
    """Head width, norm eps and rope theta each change the logits."""
    model = tiny(
        head_dim=16, rms_norm_eps=0.01, rope_parameters={"rope_type": "default", "rope_theta": 50.0}
    )
    check(convert(save_folder(model, tmp_path / "theirs")), model)


def test_llama_3_rope_scaling(tmp_path):
    """Long waves are stretched, short ones kept, those between interpolated."""
    model = tiny(rope_parameters=LLAMA3, head_dim=16)
    loaded = convert(save_folder(model, tmp_path / "theirs"))
    ratio = rope_frequencies(8, 500.0) / rope_frequencies(
        8, 500.0, loaded.configs["language_model"].rope_scaling
    )
    assert ratio.min() == 1 and ratio.max() == 8 and np.any((ratio > 1.01) & (ratio < 7.99))
    check(loaded, model)


def test_llama_3_scaling_without_an_original_length(tmp_path):
    """transformers uses max_position_embeddings instead."""
    rope = {k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"}
    model = tiny(rope_parameters=dict(rope), head_dim=16, max_position_embeddings=48)
    folder = save_folder(model, tmp_path / "theirs")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
    loaded = convert(folder)
    assert loaded.configs["language_model"].rope_scaling[3] == 48
    check(loaded, model)


def test_a_tied_head_that_is_stored_all_the_same(tmp_path):
    model = tiny(tie_word_embeddings=True)
    folder = save_folder(model, tmp_path / "theirs")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    check(convert(folder), model)


def test_shards(tmp_path):
    """Several files with an index give the same result as one file."""
    model = tiny()
    folder = save_folder(model, tmp_path / "theirs", max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    check(convert(folder), model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_widened(dtype, tmp_path):
    """The numbers in the file, as float32."""
    folder = save_folder(tiny().to(getattr(torch, dtype)), tmp_path / "theirs")
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    check(convert(folder), model.eval())


@pytest.mark.parametrize("kind", KINDS)
def test_gguf_as_transformers_reads_it(kind, tmp_path):
    """Every storage format: q and k come back from llama.cpp's order; the same logits."""
    path = write_gguf(tmp_path / "model.gguf", kind)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    )
    write(read_gguf(path), tmp_path / "ours")
    check(load(tmp_path / "ours"), model.eval())

"""Qwen2 and Qwen3 against transformers: import, cache, int8, export."""

import numpy as np
import pytest
from reference_models import (
    VOCABULARY,
    Cached,
    plain_logits,
    randomise,
    save_folder,
)

from slava_jax.convert import export
from slava_jax.convert.huggingface import read_folder
from slava_jax.convert.pretrained import load, write

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 24), dtype=np.int32)
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "attn_implementation": "eager",
}  # fmt: skip


def qwen2(**settings):
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL, **settings))


def qwen3(**settings):
    """Heads of 16, which is not hidden_size / num_attention_heads."""
    config = transformers.Qwen3Config(**SMALL, head_dim=16, **settings)
    return transformers.Qwen3ForCausalLM(config)


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.numpy()


def converted(folder, name="ours", quantized=False):
    write(read_folder(folder), folder.parent / name, quantized)
    return load(folder.parent / name)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("make", [qwen2, qwen3])
def test_the_logits_of_transformers(make, tied, tmp_path):
    """In one pass, and from a cache in three pieces, with random biases and norms."""
    model = randomise(make(tie_word_embeddings=tied), 0.2)
    loaded, wanted = converted(save_folder(model, tmp_path / "theirs")), logits(model)
    shape = loaded.configs["language_model"]
    assert (shape.qkv_bias, shape.qk_norm) == (make is qwen2, make is qwen3)
    assert wanted.std() > 0.3
    np.testing.assert_allclose(plain_logits(loaded, TOKENS), wanted, atol=1e-4)
    cached = Cached(loaded, 32)
    pieces = [cached.feed(piece) for piece in np.split(TOKENS[0], [15, 16])]
    np.testing.assert_allclose(np.concatenate(pieces), wanted[0], atol=1e-4)


@pytest.mark.parametrize("make", [qwen2, qwen3])
def test_what_came_in_goes_out_the_same(make, tmp_path):
    """Exported with its own architecture, loaded by transformers; imported again bitwise equal."""
    model = randomise(make(rope_parameters={"rope_type": "default", "rope_theta": 500.0}), 0.2)
    loaded = converted(save_folder(model, tmp_path / "theirs"))
    shape, tree = loaded.configs["language_model"], loaded.tree["language_model"]
    export.write_folder(export.base_model(shape, tree), loaded.tokenizer, tmp_path / "out")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(again) is type(model)
    np.testing.assert_allclose(logits(again), logits(model), atol=1e-5)
    back = converted(tmp_path / "out", "again")
    assert back.configs == loaded.configs
    attention, held = (of["blocks"]["attention"] for of in (back.tree["language_model"], tree))
    names = [("q", "bias"), ("v", "bias")] if make is qwen2 else [("q_norm", "scale")]
    for name, leaf in names:
        np.testing.assert_array_equal(attention[name][leaf], held[name][leaf])


@pytest.mark.parametrize("make", [qwen2, qwen3])
def test_int8_leaves_biases_and_norms_alone(make, tmp_path):
    """They stay float32 in the frozen tree, and the logits are close."""
    model = randomise(make(), 0.2)
    folder = save_folder(model, tmp_path / "theirs")
    loaded, whole = converted(folder, "int8", True), converted(folder)
    attention = loaded.tree["language_model"]["blocks"]["attention"]
    held = whole.tree["language_model"]["blocks"]["attention"]
    assert attention["q"]["kernel"].dtype == np.int8
    for name, leaf in [("k", "bias")] if make is qwen2 else [("k_norm", "scale")]:
        np.testing.assert_array_equal(attention[name][leaf], held[name][leaf])
        assert attention[name][leaf].dtype == np.float32
    wanted = logits(model)
    difference = np.abs(plain_logits(loaded, TOKENS) - wanted)
    assert difference.max() > 1e-4 and difference.mean() < 0.05 * wanted.std()

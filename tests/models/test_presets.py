"""The parameters of the paper's model, trained and frozen, from shapes without allocation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from slava_jax.models.presets import PAPER, build_model, variable_shapes
from slava_jax.models.slava import Slava

LLAMA_2_7B = 6_738_415_616  # parameters, with embedding and head (the model card of Llama-2-7b)


@functools.cache
def shapes(decoder="llama"):
    """Variables of the preset for one example; only `llama` calls the head."""
    model = Slava(dataclasses.replace(PAPER, decoder=decoder), jnp.bfloat16)
    variables = variable_shapes(model)
    return variables


def base_sizes(tree):
    """(parameters, int8 bytes) of a frozen Llama, without scales of int8 kernels and A."""
    count = stored = 0
    for name, leaf in tree.items():
        if isinstance(leaf, dict):
            inner = base_sizes(leaf)
            count, stored = count + inner[0], stored + inner[1]
        elif name != "lora_a" and not (name == "scale" and "kernel" in tree):
            count += leaf.size
            stored += leaf.size if leaf.dtype == jnp.int8 else 0
    return count, stored


def size(tree, name=None):
    """Number of entries of all leaves, or of those with a name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sum(leaf.size for path, leaf in leaves if name in (None, path[-1].key))


def test_the_text_encoder_is_llama_2_7b():
    """Exact parameter count; all but embedding and norms is int8."""
    count, stored = base_sizes(shapes()["frozen"]["language_model"])
    assert count == LLAMA_2_7B
    assert stored == LLAMA_2_7B - 32_000 * 4096 - 65 * 4096
    leaves = jax.tree.leaves(shapes()["frozen"]["language_model"])
    gib = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / 2**30
    assert 6.0 < gib < 7.0  # plus 25 in float32


def test_the_adapters_share_is_half_a_percent():
    """4 experts of 16 rows for q, k, v, o of 32 blocks, and a 16 x 4 router each."""
    params = shapes()["params"]["language_model"]
    assert size(params, "lora_b") == 32 * 4 * 4 * 16 * 4096
    assert size(params, "router") == 32 * 4 * 16 * 4
    share = (size(params, "lora_b") + size(params, "router")) / LLAMA_2_7B
    assert 0.0049 < share < 0.0051


def test_the_vision_encoder_is_the_papers():
    """224 / 32, width 64, 4 heads of 32, `<cls>`."""
    vit = shapes()["params"]["vit"]
    assert vit["positions"].shape == (49 + 1, 64)
    assert vit["patch_embedding"]["kernel"].shape == (32 * 32 * 3, 64)
    assert vit["blocks"]["attention"]["q"]["kernel"].shape == (6, 64, 4 * 32)


def test_the_base_is_whole_whichever_decoder_reads_it():
    """The transformer decoder never uses the head, 2 % of the base, but exports need it."""
    frozen = {name: shapes(name)["frozen"] for name in ("transformer", "llama")}
    assert jax.tree.map(str, frozen["transformer"]) == jax.tree.map(str, frozen["llama"])
    assert size(shapes("transformer")["params"]["decoder"]) > 0


def test_a_runs_config_gives_the_model_it_describes():
    """A config of the preset builds the preset; the vocabulary is the tokenizer's."""
    config = {**dataclasses.asdict(PAPER), "model": "slava", "dtype": "bfloat16"}
    del config["language_model"]["vocab_size"]
    assert build_model(config, 32_000) == Slava(PAPER, jnp.bfloat16)
    assert build_model(config, 1000).config.vocab_size == 1004
    inline = {**config, "model": "inline", "template": "plain"}
    inline["connector"] = {"kind": "mlp", "dropout": 0.0}
    built = build_model(inline, 1000).config
    assert (built.vit, built.connector.kind, built.template) == (PAPER.vit, "mlp", "plain")
    with pytest.raises(ValueError, match="model: must be one of slava, inline, is 'x'"):
        build_model({**config, "model": "x"}, 1000)

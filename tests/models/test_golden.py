"""Decoder and vision encoder against stored outputs of transformers (tests/golden/make.py)."""

import functools
from pathlib import Path

import jax
import numpy as np
from golden.make import CLIP, LLAMA, PIXELS, weight
from reference_models import Held

from slava_jax.convert.decoders import decoder_config, huggingface_table
from slava_jax.convert.rules import Row, Table, slices, steps_of
from slava_jax.convert.vision import clip
from slava_jax.models.decoder import LanguageModel
from slava_jax.models.vit import Vit

GOLDEN = Path(__file__).parents[1] / "golden"


def tree_of(table: Table, layers: int) -> dict:
    """The random weights as our tree."""
    steps = [step for row in table if isinstance(row, Row) for step in steps_of(row, layers)]
    held = Held({step.name: weight(step.name, step.row.shape) for step in steps})
    leaves: dict[str, list] = {}
    for path, layer, array in slices(steps, held):
        leaves.setdefault(path, []).append(array if layer is None else array[None])
    tree: dict = {}
    for path, arrays in leaves.items():
        *folders, name = path.split("/")
        node = functools.reduce(lambda node, key: node.setdefault(key, {}), folders, tree)
        node[name] = np.concatenate(arrays)
    return tree


def test_a_llama_gives_the_logits_that_transformers_gave():
    golden = np.load(GOLDEN / "llama.npz")
    config = decoder_config({"model_type": "llama", **LLAMA}, GOLDEN)
    variables = {"params": {"language_model": tree_of(huggingface_table(config), config.layers)}}
    tokens = golden["tokens"]
    order = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    found = jax.jit(LanguageModel(config).apply)(variables, tokens, order)
    assert golden["logits"].std() > 0.3
    np.testing.assert_allclose(found, golden["logits"], atol=1e-4)


def test_a_clip_gives_the_states_that_transformers_gave():
    golden = np.load(GOLDEN / "clip.npz")
    config, table = clip(CLIP, PIXELS, (), None)
    variables = {"params": tree_of(table, config.layers)}
    found = jax.jit(Vit(config).apply)(variables, golden["images"])
    assert golden["states"].std() > 0.3
    np.testing.assert_allclose(found, golden["states"], atol=1e-4)

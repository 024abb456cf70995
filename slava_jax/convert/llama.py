"""The Llama family: one table, under the names of Hugging Face and those of GGUF.

Letters: `V` vocabulary, `D` width, `F` MLP width, `Q` and `K` the widths of all query and all
key/value heads.
"""

import dataclasses
import functools

import numpy as np

from slava_jax.convert.rules import LeftOut, Row, Table, transposed
from slava_jax.models.decoder import LlamaConfig

_GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.layers.{}.self_attn.q_proj.weight": "blk.{}.attn_q.weight",
    "model.layers.{}.self_attn.k_proj.weight": "blk.{}.attn_k.weight",
    "model.layers.{}.self_attn.v_proj.weight": "blk.{}.attn_v.weight",
    "model.layers.{}.self_attn.o_proj.weight": "blk.{}.attn_output.weight",
    "model.layers.{}.mlp.gate_proj.weight": "blk.{}.ffn_gate.weight",
    "model.layers.{}.mlp.up_proj.weight": "blk.{}.ffn_up.weight",
    "model.layers.{}.mlp.down_proj.weight": "blk.{}.ffn_down.weight",
    "model.layers.{}.input_layernorm.weight": "blk.{}.attn_norm.weight",
    "model.layers.{}.post_attention_layernorm.weight": "blk.{}.ffn_norm.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def huggingface_table(c: LlamaConfig) -> Table:
    """Rows of a `LlamaForCausalLM`."""
    V, D, F = c.vocab_size, c.width, c.mlp_width
    Q, K = c.heads * c.head_width, c.kv_heads * c.head_width
    layer, block = "model.layers.{}", "blocks"
    rows = [
        Row("model.embed_tokens.weight", "embedding", (V, D)),
        Row(f"{layer}.self_attn.q_proj.weight", f"{block}/attention/q/kernel", (Q, D), transposed),
        Row(f"{layer}.self_attn.k_proj.weight", f"{block}/attention/k/kernel", (K, D), transposed),
        Row(f"{layer}.self_attn.v_proj.weight", f"{block}/attention/v/kernel", (K, D), transposed),
        Row(f"{layer}.self_attn.o_proj.weight", f"{block}/attention/o/kernel", (D, Q), transposed),
        Row(f"{layer}.mlp.gate_proj.weight", f"{block}/gate/kernel", (F, D), transposed),
        Row(f"{layer}.mlp.up_proj.weight", f"{block}/up/kernel", (F, D), transposed),
        Row(f"{layer}.mlp.down_proj.weight", f"{block}/down/kernel", (D, F), transposed),
        Row(f"{layer}.input_layernorm.weight", f"{block}/attention_norm/scale", (D,)),
        Row(f"{layer}.post_attention_layernorm.weight", f"{block}/mlp_norm/scale", (D,)),
        Row("model.norm.weight", "norm/scale", (D,)),
        LeftOut("model.layers.*.self_attn.rotary_emb.inv_freq", "follows from rope_theta"),
    ]
    if c.tie_embeddings:
        return [*rows, LeftOut("lm_head.weight", "tied: the embedding is read in its place")]
    return [*rows, Row("lm_head.weight", "head/kernel", (V, D), transposed)]


def gguf_table(c: LlamaConfig) -> Table:
    """The same rows as llama.cpp names them, where q and k have their rotary halves interleaved."""
    rows = [row for row in huggingface_table(c) if isinstance(row, Row)]
    renamed = [dataclasses.replace(row, source=_GGUF_NAMES[row.source]) for row in rows]
    return [*(_halved(row, c) for row in renamed), LeftOut("rope_freqs.weight", "in the config")]


def _halved(row: Row, c: LlamaConfig) -> Row:
    for source, heads in (("attn_q", c.heads), ("attn_k", c.kv_heads)):
        if source in row.source:
            return dataclasses.replace(row, change=functools.partial(_halves, heads=heads))
    return row


def _halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from (pair, half) order, as llama.cpp rotates, to our two halves."""
    out, width = array.shape
    array = array.reshape(heads, out // heads // 2, 2, width).swapaxes(1, 2)
    return transposed(array.reshape(out, width))

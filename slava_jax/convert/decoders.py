"""Llama, Qwen2 and Qwen3: one config and one table, with Hugging Face and GGUF names.

The three differ in two settings: Qwen2 has q, k and v biases, Qwen3 normalises each head of q and
k. Letters: `V` vocabulary, `D` width, `F` MLP width, `Q` and `K` total width of the query and of
the key/value heads, `C` width of one head.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from slava_jax.convert.rules import ConvertError, LeftOut, Row, Table, transposed
from slava_jax.convert.settings import epsilon, flag, mapping, positive, whole
from slava_jax.models.decoder import DecoderConfig

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# Defaults of transformers for missing keys.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
# Further defaults for keys that LLaVA's text_config may omit.
SIZES = {
    "llama": {
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008,
        "num_hidden_layers": 32, "num_attention_heads": 32,
    },
    "qwen2": {
        "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 22_016,
        "num_hidden_layers": 32, "num_attention_heads": 32,
    },
}  # fmt: skip
SIZES["qwen3"] = SIZES["qwen2"]

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


def kind_of(c: DecoderConfig) -> str:
    """The key of ARCHITECTURES for a decoder.

    Raises:
      ConvertError: both qkv_bias and qk_norm are set, which no family has.
    """
    if c.qkv_bias and c.qk_norm:
        raise ConvertError(
            "language_model: qkv_bias (Qwen2) and qk_norm (Qwen3) are both set; no architecture "
            "that can be exported has both"
        )
    return "qwen2" if c.qkv_bias else "qwen3" if c.qk_norm else "llama"


def huggingface_table(c: DecoderConfig, stem: str = "model", head: str = "lm_head") -> Table:
    """Rows of a language model of ARCHITECTURES.

    Args:
      stem, head: name prefixes of its tensors and of the head's.
    """
    V, D, F, C = c.vocab_size, c.width, c.mlp_width, c.head_width
    Q, K = c.heads * C, c.kv_heads * C
    theirs, ours = f"{stem}.layers.{{}}", "blocks"
    rows: list[Row | LeftOut] = [Row(f"{stem}.embed_tokens.weight", "embedding", (V, D))]
    for name, shape in {"q": (Q, D), "k": (K, D), "v": (K, D), "o": (D, Q)}.items():
        module, path = f"{theirs}.self_attn.{name}_proj", f"{ours}/attention/{name}"
        rows.append(Row(f"{module}.weight", f"{path}/kernel", shape, transposed))
        if c.qkv_bias and name != "o":
            rows.append(Row(f"{module}.bias", f"{path}/bias", shape[:1]))
        if c.qk_norm and name in "qk":
            norm = f"{theirs}.self_attn.{name}_norm.weight"
            rows.append(Row(norm, f"{ours}/attention/{name}_norm/scale", (C,)))
    rows += [
        Row(f"{theirs}.mlp.gate_proj.weight", f"{ours}/gate/kernel", (F, D), transposed),
        Row(f"{theirs}.mlp.up_proj.weight", f"{ours}/up/kernel", (F, D), transposed),
        Row(f"{theirs}.mlp.down_proj.weight", f"{ours}/down/kernel", (D, F), transposed),
        Row(f"{theirs}.input_layernorm.weight", f"{ours}/attention_norm/scale", (D,)),
        Row(f"{theirs}.post_attention_layernorm.weight", f"{ours}/mlp_norm/scale", (D,)),
        Row(f"{stem}.norm.weight", "norm/scale", (D,)),
        LeftOut(f"{stem}.layers.*.self_attn.rotary_emb.inv_freq", "follows from rope_theta"),
    ]
    if c.tie_embeddings:
        return [*rows, LeftOut(f"{head}.weight", "tied: the embedding is read instead")]
    return [*rows, Row(f"{head}.weight", "head/kernel", (V, D), transposed)]


def gguf_table(c: DecoderConfig) -> Table:
    """Rows of a Llama under llama.cpp's names; its q and k interleave the two halves of a head."""
    rows = [row for row in huggingface_table(c) if isinstance(row, Row)]
    renamed = [dataclasses.replace(row, source=_GGUF_NAMES[row.source]) for row in rows]
    return [*(_halved(row, c) for row in renamed), LeftOut("rope_freqs.weight", "in the config")]


def _halved(row: Row, c: DecoderConfig) -> Row:
    for source, heads in (("attn_q", c.heads), ("attn_k", c.kv_heads)):
        if source in row.source:
            return dataclasses.replace(row, change=functools.partial(_halves, heads=heads))
    return row


def _halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Reorders the rows of each head from llama.cpp's (pair, half) order to our two halves."""
    out, width = array.shape
    array = array.reshape(heads, out // heads // 2, 2, width).swapaxes(1, 2)
    return transposed(array.reshape(out, width))


def decoder_config(config: dict, path: Path) -> DecoderConfig:
    """Our config for a transformers `LlamaConfig`, `Qwen2Config` or `Qwen3Config`.

    Args:
      config: config.json, whose model_type is one of ARCHITECTURES; defaults are transformers'.

    Raises:
      ConvertError: a setting that our decoder does not support. KeyError, ValueError: a setting is
        missing or invalid.
    """
    kind = config["model_type"]
    rope = _rope(config)
    theta = positive(rope if "rope_theta" in rope else config, "rope_theta", 10_000.0)
    layers, kinds = whole(config, "num_hidden_layers"), config.get("layer_types")
    full = isinstance(kinds, list) and len(kinds) == layers == kinds.count("full_attention")
    refused = {
        "attention_bias": config.get("attention_bias", False),
        "mlp_bias": config.get("mlp_bias", False),
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "rope type": rope_type(rope) not in ("default", "llama3"),
        "mrope_section": rope.get("mrope_section") is not None,
        "partial_rotary_factor": {**config, **rope}.get("partial_rotary_factor", 1.0) != 1.0,
        "quantization_config": config.get("quantization_config") is not None,
        "use_sliding_window": config.get("use_sliding_window", False),
        "layer_types": kinds is not None and not full,
    }
    if any(refused.values()):
        names = ", ".join(name for name, is_so in refused.items() if is_so)
        raise ConvertError(f"{path}: values not supported by the decoder here: {names}")
    heads, width = whole(config, "num_attention_heads"), whole(config, "hidden_size")
    # transformers writes null for these two when they are unset
    derived = {"num_key_value_heads": heads, "head_dim": width // heads, **_DEFAULTS[kind]}
    given = {name: config[name] for name in derived if config.get(name) is not None}
    derived = {**derived, **given}
    head_width = derived["head_dim"]
    if "head_dim" in given:
        head_width = whole(config, "head_dim")
    if head_width < 2 or head_width % 2:
        raise ValueError(
            f"head_dim (or hidden_size / num_attention_heads): must be even, is {head_width}"
        )
    return DecoderConfig(
        vocab_size=whole(config, "vocab_size"),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=whole(derived, "num_key_value_heads"),
        head_width=head_width,
        mlp_width=whole(config, "intermediate_size"),
        rope_theta=theta,
        norm_eps=epsilon(config, "rms_norm_eps", 1e-6),
        tie_embeddings=flag(config, "tie_word_embeddings", False),
        rope_scaling=_llama3_scaling(rope) if rope_type(rope) == "llama3" else (),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
    )


def _rope(config: dict) -> dict:
    """Rope parameters: `rope_parameters`, or `rope_scaling` from older transformers."""
    now, before = (_named(mapping(config, key)) for key in ("rope_parameters", "rope_scaling"))
    original = "original_max_position_embeddings"
    rope = {**before, **now}
    for told in (before, config):  # transformers silently prefers either to rope_parameters
        differing = [
            k for k in (*before, original) if k in told and told[k] != rope.get(k, told[k])
        ]
        if differing:
            raise ValueError(f"{', '.join(differing)}: given twice with different values; keep one")
    # If nothing gives the original length, it is the length the model has.
    for source in (config, {original: config.get("max_position_embeddings")}):
        if rope.get(original) is None and source.get(original) is not None:
            rope[original] = source[original]
    return rope


def _named(rope: dict) -> dict:
    """Rope parameters under today's names; older files call the type `type`."""
    if "type" not in rope:
        return rope
    kind = rope["type"]
    if rope.get("rope_type", kind) != kind:
        raise ValueError("type, rope_type: given twice with different values; keep one")
    return {**{k: v for k, v in rope.items() if k != "type"}, "rope_type": kind}


def rope_type(rope: dict) -> str:
    """The type in a config's rope parameters."""
    return rope.get("rope_type", "default")


def _llama3_scaling(rope: dict) -> tuple[float, ...]:
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return tuple(positive(rope, name) for name in names)


def decoder_settings(c: DecoderConfig) -> dict[str, Any]:
    """config.json of a decoder, with keys that old and new releases of transformers read.

    Raises:
      ConvertError: see `kind_of`.
    """
    kind, scaling = kind_of(c), None
    if c.rope_scaling:
        factor, low, high, original = c.rope_scaling
        scaling = {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low,
            "high_freq_factor": high, "original_max_position_embeddings": int(original),
        }  # fmt: skip
    own = {
        "llama": {"attention_bias": False, "mlp_bias": False},
        "qwen2": {"use_sliding_window": False},
        "qwen3": {"attention_bias": False, "use_sliding_window": False},
    }
    return {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_width,
        "intermediate_size": c.mlp_width,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": c.tie_embeddings,
        **own[kind],
    }

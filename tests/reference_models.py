"""Tiny random models of transformers as folders, and a converted Llama run plainly and cached."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from slava_jax.convert.decoders import decoder_config, huggingface_table
from slava_jax.convert.llava import Names, llava_parts
from slava_jax.convert.pretrained import Part, Pretrained, Source
from slava_jax.convert.rules import Row
from slava_jax.convert.vision import vit
from slava_jax.data.tokenizer import save_tokenizer, train_tokenizer
from slava_jax.models.decoder import (
    BlockCache,
    BlockInputs,
    Decoder,
    DecoderConfig,
    DecoderMode,
    LanguageModel,
)

VOCABULARY = 270  # of the tiny language models: 256 bytes, 4 special tokens, 10 merges


def randomise(model, deviation=0.1):
    """Every weight of a torch model away from its initial zero or one, from one seed."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(deviation * torch.randn_like(weight))
    return model.eval()


def save_folder(model, folder: Path, **options) -> Path:
    """A folder as `save_pretrained` makes it, with a tokenizer beside a language model."""
    model.save_pretrained(folder, **options)
    if getattr(model.config, "vocab_size", None):
        save_tiny_tokenizer(folder)
    return folder


def save_tiny_tokenizer(folder: Path) -> None:
    """A byte-level one, smaller than the vocabulary of the tiny models."""
    save_tokenizer(train_tokenizer(["the film is thin"] * 3, VOCABULARY - 6), folder)


def variables(loaded: Pretrained) -> tuple[DecoderMode, dict]:
    """How the weights are held, and the collection they lie in."""
    if loaded.quantized:
        return DecoderMode(frozen=True, quantized=True), {"frozen": loaded.tree}
    return DecoderMode(), {"params": loaded.tree}


def plain_logits(loaded: Pretrained, tokens) -> np.ndarray:
    """float32[B, T, V] of int32[B, T] in one pass."""
    mode, collections = variables(loaded)
    order = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    model = LanguageModel(loaded.configs["language_model"], mode)
    return np.asarray(jax.jit(model.apply)(collections, tokens, order))


class Cached:
    """A converted Llama with a cache of `length` tokens, one example."""

    def __init__(self, loaded: Pretrained, length: int):
        c = loaded.configs["language_model"]
        mode, collections = variables(loaded)
        self._model = Decoder(c, mode)
        self._variables = {name: tree["language_model"] for name, tree in collections.items()}
        shape = (c.layers, 1, length, c.kv_heads, c.head_width)
        self._cache, self._slot = BlockCache.empty(*shape, jnp.float32), 0

    def feed(self, tokens) -> np.ndarray:
        """Logits float32[T, V] of the next int32[T] tokens."""
        tokens = np.asarray(tokens, np.int32)[None]
        logits, self._cache = _step(self._model, self._variables, tokens, self._cache, self._slot)
        self._slot += tokens.shape[1]
        return np.asarray(logits[0])


@functools.partial(jax.jit, static_argnames=("model",))
def _step(model, variables, tokens, cache, slot):
    def run(model):
        order = jnp.broadcast_to(slot + jnp.arange(tokens.shape[1]), tokens.shape)
        states, new = model(model.embed(tokens), BlockInputs(order, order, slot=slot), cache)
        return model.vocabulary().logits(states), new

    return model.apply(variables, method=run)


def greedy(loaded: Pretrained, prompt, count: int) -> list[int]:
    """The `count` tokens that follow a prompt, each the likeliest, with a cache."""
    model = Cached(loaded, 128)
    tokens = list(prompt)
    for i in range(len(prompt) + count - 1):  # one by one, so that one shape is compiled
        logits = model.feed(tokens[i : i + 1])
        if i + 1 == len(tokens):
            tokens.append(int(logits[-1].argmax()))
    return tokens[len(prompt) :]


def plain_states(loaded: Pretrained, tokens) -> np.ndarray:
    """Normalised states float32[B, T, D] of int32[B, T] in one pass."""
    mode, collections = variables(loaded)
    model = Decoder(loaded.configs["language_model"], mode)

    def run(model):
        order = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return model(model.embed(tokens), BlockInputs(order, order))[0]

    held = {name: tree["language_model"] for name, tree in collections.items()}
    return np.asarray(jax.jit(lambda v: model.apply(v, method=run))(held))


def random_tensors(table, layers: int, seed=0) -> dict[str, np.ndarray]:
    """A tensor for every row of a table, by its name in the file."""
    rng = np.random.default_rng(seed)
    names = {}
    for row in table:
        if isinstance(row, Row):
            for layer in range(layers if "{}" in row.source else 1):
                array = row.shape[-1] ** -0.5 * rng.normal(size=row.shape) + (len(row.shape) == 1)
                names[row.source.format(layer)] = array.astype(np.float32)
    return names


class Held:
    """Tensors in memory, as `rules.Tensors`."""

    place = "model.file"

    def __init__(self, arrays: dict[str, np.ndarray], unreadable: dict[str, str] | None = None):
        self._arrays, self.unreadable = arrays, unreadable or {}
        self.shapes = {name: array.shape for name, array in arrays.items()}

    def read(self, name: str) -> np.ndarray:
        return self._arrays[name]


TINY = DecoderConfig(VOCABULARY, 32, 3, 4, 2, 8, 48)
TINY_JSON = {
    "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
}  # fmt: skip


TINY_VIT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8, "intermediate_size": 24, "num_channels": 3,
}  # fmt: skip
PIXELS = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}


def tiny_vit() -> Source:
    """A ViT of random weights, made without torch."""
    config, table = vit(TINY_VIT, PIXELS, (), None)
    return Source({"vit": Part(config, table)}, Held(random_tensors(table, config.layers)))


TINY_LLAVA = {
    "model_type": "llava", "image_token_index": 266,
    "vision_config": {**TINY_VIT, "model_type": "clip_vision_model", "num_hidden_layers": 3},
    "text_config": TINY_JSON,
}  # fmt: skip


def tiny_llava(folder: Path, **settings) -> Path:
    """A LLaVA folder of random weights, made without torch; `settings` of config.json."""
    folder.mkdir(parents=True)
    config = {**TINY_LLAVA, **settings}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    names = Names()
    parts, _ = llava_parts(config, PIXELS, names, None, folder)
    tensors = {}
    for part in parts.values():
        tensors.update(random_tensors(part.table, getattr(part.config, "layers", 0)))
    zeros, layers = np.zeros(16, np.float32), f"{names.vision}encoder.layers"
    for layer in range(3):  # what ours has not: the biases of keys, and what is never read
        tensors[f"{layers}.{layer}.self_attn.k_proj.bias"] = zeros
    for name in [name for name in tensors if name.startswith(f"{layers}.1.")]:
        tensors.setdefault(name.replace(".1.", ".2.", 1), tensors[name])
    for name in ("weight", "bias"):
        tensors[f"{names.vision}post_layernorm.{name}"] = zeros
    save_file(tensors, folder / "model.safetensors")
    save_tiny_tokenizer(folder)
    return folder


def tiny_folder(folder: Path, **settings) -> Path:
    """A Llama folder of random float32 weights, made without torch; `settings` of config.json."""
    folder.mkdir(parents=True)
    settings = {**TINY_JSON, **settings}
    (folder / "config.json").write_text(json.dumps(settings))
    config = decoder_config(settings, folder)
    tensors = random_tensors(huggingface_table(config), config.layers)
    save_file(tensors, folder / "model.safetensors")
    save_tiny_tokenizer(folder)
    return folder

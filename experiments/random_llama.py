"""Random weights and batches of a given shape, for measurements of speed and memory."""

import jax
import jax.numpy as jnp
import numpy as np


def random_weights(shapes: dict, seed: int = 0) -> dict:
    """Arrays for a nested dict of `jax.ShapeDtypeStruct`s, scaled to keep states finite.

    Kernels, int8 or not, have unit gain; scales of norms are 1; what training starts from zero is
    small noise, so that no product is with zeros.
    """
    return _filled(shapes, np.random.default_rng(seed))


def _filled(shapes: dict, rng: np.random.Generator) -> dict:
    out = {}
    for name, leaf in shapes.items():
        if isinstance(leaf, dict):
            out[name] = _filled(leaf, rng)
        elif leaf.dtype == jnp.int8:
            out[name] = jnp.asarray(rng.integers(-127, 128, leaf.shape, np.int8))
        elif name == "scale":
            int8 = shapes.get("kernel")
            gain = 1.0 if int8 is None else int8.shape[-2] ** -0.5 / 73  # 73: deviation of int8
            out[name] = jnp.full(leaf.shape, gain, leaf.dtype)
        else:
            size = leaf.shape[-2] ** -0.5 if name in ("kernel", "lora_a") else 0.02
            noise = rng.standard_normal(leaf.shape, np.float32)
            noise *= size
            out[name] = jnp.asarray(noise, leaf.dtype)
    return out


def multiplied(config, head: bool = True) -> int:
    """Number of entries of a Llama's frozen kernels used per token."""
    block = config.width * config.head_width * (2 * config.heads + 2 * config.kv_heads)
    block += 3 * config.width * config.mlp_width
    return config.layers * block + head * config.vocab_size * config.width


def batch_shapes(rows: int, tokens: int, vit) -> dict:
    """A batch for a sLAVA (data/assistant_batches.py) whose language model reads `tokens`."""

    def shape(*sizes, dtype=jnp.int32):
        return jax.ShapeDtypeStruct((rows, *sizes), dtype)

    side, answer = vit.image_size, tokens // 4
    text = {name: shape(tokens - 1) for name in ("tokens", "image_index")}  # <Encode> is added
    numbers = ("length", "answer_start", "mismatch_offset", "target_image")
    weights = {name: shape(dtype=jnp.float32) for name in ("mismatch_weight", "row_weight")}
    return {
        "images": shape(1, side, side, vit.channels, dtype=jnp.uint8),
        **text,
        **{name: shape() for name in numbers},
        "weights": shape(answer, dtype=jnp.float32),
        **weights,
        "example_id": shape(dtype=jnp.uint32),
    }

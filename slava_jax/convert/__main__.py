"""Converts pretrained weights: python -m slava_jax.convert --from PATH --to DIR."""

import argparse
import dataclasses
import sys
from pathlib import Path

from slava_jax.checkpoint import CheckpointError
from slava_jax.convert.pretrained import Source, write
from slava_jax.convert.rules import ConvertError


def main(arguments: list[str] | None = None) -> None:
    """Entry point: what was written on stdout, errors on stderr."""
    asked = parser().parse_args(arguments)
    try:
        source = read(Path(asked.source), asked.image_size)
        write(source, asked.to, asked.quantize == "int8")
    except (CheckpointError, ConvertError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{asked.to} is written; a config that starts from it has\n{settings(source)}")


def settings(source: Source) -> str:
    """The line of a config that says the shape of a model; its tokenizer says the vocabulary."""
    own = {k: v for k, v in dataclasses.asdict(source.config).items() if k != "vocab_size"}
    said = ", ".join(f"{name}={value!r}" for name, value in own.items())
    return f"config.{source.family}.update({said})"


def read(path: Path, image_size: int | None = None) -> Source:
    """A folder of Hugging Face's, a GGUF file or an ONNX file.

    Raises:
      ConvertError: it is none of these, or cannot be converted.
    """
    from slava_jax.convert.gguf import read_gguf
    from slava_jax.convert.huggingface import pickle_refusal, read_folder
    from slava_jax.convert.onnx import read_onnx

    if not path.exists():
        raise ConvertError(f"{path}: is not there")
    if image_size is not None and image_size < 1:
        raise ConvertError(f"--image_size {image_size}: must be 1 or more")
    if path.is_dir():
        return read_folder(path, image_size)
    if path.suffix == ".gguf":
        if image_size is not None:
            raise ConvertError(f"{path}: a language model, which has no --image_size: leave it out")
        return read_gguf(path)
    if path.suffix == ".onnx":
        return read_onnx(path, image_size)
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise ConvertError(pickle_refusal(path))
    raise ConvertError(
        f"{path}: give a folder with config.json and safetensors, a .gguf or an .onnx file"
    )


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    options = argparse.ArgumentParser(
        "python -m slava_jax.convert", description=__doc__.split(":")[0]
    )
    options.add_argument(
        "--from", dest="source", required=True, help="a Hugging Face folder, a .gguf or .onnx file"
    )
    options.add_argument("--to", required=True, help="a folder that does not exist yet")
    options.add_argument(
        "--quantize", choices=("int8",), help="kernels of a language model as int8"
    )
    options.add_argument(
        "--image_size", type=int, help="side of a vision encoder's images, if not its own"
    )
    return options


if __name__ == "__main__":
    main()

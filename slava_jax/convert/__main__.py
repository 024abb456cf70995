"""Weights in and out: python -m slava_jax.convert --from PATH --to DIR [--as FORM]."""

import argparse
import dataclasses
import sys
from pathlib import Path

from slava_jax.checkpoint import CheckpointError, new_folder
from slava_jax.convert.pretrained import Source, write
from slava_jax.convert.rules import ConvertError

FORMS = ("peft", "huggingface", "base")


def main(arguments: list[str] | None = None) -> None:
    """Entry point: what was written on stdout, errors on stderr."""
    options = parser()
    asked = options.parse_args(arguments)
    if asked.form:
        refused = {"--quantize": asked.quantize, "--image_size": asked.image_size}
    else:
        refused = {
            "--rank": asked.rank, "--merge_at_mean_routing": asked.texts, "--base": asked.base,
        }  # fmt: skip
    if wrong := [name for name, value in refused.items() if value is not None]:
        options.error(f"{wrong[0]} goes {'without' if asked.form else 'with'} --as")
    adapters = {"--rank": asked.rank, "--merge_at_mean_routing": asked.texts}
    if asked.form == "base" and any(value is not None for value in adapters.values()):
        options.error(f"--as base leaves the adapters out: {', '.join(adapters)} do not go with it")
    try:
        print(f"{asked.to}: {_export(asked) if asked.form else _import(asked)}")
    except (CheckpointError, ConvertError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _import(asked: argparse.Namespace) -> str:
    source = read(Path(asked.source), asked.image_size)
    write(source, asked.to, asked.quantize == "int8")
    return f"a config that starts from it has\n{settings(source)}"


def _export(asked: argparse.Namespace) -> str:
    """Writes what `--as` asks for; returns what it is."""
    from slava_jax.convert import export, peft, pretrained, routing
    from slava_jax.inference.assistant import load_assistant

    if Path(asked.to).exists():  # before anything is computed
        new_folder(asked.to)
    if pretrained.is_converted(asked.source):
        if asked.base is not None:
            raise ConvertError(f"{asked.source}: is a base itself; leave --base out")
        if asked.form != "base":
            raise ConvertError(f"{asked.source}: has no adapters; only --as base fits it")
        held = pretrained.load(asked.source)
        if held.tokenizer is None:
            raise ConvertError(f"{asked.source}: a vision encoder; only language models leave")
        model = export.base_model(held.config, held.tree["llama"])
        export.write_folder(model, held.tokenizer, asked.to)
        return "the base alone, in float32"
    assistant = load_assistant(asked.source, asked.base)
    model, variables, said = assistant.model, assistant.variables, ""
    if asked.form == "base":
        base = export.base_model(model.config.llama, variables["frozen"]["llama"])
        export.write_folder(base, assistant.tokenizer, asked.to)
        return "the base alone, in float32"
    rank = assistant.rank if asked.rank is None else asked.rank
    peft.check_rank(model.config.adapter, rank)
    if asked.texts:
        batches = routing.prompts(routing.read_texts(asked.texts), assistant.tokenizer)
        before = model, variables
        model, variables = routing.merged_at_mean(*before, batches, rank)
        cost = routing.divergence(before, (model, variables), batches, rank)
        said = (
            f"; experts merged at their mean routing over {len(batches)} texts, on which that "
            f"costs KL {cost.kl:.3g} nats a token; top-1 agreement {cost.top1:.4f}"
        )
    lora = peft.lora_of(model.config, variables, rank)
    if asked.form == "peft":
        peft.write_peft(lora, model.config.llama, asked.to)
        return f"a LoRA of rank {rank} for peft{said}"
    merged = export.merged_model(model.config, variables, lora)
    export.write_folder(merged, assistant.tokenizer, asked.to)
    return f"the text encoder with its adapters of rank {rank} merged in, in float32{said}"


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
    if (path / "adapter_config.json").is_file():
        raise ConvertError(f"{path}: an adapter; name it in start_from.adapter (docs/convert.md)")
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
        "--from", dest="source", required=True,
        help="a Hugging Face folder, a .gguf or .onnx file; with --as, a work directory",
    )  # fmt: skip
    options.add_argument("--to", required=True, help="a folder that does not exist yet")
    options.add_argument(
        "--quantize", choices=("int8",), help="kernels of a language model as int8"
    )
    options.add_argument(
        "--image_size", type=int, help="side of a vision encoder's images, if not its own"
    )
    options.add_argument(
        "--as", dest="form", choices=FORMS,
        help="weights out: the adapters for peft, the text encoder with them merged in, or the "
        "frozen Llama alone (of converted weights, too)",
    )  # fmt: skip
    options.add_argument("--rank", type=int, help="of the adapters; the largest by default")
    options.add_argument(
        "--merge_at_mean_routing", dest="texts", metavar="TEXTS.jsonl",
        help="several experts as one, mixed as the router does on average over these texts",
    )  # fmt: skip
    options.add_argument(
        "--base", help="converted weights, where the frozen Llama of a run is not where it was"
    )
    return options


if __name__ == "__main__":
    main()

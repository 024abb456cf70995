"""Imports and exports weights: slava convert --from PATH --to DIR [--as FORM]."""

import argparse
from pathlib import Path

from slava_jax.errors import reported

FORMS = ("peft", "huggingface", "base")


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Reports the written files on stdout, errors on stderr."""
    options = parser()
    asked = options.parse_args(arguments)
    if asked.form:
        refused = {"--quantize": asked.quantize, "--image_size": asked.image_size}
    else:
        refused = {
            "--rank": asked.rank, "--merge_at_mean_routing": asked.texts, "--base": asked.base,
        }  # fmt: skip
    if wrong := [name for name, value in refused.items() if value is not None]:
        options.error(f"{wrong[0]} can only be used {'without' if asked.form else 'with'} --as")
    adapters = {"--rank": asked.rank, "--merge_at_mean_routing": asked.texts}
    if asked.form == "base" and any(value is not None for value in adapters.values()):
        options.error(f"--as base leaves out the adapters: remove {' and '.join(adapters)}")
    with reported():
        print(f"{asked.to}: {_export(asked) if asked.form else _import(asked)}")


# Imports are inside these functions so that --help and wrong options answer at once.
def _import(asked: argparse.Namespace) -> str:
    from slava_jax.convert.reading import convert_weights

    source = convert_weights(asked.source, asked.to, asked.quantize == "int8", asked.image_size)
    names = (part.replace("vit", "vision").removesuffix("_model") for part in source.parts)
    options = " ".join(f"--config.start_from.{name}={asked.to}" for name in names)
    return f"to start a run from it, use {options}"


def _export(asked: argparse.Namespace) -> str:
    from slava_jax.checkpoint import new_folder
    from slava_jax.convert.exporting import write_adapted, write_base, write_converted
    from slava_jax.convert.pretrained import is_converted
    from slava_jax.convert.rules import ConvertError
    from slava_jax.inference.assistant import load_assistant

    if Path(asked.to).exists():  # before anything is computed
        new_folder(asked.to)
    if is_converted(asked.source):
        if asked.base is not None:
            raise ConvertError(f"{asked.source}: is itself a base model; leave out --base")
        if asked.form != "base":
            raise ConvertError(f"{asked.source}: has no adapters; use --as base")
        return write_converted(asked.source, asked.to)
    held = load_assistant(asked.source, asked.base)
    model, variables = held.model, held.variables
    if asked.form == "base":
        return write_base(model, variables, held.tokenizer, asked.to)
    rank = held.rank if asked.rank is None else asked.rank
    return write_adapted(asked.form, model, variables, held.tokenizer, rank, asked.to, asked.texts)


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    options = argparse.ArgumentParser("slava convert", description=__doc__.split(":")[0])
    options.add_argument(
        "--from", dest="source", required=True,
        help="Hugging Face folder, .gguf or .onnx file; with --as, a work directory",
    )  # fmt: skip
    options.add_argument("--to", required=True, help="new folder")
    options.add_argument(
        "--quantize", choices=("int8",), help="store language model kernels in int8"
    )
    options.add_argument(
        "--image_size", type=int, help="side in pixels of a vision encoder's images"
    )
    options.add_argument(
        "--as", dest="form", choices=FORMS,
        help="export the adapters for peft, the text encoder with the adapters merged, or only the "
        "frozen language model (also from converted weights)",
    )  # fmt: skip
    options.add_argument("--rank", type=int, help="rank of the adapters (default: the largest)")
    options.add_argument(
        "--merge_at_mean_routing", dest="texts", metavar="TEXTS.jsonl",
        help="merge several experts into one, weighted by the mean router output on these texts",
    )  # fmt: skip
    options.add_argument(
        "--base",
        help="converted weights with the frozen language model of a run, if they were moved",
    )
    return options


if __name__ == "__main__":
    main()

"""Imports and exports instructions: slava reformat --from FILE [--to FILE] [--as FORM]."""

import argparse

from slava_jax.data.formats.exchange import is_ours, read_theirs, write_theirs
from slava_jax.data.formats.image_files import ImageFiles
from slava_jax.data.formats.mapping import FORMS, Reading
from slava_jax.data.instructions import STYLES, TASKS, InstructionError
from slava_jax.errors import printable, reported


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Reports the files read and written on stdout, all errors on stderr."""
    options = parser()
    asked = options.parse_args(arguments)
    if asked.embed and not (asked.form == "openai" and asked.images):
        options.error("--embed needs --as openai and --images")
    if asked.plain and not asked.form:
        options.error("--plain needs --as")
    with reported():
        ours = is_ours(asked.source)
        if asked.form and not ours:
            raise InstructionError(
                f"{asked.source}: not in this project's format, so it cannot be exported; leave "
                "out --as"
            )
        if ours and asked.to and not asked.form:
            raise InstructionError(
                f"{asked.source}: already in this project's format; choose the output with --as"
            )
        if not ours and not asked.images:
            options.error("--images is missing: the folder that image paths are relative to")
        images = ImageFiles(asked.images, bool(asked.to)) if asked.images else None
        if ours:
            form = asked.form or "llava"
            said = write_theirs(asked.source, asked.to, images, form, asked.plain, asked.embed)
        else:
            reading = Reading(asked.task, asked.style)
            said = read_theirs(asked.source, asked.to, images, reading, asked.leave_out_text)
        print(printable(said))


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    options = argparse.ArgumentParser("slava reformat", description=__doc__.split(":")[0])
    options.add_argument(
        "--from", dest="source", required=True,
        help=".json array or .jsonl in LLaVA, ShareGPT, OpenAI or this project's format",
    )  # fmt: skip
    options.add_argument("--to", help="output file; without it --from is only checked")
    options.add_argument(
        "--as", dest="form", choices=FORMS, help="export this project's instructions to this format"
    )
    options.add_argument("--images", help="folder that image paths are relative to")
    options.add_argument("--task", choices=TASKS, default="vqa", help="of records that state none")
    options.add_argument(
        "--style", choices=STYLES, default="short", help="of records that state none"
    )
    options.add_argument(
        "--leave_out_text", action="store_true", help="leave out conversations without an image"
    )
    options.add_argument(
        "--embed", action="store_true", help="write images as data: URLs; with --as openai"
    )
    options.add_argument(
        "--plain", action="store_true",
        help="leave out the key slava_jax, which holds fields the format lacks",
    )  # fmt: skip
    return options


if __name__ == "__main__":
    main()

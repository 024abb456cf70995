"""Instructions in and out: slava reformat --from FILE [--to FILE] [--as FORM]."""

import argparse

from slava_jax.data.formats.exchange import is_ours, read_theirs, write_theirs
from slava_jax.data.formats.image_files import ImageFiles
from slava_jax.data.formats.mapping import FORMS, Reading
from slava_jax.data.instructions import STYLES, TASKS, InstructionError
from slava_jax.errors import reported


def main(arguments: list[str] | None = None) -> None:
    """Entry point: what was read and written on stdout, all that is wrong on stderr."""
    options = parser()
    asked = options.parse_args(arguments)
    if asked.embed and not (asked.form == "openai" and asked.images):
        options.error("--embed goes with --as openai and --images")
    if asked.plain and not asked.form:
        options.error("--plain goes with --as")
    with reported():
        ours = is_ours(asked.source)
        if asked.form and not ours:
            raise InstructionError(
                f"{asked.source}: holds no instructions of ours to write in another format; "
                "leave --as out"
            )
        if ours and asked.to and not asked.form:
            raise InstructionError(
                f"{asked.source}: holds instructions of ours already; say with --as what to write"
            )
        if not ours and not asked.images:
            options.error("--images must name the folder that the file's paths are relative to")
        images = ImageFiles(asked.images, bool(asked.to)) if asked.images else None
        if ours:
            form = asked.form or "llava"
            said = write_theirs(asked.source, asked.to, images, form, asked.plain, asked.embed)
        else:
            reading = Reading(asked.task, asked.style)
            said = read_theirs(asked.source, asked.to, images, reading, asked.leave_out_text)
        print(said)


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    options = argparse.ArgumentParser("slava reformat", description=__doc__.split(":")[0])
    options.add_argument(
        "--from", dest="source", required=True,
        help="a .json array or .jsonl of LLaVA's, ShareGPT's or OpenAI's; or instructions of ours",
    )  # fmt: skip
    options.add_argument("--to", help="the file to write; without it --from is only checked")
    options.add_argument(
        "--as", dest="form", choices=FORMS, help="write instructions of ours in this format"
    )
    options.add_argument("--images", help="the folder that paths of images are relative to")
    options.add_argument("--task", choices=TASKS, default="vqa", help="of what says no task")
    options.add_argument("--style", choices=STYLES, default="short", help="of what says no style")
    options.add_argument(
        "--leave_out_text", action="store_true", help="leave out conversations without an image"
    )
    options.add_argument(
        "--embed", action="store_true", help="images as data: URLs; with --as openai"
    )
    options.add_argument(
        "--plain", action="store_true",
        help="without the key slava_jax, which holds what the format has no place for",
    )  # fmt: skip
    return options


if __name__ == "__main__":
    main()

"""Instructions in and out: python -m slava_jax.data.formats --from FILE [--to FILE] [--as FORM]."""

import argparse
import collections
import sys
from collections.abc import Iterator
from pathlib import Path

from slava_jax.data.formats.files import read_records, write_records
from slava_jax.data.formats.image_files import ImageFiles
from slava_jax.data.formats.mapping import FORMS, HISTORIES, Reading, record_of
from slava_jax.data.formats.reading import Conversations
from slava_jax.data.instructions import (
    STYLES,
    TASKS,
    InstructionError,
    read_jsonl,
    write_jsonl,
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: what was read and written on stdout, all that is wrong on stderr."""
    options = parser()
    asked = options.parse_args(arguments)
    if asked.embed and not (asked.form == "openai" and asked.images):
        options.error("--embed goes with --as openai and --images")
    if asked.plain and not asked.form:
        options.error("--plain goes with --as")
    try:
        ours = _is_ours(asked.source)
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
        print(_export(asked, images) if ours else _import(asked, images))
    except (InstructionError, OSError) as error:
        sys.exit(f"error: {error}")


def _import(asked: argparse.Namespace, images: ImageFiles) -> str:
    reading = Reading(asked.task, asked.style, asked.history)
    conversations = Conversations(asked.source, images, reading, asked.leave_out_text)
    if asked.to:
        write_jsonl(asked.to, conversations)
    else:
        collections.deque(conversations, maxlen=0)  # read to the end
    return (
        f"{asked.to or asked.source}: {conversations.instructions} instructions of "
        f"{conversations.read - conversations.left_out} conversations; "
        f"{conversations.left_out} conversations without an image left out"
    )


def _export(asked: argparse.Namespace, images: ImageFiles | None) -> str:
    items = read_jsonl(asked.source)

    def image(field: str, key: str) -> str:
        if images and asked.embed:
            return images.data_url(field, key)
        return images.key(field, key) if images else key

    def records() -> Iterator[dict]:
        for item in items:
            try:
                record = record_of(item, asked.form or "llava", asked.plain, image)
            except InstructionError as error:
                raise InstructionError(
                    f"{asked.source}: instruction {item.id!r}: {error}"
                ) from error
            yield record

    if not asked.to:
        return f"{asked.source}: {sum(1 for _ in records())} instructions"
    write_records(asked.to, records(), array=Path(asked.to).suffix != ".jsonl")
    lost = "; task, style, category and metadata are left out" if asked.plain else ""
    return f"{asked.to}: {len(items)} conversations{lost}"


def _is_ours(path: str) -> bool:
    first = next(iter(read_records(path)), ("", None))[1]
    return isinstance(first, dict) and "question" in first


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    options = argparse.ArgumentParser(
        "python -m slava_jax.data.formats", description=__doc__.split(":")[0]
    )
    options.add_argument(
        "--from", dest="source", required=True,
        help="a .json array or .jsonl of LLaVA's, ShareGPT's or OpenAI's; or instructions of ours",
    )  # fmt: skip
    options.add_argument("--to", help="the file to write; without it --from is only checked")
    options.add_argument(
        "--as", dest="form", choices=FORMS, help="write instructions of ours in this format"
    )
    options.add_argument("--images", help="the folder that paths of images are relative to")
    options.add_argument(
        "--history", choices=HISTORIES, default="prompt",
        help="where the turns before a question go: into its prompt, or into metadata.history",
    )  # fmt: skip
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

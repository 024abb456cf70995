"""Converts instruction files between other tools' formats and ours."""

import collections
from collections.abc import Iterator
from pathlib import Path

from slava_jax.data.formats.files import read_records, write_records
from slava_jax.data.formats.image_files import ImageFiles
from slava_jax.data.formats.mapping import Reading, record_of
from slava_jax.data.formats.reading import Conversations
from slava_jax.data.instructions import InstructionError, read_jsonl, write_jsonl


def is_ours(path: str) -> bool:
    """Returns whether the first record of a file is in our instruction format.

    Raises:
      InstructionError: the file cannot be read.
    """
    first = next(iter(read_records(path)), ("", None))[1]
    return isinstance(first, dict) and "question" in first


def read_theirs(
    source: str, to: str | None, images: ImageFiles, reading: Reading, leave_out_text: bool
) -> str:
    """Converts another tool's conversations to our instructions and returns a one-line summary.

    Args:
      to: the file to write; None only checks the source.

    Raises:
      InstructionError: lists every problem with its place in the file.
    """
    conversations = Conversations(source, images, reading, leave_out_text)
    if to:
        write_jsonl(to, conversations)
    else:
        collections.deque(conversations, maxlen=0)  # consume the iterator
    return (
        f"{to or source}: {conversations.instructions} instructions; "
        f"{conversations.left_out} conversations without an image left out"
    )


def write_theirs(
    source: str, to: str | None, images: ImageFiles | None, form: str, plain: bool, embed: bool
) -> str:
    """Converts our instructions to another tool's format and returns a one-line summary.

    Args:
      to: a .jsonl file; any other suffix gets a single JSON array. None only checks the source.
      images: where the images are; None writes the image keys unchecked.
      form: one of `mapping.FORMS`.
      plain: drop the fields that the format has no place for.
      embed: write images as data: URLs.

    Raises:
      InstructionError: names the instruction that cannot be written.
    """
    items = read_jsonl(source)

    def image(field: str, key: str) -> str:
        if images and embed:
            return images.data_url(field, key)
        return images.key(field, key) if images else key

    def records() -> Iterator[dict]:
        for item in items:
            try:
                record = record_of(item, form, plain, image)
            except InstructionError as error:
                raise InstructionError(f"{source}: instruction {item.id!r}: {error}") from error
            yield record

    if not to:
        return f"{source}: {sum(1 for _ in records())} instructions"
    write_records(to, records(), array=Path(to).suffix != ".jsonl")
    lost = "; task, style, category and metadata are left out" if plain else ""
    return f"{to}: {len(items)} conversations{lost}"

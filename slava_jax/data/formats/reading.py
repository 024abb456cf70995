"""Reads a file in another format as instructions and reports all its problems in one error."""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slava_jax.data.formats.conversation import field_error, parse
from slava_jax.data.formats.files import read_records
from slava_jax.data.formats.image_files import ImageFiles
from slava_jax.data.formats.mapping import Reading, instruction_of, own_key
from slava_jax.data.instructions import Instruction, InstructionError

_MOST = 20  # most problems that one error lists


class Conversations:
    """The conversations of a file as instructions, in file order; can be iterated once.

    Every instruction gets a unique id. A record without an id becomes FILE/NUMBER. A repeated id
    gets the suffix `#2`, `#3`, ..., and the original goes to `metadata.conversation`.

    Attributes:
      read, left_out: conversations read so far, and how many were left out for lack of an image.
      instructions: number of instructions made, one per remaining conversation.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        images: ImageFiles,
        reading: Reading,
        leave_out_text: bool = False,
    ):
        """`leave_out_text`: leave out conversations without an image; otherwise they are errors."""
        self._path, self._images, self._reading = Path(path), images, reading
        self._leave_out_text = leave_out_text
        self._seen: set[str] = set()
        self._times: dict[str, int] = {}  # occurrences of each id
        self.read = self.left_out = self.instructions = 0

    def __iter__(self) -> Iterator[Instruction]:
        """Yields instructions while reading; discard them if an error follows.

        Raises:
          InstructionError: names file, line, record and field of every problem, at most 20.
        """
        problems: list[str] = []
        try:
            for where, record in read_records(self._path):
                self.read += 1
                try:
                    item = self._instruction(record)
                except InstructionError as error:
                    problems.append(f"{where}: {error}")
                    if len(problems) == _MOST:
                        problems.append(f"{self._path}: stopped reading here")
                        break
                else:
                    if item is None:
                        self.left_out += 1
                        continue
                    self.instructions += 1
                    yield item
        except InstructionError as error:  # the rest of the file cannot be read
            problems.append(str(error))
        if problems:
            raise InstructionError("\n".join(problems))
        if not self.read:
            raise InstructionError(f"{self._path}: contains no records")

    def _instruction(self, record: Any) -> Instruction | None:
        """Returns None for a conversation without images that is left out."""
        conversation = parse(record)
        if not conversation.images:
            if not self._leave_out_text:
                raise InstructionError(
                    "has no image; add one, or use --leave_out_text to leave out and count all "
                    "such conversations"
                )
            return None
        keys = [
            self._images.key(image.field, image.reference, own_key(conversation, i))
            for i, image in enumerate(conversation.images)
        ]
        name = conversation.id or f"{self._path.stem}/{self.read}"
        return self._renamed(instruction_of(conversation, name, keys, self._reading))

    def _renamed(self, item: Instruction) -> Instruction:
        """Returns the instruction with an id that has not been used yet."""
        for times in itertools.count(self._times.get(item.id, 0) + 1):
            named = item if times == 1 else _marked(item, times)
            if named.id not in self._seen:
                break
        self._times[item.id] = times
        self._seen.add(named.id)
        return named


def _marked(item: Instruction, times: int) -> Instruction:
    known = item.metadata.get("conversation", {})
    if not isinstance(known, dict):
        raise field_error(
            "metadata.conversation", f"must be an object for a repeated id, is {known!r}"
        )
    metadata = {**item.metadata, "conversation": {"id": item.id, **known}}
    return dataclasses.replace(item, id=f"{item.id}#{times}", metadata=metadata)

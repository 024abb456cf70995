"""A file of another format as instructions; all that is wrong with it in one error."""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slava_jax.data.formats.conversation import parse, wrong
from slava_jax.data.formats.files import read_records
from slava_jax.data.formats.image_files import ImageFiles
from slava_jax.data.formats.mapping import Reading, instruction_of, own_key
from slava_jax.data.instructions import Instruction, InstructionError

_MOST = 20  # problems that an error lists


class Conversations:
    """A file of conversations as instructions, in its order; can be gone through once.

    Every instruction gets an id of its own: a record without one is FILE/NUMBER, and where an id
    comes again, `#2`, `#3`, ... stand behind it, and the record's own in `metadata.conversation`.

    Attributes:
      read, left_out: conversations read so far, and those of them left out for showing no image.
      instructions: how many the others became, one each.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        images: ImageFiles,
        reading: Reading,
        leave_out_text: bool = False,
    ):
        """`leave_out_text`: conversations without an image are left out, else they are an error."""
        self._path, self._images, self._reading = Path(path), images, reading
        self._leave_out_text = leave_out_text
        self._seen: set[str] = set()
        self._times: dict[str, int] = {}  # how often an id came
        self.read = self.left_out = self.instructions = 0

    def __iter__(self) -> Iterator[Instruction]:
        """Yields as it reads; what comes before an error must not be kept.

        Raises:
          InstructionError: names file, line, record and field of all that is wrong, or of the
            first 20.
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
                        problems.append(f"{self._path}: not read further")
                        break
                else:
                    if item is None:
                        self.left_out += 1
                        continue
                    self.instructions += 1
                    yield item
        except InstructionError as error:  # from here on the file cannot be read
            problems.append(str(error))
        if problems:
            raise InstructionError("\n".join(problems))
        if not self.read:
            raise InstructionError(f"{self._path}: holds no record")

    def _instruction(self, record: Any) -> Instruction | None:
        """None: a conversation without images that is to be left out."""
        conversation = parse(record)
        if not conversation.images:
            if not self._leave_out_text:
                raise InstructionError(
                    "shows no image; add one, or leave all such out with --leave_out_text, which "
                    "counts them"
                )
            return None
        keys = [
            self._images.key(image.field, image.reference, own_key(conversation, i))
            for i, image in enumerate(conversation.images)
        ]
        name = conversation.id or f"{self._path.stem}/{self.read}"
        return self._renamed(instruction_of(conversation, name, keys, self._reading))

    def _renamed(self, item: Instruction) -> Instruction:
        """The same with an id that did not come before."""
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
        raise wrong("metadata.conversation", f"must be an object where an id recurs, is {known!r}")
    metadata = {**item.metadata, "conversation": {"id": item.id, **known}}
    return dataclasses.replace(item, id=f"{item.id}#{times}", metadata=metadata)

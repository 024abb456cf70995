"""Maps image references in other formats' records to image keys, and back.

An image's key is its path relative to the image folder, as in data/datasets/folder.py.
"""

import base64
import binascii
import hashlib
import os
import re
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

from slava_jax.data.formats.conversation import field_error
from slava_jax.data.images import SUFFIXES, ImageError, read_image, read_width
from slava_jax.data.instructions import InstructionError, new_file
from slava_jax.data.names import composed, located, name_problem

EMBEDDED = "embedded"  # subfolder of the image folder, for images embedded in records
_DATA = re.compile(r"data:image/([a-z0-9.+-]+);base64,", re.IGNORECASE)
_SUFFIXES = {"jpeg": "jpg", "tiff": "tif", "x-ms-bmp": "bmp"}


class ImageFiles:
    """The image files in one folder and its subfolders."""

    def __init__(self, folder: str | os.PathLike, writes: bool):
        """`writes`: whether embedded images are written to the folder."""
        self._folder, self._writes = Path(folder), writes
        self._root = self._folder.resolve()
        self._found: set[str] = set()
        if not self._folder.is_dir():
            raise InstructionError(
                f"--images {folder}: is not a folder; give the folder that holds the images"
            )

    def key(self, field: str, reference: str, wanted: str = "") -> str:
        """Returns the key of the image that a field refers to.

        Args:
          reference: a path (absolute or relative to the folder), a file: URL or a data: URL.
          wanted: the key that the record states; '' to derive one from the path or content.

        Raises:
          InstructionError: the file is missing or outside the folder, the URL is of another kind,
            or the key is of another file; names the field.
        """
        wanted = composed(wanted)
        if reference[:5].lower() == "data:":
            return self._embedded(field, reference, wanted)
        if reference.lower().startswith(("http://", "https://")):
            raise field_error(
                field, f"{reference!r} is a web address; download it and name the file"
            )
        path = Path(reference)
        if reference.lower().startswith("file://"):
            try:
                path = Path(unquote(urlsplit(reference).path))
            except ValueError as error:
                raise field_error(field, f"{reference!r} is not a file: URL ({error})") from error
        real = path.is_absolute() and path.is_relative_to(self._root)  # symlinks resolved
        below = os.path.relpath(self._folder / path, self._root if real else self._folder)
        key = composed(Path(below).as_posix())
        if key not in self._found:
            self._check(field, reference, key)
            self._found.add(key)
        if wanted and wanted != key:
            raise field_error(
                field,
                f"{reference!r} is another image than the record's own key, {wanted!r}; make both "
                "the same, or remove the key",
            )
        return key

    def data_url(self, field: str, key: str) -> str:
        """Returns the image as a data: URL.

        Raises:
          InstructionError: the file is missing, no image, or a link to a file outside the folder,
            which would be exported unnoticed; names the field.
        """
        path = located(self._folder, self.key(field, key))
        if not path.resolve().is_relative_to(self._root):
            raise field_error(
                field, f"{key!r} is a link to a file outside {self._folder}; copy the file there"
            )
        try:
            read_width(path)
        except ImageError as error:
            raise field_error(field, str(error)) from error
        content = path.read_bytes()
        suffix = Path(key).suffix[1:].lower() or "png"
        kind = {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

    def _check(self, field: str, reference: str, key: str) -> None:
        if ".." in Path(key).parts or Path(key).is_absolute():
            raise field_error(field, f"{reference!r} is outside {self._folder}; copy it there")
        path = located(self._folder, key)
        if not os.path.isfile(path):  # Path.is_file raises for names that are too long
            raise field_error(
                field, f"{reference!r} is not a file in {self._folder}; correct it or --images"
            )
        if problem := name_problem(key):
            raise field_error(field, f"the name {key!r} {problem}; rename the file")
        if path.suffix.lower() not in SUFFIXES:
            raise field_error(
                field, f"{reference!r} is not an image ({', '.join(SUFFIXES)}); correct it"
            )
        if not path.stat().st_size:
            raise field_error(field, f"{reference!r} is empty (0 bytes); copy it again")

    def _embedded(self, field: str, reference: str, wanted: str) -> str:
        head = _DATA.match(reference)
        if not head:
            raise field_error(
                field, f"{reference[:40]!r}... must start with data:image/KIND;base64,"
            )
        try:
            content = base64.b64decode(reference[head.end() :], validate=True)
        except binascii.Error as error:
            raise field_error(field, f"is not valid base64 ({error}); is it truncated?") from error
        try:
            read_image(content, 1, 1, "the image")
        except ImageError as error:
            raise field_error(field, str(error)) from error
        kind = head[1].lower()
        suffix = _SUFFIXES.get(kind, kind)
        if f".{suffix}" not in SUFFIXES:
            raise field_error(field, f"an image of the kind {kind!r} is not read; save it as PNG")
        key = wanted or f"{EMBEDDED}/{hashlib.sha256(content).hexdigest()[:20]}.{suffix}"
        self._check_new(field, key)
        try:
            self._keep(field, located(self._folder, key), content)
        except OSError as error:
            raise field_error(field, f"cannot be saved under its key: {error}") from error
        return key

    def _check_new(self, field: str, key: str) -> None:
        """Checks the name of a file to write, which the author of a conversation chooses."""
        path = PurePath(key)
        problem = name_problem(key)
        if ".." in path.parts or path.is_absolute():
            problem = f"is outside {self._folder}"
        elif path.suffix.lower() not in SUFFIXES:
            problem = f"does not end as an image does ({', '.join(SUFFIXES)})"
        elif any(part.startswith(".") for part in path.parts):
            problem = "is hidden"
        elif key != path.as_posix():
            problem = f"is a longer name of {path.as_posix()!r}"
        elif not problem and not located(self._folder, key).resolve().is_relative_to(self._root):
            problem = f"leads through a link out of {self._folder}"
        if problem:
            raise field_error(field, f"the key {key!r} {problem}; correct it")

    def _keep(self, field: str, path: Path, content: bytes) -> None:
        if os.path.lexists(path):
            if not path.is_file() or path.read_bytes() != content:
                raise field_error(
                    field, f"{path} already holds a different image; rename that file"
                )
        elif self._writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as file:
                file.write(content)

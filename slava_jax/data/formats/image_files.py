"""Maps image references in other formats' records to image keys, and back.

An image's key is its path relative to the image folder, as in data/datasets/folder.py.
"""

import base64
import binascii
import hashlib
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from slava_jax.data.formats.conversation import field_error
from slava_jax.data.images import SUFFIXES, ImageError, read_image
from slava_jax.data.instructions import InstructionError, new_file

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
          wanted: the key to use; '' to derive one from the path or content.

        Raises:
          InstructionError: the file is missing or outside the folder, or the URL is of another
            kind; names the field.
        """
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
        key = wanted or Path(below).as_posix()
        if key not in self._found:
            self._check(field, reference, key)
            self._found.add(key)
        return key

    def data_url(self, field: str, key: str) -> str:
        """Returns the image as a data: URL. Raises InstructionError if the file is missing."""
        self.key(field, key)
        content = (self._folder / key).read_bytes()
        suffix = Path(key).suffix[1:].lower() or "png"
        kind = {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

    def _check(self, field: str, reference: str, key: str) -> None:
        if ".." in Path(key).parts or Path(key).is_absolute():
            raise field_error(field, f"{reference!r} is outside {self._folder}; copy it there")
        try:
            found = (self._folder / key).is_file()
        except (OSError, ValueError):  # not a valid file name
            found = False
        if not found:
            raise field_error(
                field, f"{reference!r} is not a file in {self._folder}; correct it or --images"
            )
        path = self._folder / key
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
        name = f"{hashlib.sha256(content).hexdigest()[:20]}.{_SUFFIXES.get(kind, kind)}"
        key = wanted or f"{EMBEDDED}/{name}"
        if ".." in Path(key).parts or Path(key).is_absolute():
            raise field_error(field, f"{key!r} is outside {self._folder}; correct it")
        try:
            self._keep(field, self._folder / key, content)
        except (OSError, ValueError) as error:
            raise field_error(field, f"cannot be saved under its key: {error}") from error
        return key

    def _keep(self, field: str, path: Path, content: bytes) -> None:
        if path.exists():
            if path.read_bytes() != content:
                raise field_error(
                    field, f"{path} already holds a different image; rename that file"
                )
        elif self._writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as file:
                file.write(content)

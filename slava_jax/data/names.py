"""Names of files and classes: one Unicode form, and nothing that changes what a terminal shows."""

import os
import re
import unicodedata
from pathlib import Path, PurePath

from slava_jax.errors import UNSAFE


def composed(name: str) -> str:
    """Returns the composed form (NFC) of a name.

    macOS and archives made there write é as two characters, tables and other programs as one. Keys
    and class names are composed everywhere, so that both mean the same image or class.
    """
    return unicodedata.normalize("NFC", name)


def spoken(name: str) -> str:
    """Returns a class name as it is compared: as it looks, without case, underscores and repeated
    spaces.

    Invisible characters and other widths of a letter come with text copied from documents.
    """
    seen = (a for a in unicodedata.normalize("NFKC", name) if unicodedata.category(a) != "Cf")
    return " ".join("".join(seen).replace("_", " ").split()).casefold()


def name_problem(name: str) -> str:
    """Returns why a file or class must not be named so, '' if it may."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    found = UNSAFE.search(name) or re.search(r"[\t\n]", name)
    return f"has a control character, {ascii(found[0])[1:-1]}" if found else ""


def located(folder: Path, name: str) -> Path:
    """Returns the path of a file below a folder, given its relative name in either Unicode form.

    If there is no such file, it is just `folder / name`.
    """
    if name.isascii():
        return folder / name
    path = folder
    for part in PurePath(name).parts:
        forms = (part, composed(part), unicodedata.normalize("NFD", part))
        path = next((path / form for form in forms if os.path.lexists(path / form)), path / part)
    return path

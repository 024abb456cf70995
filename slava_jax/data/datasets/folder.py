"""The user's own images: one folder per class, or a labels.csv next to the images."""

import csv
import dataclasses
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from slava_jax.data.datasets.base import DataError
from slava_jax.data.datasets.files import ImageFiles, LabelledFile
from slava_jax.data.datasets.store import SHARES
from slava_jax.data.images import SUFFIXES, UNREAD_SUFFIXES, list_images
from slava_jax.data.instructions import IMAGE_TOKEN
from slava_jax.data.names import composed, located, name_problem, spoken
from slava_jax.data.scale import ScaleError, check_scale
from slava_jax.errors import UNSAFE

LABELS = "labels.csv"
# Optional columns and the facts they give.
_SCALES = {"pixel_size_nm": "nm_per_pixel", "magnification": "magnification"}
_TAKEN = ("category", "width_px", *_SCALES.values())  # facts of every image
_WITH_COMMA = re.compile(r"[+-]?[\d.]*\d,\d+")  # 2,5 or 1.000,5 or 10,000


class Folder(ImageFiles):
    """Images in class folders (the folder's name is the class), or listed in labels.csv.

    If `folder` contains a labels.csv, it is used. It has the columns file and label, with paths
    relative to `folder`; commas, semicolons or tabs separate them. The optional columns
    pixel_size_nm and magnification may be empty and take precedence over values in the image files.
    Further columns are facts if `facts` names them: numbers if all their cells are, else words; an
    empty cell is an unknown fact. See ImageFiles.
    """

    def __init__(
        self,
        folder: Path | str,
        data_dir: Path | str,
        size: int = 256,
        channels: int = 1,
        seed: int = 0,
        shares: tuple[float, float] = SHARES,
        crop_bar: bool = False,
        facts: Sequence[str] = (),
    ):
        """Lists the images.

        Raises:
          DataError, ImageError: no images, or invalid labels; names file and line.
        """
        folder = Path(folder)
        files = _labelled_files(folder, tuple(map(composed, facts)))
        names = sorted({file.label for file in files})
        _check_names(folder, names)
        super().__init__(folder, files, names, data_dir, size, channels, seed, shares, crop_bar)


def _check_names(folder: Path, names: list[str]) -> None:
    """Rejects class names that answers could not tell apart; they are most likely typos."""
    said = {}
    for name in names:
        if IMAGE_TOKEN in name:
            raise DataError(f"{folder}: the class {name!r} must not contain {IMAGE_TOKEN}")
        other = said.setdefault(spoken(name), name)
        if other != name:
            raise DataError(
                f"{folder}: the classes {other!r} and {name!r} differ only in case, spaces, "
                "underscores or invisible characters; merge them or give them clearly different "
                "names"
            )


def _labelled_files(folder: Path, facts: tuple[str, ...]) -> list[LabelledFile]:
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; give the folder that holds the images")
    if (folder / LABELS).is_file():
        return _from_table(folder, facts)
    for path in folder.iterdir():
        if path.name.lower() == LABELS:  # a broken link, or another spelling
            raise DataError(
                f"{path}: is not a readable file called {LABELS}, so its labels would not be used; "
                "restore, rename or remove it"
            )
    if facts:
        raise DataError(f"{folder}: data.facts names columns, but there is no {LABELS}; add one")
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise DataError(
            f"{folder}: has neither class folders nor a {LABELS} with the columns file and label; "
            "add one of them"
        )
    twice = [name for name, n in Counter(composed(sub.name) for sub in classes).items() if n > 1]
    if twice:
        raise DataError(
            f"{folder}: two class folders are named {twice[0]!r}, once with composed and once with "
            "separate accents (NFC, NFD); merge them"
        )
    files = [LabelledFile(path, composed(sub.name)) for sub in classes for path in list_images(sub)]
    _check_places(folder, files)
    return files


def _check_places(folder: Path, files: list[LabelledFile]) -> None:
    """Rejects images that would otherwise be skipped silently.

    These are images outside or nested below the class folders, in unsupported formats, or behind
    broken links.
    """
    used = {file.path for file in files}
    unread = [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in UNREAD_SUFFIXES
        or (path.suffix.lower() in SUFFIXES and path.is_symlink() and not path.exists())
    ]
    if unread:
        raise DataError(
            f"{folder}: {len(unread)} image(s) are in an unsupported format "
            f"({', '.join(UNREAD_SUFFIXES)}) or are broken links, such as {unread[0]}; save "
            f"them as PNG or TIFF, or move them away"
        )
    stray = [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path not in used
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if stray:
        raise DataError(
            f"{folder}: {len(stray)} image(s) are not directly in a class folder, such as "
            f"{stray[0]}; move them into one, remove them, or list all images in a {LABELS}"
        )


def _from_table(folder: Path, facts: tuple[str, ...]) -> list[LabelledFile]:
    table = folder / LABELS
    files, cells, first_line = [], [], {}
    for line, row in _rows(table, facts):
        where = f"{table}:{line}"
        name, label = (row["file"] or "").strip(), composed((row["label"] or "").strip())
        if not name or not label:
            raise DataError(f"{where}: file or label is empty; fill it in or remove the line")
        if problem := name_problem(name) or name_problem(label):
            raise DataError(f"{where}: {name!r}, {label!r}: a name {problem}; rename it")
        # Links are followed, as in class folders; a name must not leave the folder by itself.
        below = os.path.relpath(folder / name, folder)
        path = located(folder, below)
        # os.path.isfile returns False for names that are too long; Path.is_file raises.
        if below.split(os.sep)[0] == ".." or not os.path.isfile(path):
            raise DataError(
                f"{where}: {name!r} is not a file in {folder}; correct it or remove the line"
            )
        if path in first_line:
            raise DataError(
                f"{where}: {name!r} is already listed in line {first_line[path]}; remove one"
            )
        first_line[path] = line
        files.append(LabelledFile(path, label, _scale(row, where)))
        cells.append({name: composed((row[name] or "").strip()) for name in facts})
        for cell in cells[-1].values():
            if IMAGE_TOKEN in cell or UNSAFE.search(cell):
                raise DataError(
                    f"{where}: a fact must not contain {IMAGE_TOKEN} or control characters, is "
                    f"{cell!r}; correct it"
                )
    if not files:
        raise DataError(f"{table}: lists no images; add lines of file,label")
    known = _facts(table, cells, facts)
    return [
        dataclasses.replace(file, facts={**file.facts, **own})
        for file, own in zip(files, known, strict=True)
    ]


def _facts(
    table: Path, cells: list[dict[str, str]], names: tuple[str, ...]
) -> list[dict[str, str | float]]:
    """The facts of each line; a column of numbers holds numbers."""
    out: list[dict[str, str | float]] = [{} for _ in cells]
    for name in names:
        values = [line[name] for line in cells]
        other = [value for value in values if value and math.isnan(_number(value))]
        endless = [value for value in other if _is_endless(value)]
        if endless:
            raise DataError(
                f"{table}: the column {name} holds {endless[0]!r}, which is not a finite number; "
                "correct it or leave it empty"
            )
        if other and all(map(_WITH_COMMA.fullmatch, other)):
            raise DataError(
                f"{table}: the column {name} holds {other[0]!r}; write numbers with a decimal "
                "point, and nothing between thousands"
            )
        if 2 * len(other) < sum(map(bool, values)) and other:
            raise DataError(
                f"{table}: most cells of the column {name} are numbers, but {other[0]!r} is none; "
                "correct it or leave it empty"
            )
        read = str if other else float
        for known, value in zip(out, values, strict=True):
            if value:
                known[name] = read(value)
    return out


def _number(text: str) -> float:
    """The finite number that a text is, else NaN; 12_5 is none, though Python reads it as 125."""
    try:
        number = math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _is_endless(text: str) -> bool:
    """Whether Python reads the text as a number that is not finite, such as nan or 1e400."""
    try:
        return not math.isfinite(float(text))
    except ValueError:
        return False


def _rows(table: Path, facts: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, str | None]]]:
    """Yields the number and columns of each line."""
    with open(table, newline="", encoding="utf-8-sig") as file:
        try:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            # Without strict, an unclosed quote swallows all following lines.
            rows = csv.DictReader(file, strict=True, delimiter=delimiter)
            rows.fieldnames = [composed(name) for name in rows.fieldnames or ()]
            _check_header(table, rows.fieldnames, facts)
            for row in rows:
                if None in row:  # the key of surplus fields
                    raise DataError(
                        f"{table}:{rows.line_num}: has more fields than the header; quote fields "
                        f"that contain {delimiter!r}"
                    )
                yield rows.line_num, row
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{table}: is not a CSV file in UTF-8 ({error}); save it as CSV UTF-8"
            ) from error


def _delimiter(header: str) -> str:
    """What separates the columns; spreadsheets write ; where the comma is a decimal sign."""
    for delimiter in ";\t":
        if {"file", "label"} <= set(next(csv.reader([header], delimiter=delimiter), ())):
            return delimiter
    return ","


def _check_header(table: Path, columns: Sequence[str], facts: tuple[str, ...]) -> None:
    if not {"file", "label"} <= set(columns):
        raise DataError(f"{table}:1: must name the columns file and label; has {list(columns)}")
    twice = [name for name in ("file", "label", *_SCALES, *facts) if columns.count(name) > 1]
    if twice:
        raise DataError(f"{table}:1: has two columns {twice[0]}; rename one")
    taken = [name for name in facts if name in _TAKEN]
    if taken:
        raise DataError(
            f"{table}:1: data.facts: {taken[0]} is already a fact of every image; rename it"
        )
    missing = [name for name in facts if name not in columns]
    if missing:
        raise DataError(
            f"{table}:1: lacks the columns {', '.join(missing)} of data.facts; has "
            f"{', '.join(columns)}"
        )


def _scale(row: Mapping[str, str | None], where: str) -> dict[str, float]:
    facts = {}
    for column, fact in _SCALES.items():
        text = (row.get(column) or "").strip()
        if text:
            number = _number(text)
            if math.isnan(number):
                raise DataError(
                    f"{where}: {column} must be a number above 0 with a decimal point, is "
                    f"{text!r}; correct it or leave it empty"
                )
            try:
                facts[fact] = check_scale(fact, number, f"{where}: {column}")
            except ScaleError as error:
                raise DataError(f"{error} (the cell has {text!r})") from error
    return facts

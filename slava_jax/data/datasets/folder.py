"""The user's own images: one folder a class, or a labels.csv beside the images."""

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path

from slava_jax.data.datasets.base import DataError
from slava_jax.data.datasets.store import SHARES, Entry, ImageBuilder
from slava_jax.data.images import encode_png, list_images, read_image

LABELS = "labels.csv"


class Folder(ImageBuilder):
    """Images in class folders (the folder's name is the class), or listed in labels.csv.

    labels.csv stands in `folder`, has the columns file and label, and is used where it exists;
    paths in it are relative to `folder`. The key of an image is its path below `folder`. The
    images are stored as squares; when they, their labels or a parameter change, a new set is made.
    Facts: category.
    """

    def __init__(
        self,
        folder: Path | str,
        data_dir: Path | str,
        size: int = 256,
        channels: int = 1,
        seed: int = 0,
        shares: tuple[float, float] = SHARES,
    ):
        """Lists the images.

        Args:
          size: side the images are stored at, pixels.
          channels: 1 for grey, 3 for RGB.
          seed: of the split.

        Raises:
          DataError, ImageError: no images, or labels that do not fit; names file and line.
        """
        self._folder, self._size = Path(folder), size
        self._pairs = _labelled_files(self._folder)
        names = sorted({label for _, label in self._pairs})
        variant = f"{self._folder.resolve().name}-{self._digest(size, channels, seed)}"
        super().__init__(data_dir, variant, names, channels, seed, shares)

    def _digest(self, *parameters: int) -> str:
        stats = ((path, path.stat(), label) for path, label in self._pairs)
        files = [(str(path), stat.st_size, stat.st_mtime_ns, label) for path, stat, label in stats]
        return hashlib.sha256(repr((parameters, files)).encode()).hexdigest()[:12]

    def _entries(self) -> list[Entry]:
        return [
            Entry(
                path.relative_to(self._folder).as_posix(),
                self.class_names.index(label),
                {"category": label},
                path,
            )
            for path, label in self._pairs
        ]

    def _load(self, entries: list[Entry]) -> Iterator[tuple[bytes, str]]:
        for entry in entries:
            yield encode_png(read_image(entry.source, self._size, self.channels)), ""


def _labelled_files(folder: Path) -> list[tuple[Path, str]]:
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; give the folder that holds the images")
    if (folder / LABELS).is_file():
        return _from_table(folder)
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise DataError(
            f"{folder}: has neither a folder for each class nor a {LABELS} with the columns file "
            "and label; add one of them"
        )
    return [(path, sub.name) for sub in classes for path in list_images(sub)]


def _from_table(folder: Path) -> list[tuple[Path, str]]:
    table = folder / LABELS
    pairs, first_line = [], {}
    with open(table, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"file", "label"} <= set(rows.fieldnames or ()):
            raise DataError(
                f"{table}:1: must name the columns file and label; has {rows.fieldnames}"
            )
        for row in rows:
            where = f"{table}:{rows.line_num}"
            name, label = (row["file"] or "").strip(), (row["label"] or "").strip()
            if not name or not label:
                raise DataError(f"{where}: file or label is empty; fill it in or remove the line")
            path = folder / name
            if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
                raise DataError(
                    f"{where}: {name!r} is no file in {folder}; correct it or remove the line"
                )
            if path in first_line:
                raise DataError(
                    f"{where}: {name!r} stands in line {first_line[path]} already; remove one"
                )
            first_line[path] = rows.line_num
            pairs.append((path, label))
    if not pairs:
        raise DataError(f"{table}: lists no image; add lines of file,label")
    return pairs

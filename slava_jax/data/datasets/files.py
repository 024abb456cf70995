"""A data set of image files on disk; all files are checked first and duplicates are removed."""

import dataclasses
import hashlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from slava_jax.data.datasets.base import DataError
from slava_jax.data.datasets.store import SHARES, Entry, ImageBuilder
from slava_jax.data.decoding import read_header
from slava_jax.data.images import ImageError, encode_png, read_image
from slava_jax.data.names import composed, name_problem
from slava_jax.data.scale import read_scale

_MOST_NAMED = 10  # most files that one message lists


@dataclasses.dataclass(frozen=True)
class LabelledFile:
    """An image file, its class, and facts given by the user (such as nm_per_pixel)."""

    path: Path
    label: str
    facts: Mapping[str, str | float] = dataclasses.field(default_factory=dict)


class ImageFiles(ImageBuilder):
    """Image files with their classes. The key of an image is its path relative to `folder`, with
    composed characters (names.py).

    Images are stored as squares. The set is rebuilt when the files, their labels or a parameter
    change. Every file is read once before the build; unreadable files are reported together. Of
    files with equal squares, only the first is kept. A picture that occurs in several classes is
    left out of all of them, since its class is ambiguous. What was left out, and which page of
    several is used, is printed and listed in the stored set's metadata.json.
    Facts: category, width_px (of the file), nm_per_pixel and magnification if the user or the file
    gives them, and others that the user gives.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[LabelledFile],
        class_names: Sequence[str],
        data_dir: Path | str,
        size: int,
        channels: int,
        seed: int,
        shares: tuple[float, float] = SHARES,
        crop_bar: bool = False,
        published: Mapping[str, int] | None = None,
    ):
        """Sets up the builder.

        Args:
          folder: the folder that contains all files.
          size: side length of the stored images, pixels.
          channels: 1 for grey, 3 for RGB.
          seed: seed of the split.
          crop_bar: crop the instrument's data bar if one is found.
          published: number of images per class, for comparison with the files found.

        Raises:
          DataError: two files have one key, or a file or class has an unusable name.
        """
        self._folder, self._files = folder, files
        self._check_names(class_names)
        self._size, self._crop_bar, self._published = size, crop_bar, published
        # Sets without the option keep the name they had before it was added.
        parameters = (size, channels, seed) + (("crop_bar",) if crop_bar else ())
        variant = f"{folder.resolve().name}-{_digest(files, parameters)}"
        super().__init__(data_dir, variant, class_names, channels, seed, shares)
        self._place = self.data_path  # saved here because it changes during the build

    def _check_names(self, class_names: Sequence[str]) -> None:
        keys = set()
        for file in self._files:
            key = self._key(file)
            if problem := name_problem(key):
                raise DataError(f"{self._folder}: the name {key!r} {problem}; rename it")
            if key in keys:
                raise DataError(
                    f"{self._folder}: two files are named {key!r}, once with composed and once "
                    "with separate accents (NFC, NFD); rename one"
                )
            keys.add(key)
        for name in (*class_names, self._folder.resolve().name):
            if problem := name_problem(name):
                raise DataError(f"{self._folder}: the name {name!r} {problem}; rename it")

    def _entries(self) -> list[Entry]:
        squares = self._squares()
        kept, copies, disputed = _sorted_out(self._files, squares)
        headers = [read_header(file.path) for file in kept]
        notes = [
            f"{self._key(file)}: {header.note}"
            for file, header in zip(kept, headers, strict=True)
            if header.note
        ]
        self._report(kept, copies, disputed, notes)
        return [
            Entry(
                self._key(file),
                self.class_names.index(file.label),
                {
                    "category": file.label,
                    "width_px": header.width,
                    **read_scale(file.path),
                    **file.facts,
                },
                file.path,
            )
            for file, header in zip(kept, headers, strict=True)
        ]

    def _load(self, entries: list[Entry]) -> Iterator[tuple[bytes, str]]:
        for entry in entries:
            yield encode_png(self._read(entry.source)), ""

    def _read(self, path: Path):
        return read_image(path, self._size, self.channels, crop_bar=self._crop_bar)

    def _key(self, file: LabelledFile) -> str:
        return composed(file.path.relative_to(self._folder).as_posix())

    def _squares(self) -> list[bytes]:
        """Returns a hash of the stored form of each file."""
        squares, errors = [], []
        for file in tqdm(self._files, f"{self.name} files", unit="img", mininterval=1):
            try:
                squares.append(hashlib.sha256(self._read(file.path).tobytes()).digest())
            except ImageError as error:
                errors.append(str(error))
        if len(errors) == 1:
            raise ImageError(errors[0])
        if errors:
            raise ImageError(f"{len(errors)} images cannot be read:\n  " + _listed(errors))
        return squares

    def _report(self, kept, copies, disputed, notes: list[str]) -> None:
        """Reports problems with the files. Raises DataError if a class has no images left."""
        said = list(self._counts(Counter(f.label for f in self._files), kept))
        pairs = [f"{self._key(copy)} = {self._key(first)}" for copy, first in copies]
        quarrels = [" = ".join(self._key(file) for file in group) for group in disputed]
        if pairs:
            said.append(f"{len(pairs)} duplicates dropped (dropped = kept):")
            said.append(f"  {_listed(pairs)}")
        if quarrels:
            said.append(f"{len(quarrels)} image(s) found in several classes dropped:")
            said.append(f"  {_listed(quarrels)}")
        if notes:
            said.append(f"{len(notes)} file(s) with several pages, of which one is used:")
            said.append(f"  {_listed(notes)}")
        if pairs or quarrels or notes:
            said.append(f"full list: {self._place}/metadata.json")
        self.info.metadata.update(copies=pairs, in_several_classes=quarrels, pages=notes)
        for line in said:
            tqdm.write(f"{self.name}: {line}", file=sys.stderr)
        lost = sorted(set(self.class_names) - {file.label for file in kept})
        if lost:
            held = (lost[0] in {file.label for file in group} for group in disputed)
            raise DataError(
                f"{self._folder}: every image of the class {lost[0]!r} also occurs in another "
                f"class ({next(itertools.compress(quarrels, held))}); remove the wrong copies"
            )

    def _counts(self, found: Counter, kept: Sequence[LabelledFile]) -> Iterator[str]:
        """Yields a line for each class whose number of images, with or without copies, differs
        from the published one.
        """
        left = Counter(file.label for file in kept)
        for name, number in (self._published or {}).items():
            if number not in (found[name], left[name]):
                without = f" ({left[name]:,} distinct)" if left[name] < found[name] else ""
                yield f"{name}: {found[name]:,} images{without}, {number:,} published"


def _digest(files: Sequence[LabelledFile], parameters: tuple) -> str:
    listed = []
    for file in files:
        stat = file.path.stat()
        # Only add facts if there are any, so that older sets keep their names.
        facts = (sorted(file.facts.items()),) if file.facts else ()
        path = composed(str(file.path))
        listed.append((path, stat.st_size, stat.st_mtime_ns, file.label, *facts))
    return hashlib.sha256(repr((parameters, listed)).encode()).hexdigest()[:12]


def _sorted_out(files: Sequence[LabelledFile], squares: Sequence[bytes]):
    """Returns (files kept, [(copy, file kept)], [files with one picture in several classes])."""
    groups: dict[bytes, list[LabelledFile]] = {}
    for file, square in zip(files, squares, strict=True):
        groups.setdefault(square, []).append(file)
    alike = [group for group in groups.values() if len(group) > 1]
    disputed = [group for group in alike if len({file.label for file in group}) > 1]
    quarrels = {id(group[0]) for group in disputed}
    kept = [group[0] for group in groups.values() if id(group[0]) not in quarrels]
    agreed = [group for group in alike if id(group[0]) not in quarrels]
    return kept, [(copy, group[0]) for group in agreed for copy in group[1:]], disputed


def _listed(lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - _MOST_NAMED} more"] if len(lines) > _MOST_NAMED else []
    return "\n  ".join([*lines[:_MOST_NAMED], *more])

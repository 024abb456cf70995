"""Image files on disk as a data set: all looked at first, and no picture in it twice."""

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
from slava_jax.data.images import ImageError, encode_png, read_image
from slava_jax.data.scale import read_scale

_MOST_NAMED = 10  # files that one message lists


@dataclasses.dataclass(frozen=True)
class LabelledFile:
    """An image file, its class, and what its user says of it (facts, such as nm_per_pixel)."""

    path: Path
    label: str
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)


class ImageFiles(ImageBuilder):
    """Image files with their classes. The key of an image is its path below `folder`.

    The images are stored as squares; when they, their labels or a parameter change, a new set is
    made. Before that every file is read once: those that cannot be are named together, and of
    files whose squares are equal the first one stays. Pictures that stand in two classes are left
    out of both, as nobody can say which is right. What was left out is printed, and listed in
    metadata.json where the set is stored.
    Facts: category, and nm_per_pixel and magnification where the user or the file says them.
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
        """Sets the builder up.

        Args:
          folder: what all files are in.
          size: side the images are stored at, pixels.
          channels: 1 for grey, 3 for RGB.
          seed: of the split.
          crop_bar: cut the instrument's data bar off, where one is found.
          published: number of images of each class, to be compared with what is found.
        """
        self._folder, self._files = folder, files
        self._size, self._crop_bar, self._published = size, crop_bar, published
        # A set without the option keeps the name it had before there was one.
        parameters = (size, channels, seed) + (("crop_bar",) if crop_bar else ())
        variant = f"{folder.resolve().name}-{_digest(files, parameters)}"
        super().__init__(data_dir, variant, class_names, channels, seed, shares)
        self._place = self.data_path  # which is another one while the set is made

    def _entries(self) -> list[Entry]:
        squares = self._squares()
        kept, copies, disputed = _sorted_out(self._files, squares)
        self._report(kept, copies, disputed)
        return [
            Entry(
                self._key(file),
                self.class_names.index(file.label),
                {"category": file.label, **read_scale(file.path), **file.facts},
                file.path,
            )
            for file in kept
        ]

    def _load(self, entries: list[Entry]) -> Iterator[tuple[bytes, str]]:
        for entry in entries:
            yield encode_png(self._read(entry.source)), ""

    def _read(self, path: Path):
        return read_image(path, self._size, self.channels, crop_bar=self._crop_bar)

    def _key(self, file: LabelledFile) -> str:
        return file.path.relative_to(self._folder).as_posix()

    def _squares(self) -> list[bytes]:
        """A hash of what each file would be stored as."""
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

    def _report(self, kept, copies, disputed) -> None:
        """Says what is not as it should be. Raises DataError where a class lost all its images."""
        said = list(self._counts(Counter(f.label for f in self._files), kept))
        pairs = [f"{self._key(copy)} = {self._key(first)}" for copy, first in copies]
        quarrels = [" = ".join(self._key(file) for file in group) for group in disputed]
        if pairs:
            said.append(f"{len(pairs)} copies left out, of the picture named second:")
            said.append(f"  {_listed(pairs)}")
        if quarrels:
            said.append(f"{len(quarrels)} picture(s) that stand in several classes left out:")
            said.append(f"  {_listed(quarrels)}")
        if pairs or quarrels:
            said.append(f"all of them: {self._place}/metadata.json")
        self.info.metadata.update(copies=pairs, in_several_classes=quarrels)
        for line in said:
            tqdm.write(f"{self.name}: {line}", file=sys.stderr)
        lost = sorted(set(self.class_names) - {file.label for file in kept})
        if lost:
            held = (lost[0] in {file.label for file in group} for group in disputed)
            raise DataError(
                f"{self._folder}: every picture of the class {lost[0]!r} stands in another class, "
                f"too ({next(itertools.compress(quarrels, held))}); remove the wrong copies"
            )

    def _counts(self, found: Counter, kept: Sequence[LabelledFile]) -> Iterator[str]:
        """A line for each class that has not as many images as published, copies in or out."""
        left = Counter(file.label for file in kept)
        for name, number in (self._published or {}).items():
            if number not in (found[name], left[name]):
                without = f" ({left[name]:,} different ones)" if left[name] < found[name] else ""
                yield f"{name}: {found[name]:,} images{without}, {number:,} published"


def _digest(files: Sequence[LabelledFile], parameters: tuple) -> str:
    listed = []
    for file in files:
        stat = file.path.stat()
        # Facts only where there are any: sets of before keep their names.
        facts = (sorted(file.facts.items()),) if file.facts else ()
        listed.append((str(file.path), stat.st_size, stat.st_mtime_ns, file.label, *facts))
    return hashlib.sha256(repr((parameters, listed)).encode()).hexdigest()[:12]


def _sorted_out(files: Sequence[LabelledFile], squares: Sequence[bytes]):
    """(files that stay, [(copy, the one that stays)], [files of one picture, several classes])."""
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

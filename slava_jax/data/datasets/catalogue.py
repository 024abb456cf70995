"""The paper's published data sets: classes, image counts, and how a file's class is determined.

The user downloads and unpacks the data; the cards in third_party/ give the source and the layout.
This module is light to import.
"""

import dataclasses
import difflib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from slava_jax.data.datasets.base import DataError
from slava_jax.data.images import SUFFIXES
from slava_jax.synthetic.records import CATEGORIES

_MOST_NAMED = 12  # most problems that one error lists


@dataclasses.dataclass(frozen=True)
class PublishedSet:
    """An image data set as its authors publish it.

    A file's class is the innermost parent folder whose name is a class or an alias of one, ignoring
    case and punctuation. Other folders (train, images, cross_val_1) are ignored.

    Attributes:
      title: the name of the set in messages.
      card: the file that describes it.
      counts: class -> published number of images.
      other_names: alias in folder or file names -> class.
      files_named: if no folder gives the class, take it from the file name before the number.
    """

    title: str
    card: str
    counts: Mapping[str, int]
    other_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files_named: bool = False

    @property
    def class_names(self) -> list[str]:
        """The classes, in the order of `counts`."""
        return list(self.counts)


_STEEL = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
_STEEL_SHORT = ("Cr", "In", "Pa", "PS", "RS", "Sc")  # of the first release
_TEXTURES = (
    "aluminium_foil",
    "brown_bread",
    "corduroy",
    "cotton",
    "cracker",
    "linen",
    "orange_peel",
    "sandpaper",
    "sponge",
    "styrofoam",
)
_SCORES = range(5, 10)

PUBLISHED = {
    "sem": PublishedSet(
        "the SEM set of Aversa et al.",
        "third_party/sem-dataset.md",
        dict(
            zip(
                CATEGORIES,
                (973, 163, 327, 4591, 3821, 3926, 4756, 182, 918, 1625),
                strict=True,
            )
        ),
    ),
    "neu": PublishedSet(
        "NEU-SDD (NEU-CLS, NEU-DET)",
        "third_party/neu-sdd.md",
        dict.fromkeys(_STEEL, 300),
        {**dict(zip(_STEEL_SHORT, _STEEL, strict=True)), "pitted": _STEEL[3], "rolled": _STEEL[4]},
        files_named=True,
    ),
    "cmi": PublishedSet(
        "the corrosion set (CMI)",
        "third_party/cmi.md",
        {f"corrosion_{score}": 120 for score in _SCORES},
        {f"{score}": f"corrosion_{score}" for score in _SCORES},
    ),
    "kth_tips": PublishedSet(
        "KTH-TIPS",
        "third_party/kth-tips.md",
        dict.fromkeys(_TEXTURES, 81),
    ),
}


def find_images(published: PublishedSet, folder: Path) -> list[tuple[Path, str]]:
    """Returns (file, class) of every image below `folder`, sorted by path.

    Raises:
      DataError: a class has no image, or images have no class; names each and suggests the likely
        class.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; give the one described in {published.card}")
    names = {_plain(name): name for name in published.counts}
    names |= {_plain(other): name for other, name in published.other_names.items()}
    pairs, strays = [], Counter()
    for path in _image_files(folder):
        # Names that may give the class, the most specific first.
        calls = [*reversed(path.relative_to(folder).parent.parts)]
        numbered = re.fullmatch(r"(.*?)[_\- ]*\d+", path.stem) if published.files_named else None
        calls += [numbered[1]] if numbered else []
        label = next((names[_plain(call)] for call in calls if _plain(call) in names), None)
        if label is not None:
            pairs.append((path, label))
        elif numbered:
            strays[path.parent / numbered[1]] += 1
        else:
            alone = published.files_named or path.parent == folder
            strays[path if alone else path.parent] += 1
    found = {label for _, label in pairs}
    missing = [name for name in published.counts if name not in found]
    problems = [_stray(place, number, folder, names) for place, number in strays.items()]
    problems += [f"{name}: no image" for name in missing]
    if problems:
        listed = problems[:_MOST_NAMED]
        if len(problems) > len(listed):
            listed.append(f"and {len(problems) - len(listed)} more")
        raise DataError(
            f"{folder}: does not have the layout of {published.title} ({published.card}); rename "
            "or remove these, or read it with data.name='folder':\n  " + "\n  ".join(listed)
        )
    return pairs


def _image_files(folder: Path) -> Iterator[Path]:
    for place, below, files in os.walk(folder):
        # Skip the extra files of archives made on macOS.
        below[:] = sorted(b for b in below if not b.startswith(".") and b != "__MACOSX")
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(place, name)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _stray(place: Path, number: int, folder: Path, names: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(_plain(place.name), list(names), 1)
    known = ", ".join(dict.fromkeys(names.values()))
    hint = f"did you mean {names[near[0]]}?" if near else f"the classes: {known}"
    return f"{place.relative_to(folder)}: {number} image(s) of unknown class ({hint})"

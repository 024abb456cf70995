"""2,624 electroluminescence images of solar cells (Deitsch et al., 2019), functional or defective.

The images are read from the installed package elpv-dataset and never copied into this project,
because their licence (CC BY-NC-SA 4.0) is non-commercial.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from slava_jax.data.datasets.base import DataError
from slava_jax.data.datasets.store import SHARES, Entry, ImageBuilder
from slava_jax.data.images import encode_png, read_image

CLASS_NAMES = ("functional", "defective")
_CELL_TYPES = {"mono": "monocrystalline", "poly": "polycrystalline"}


class Elpv(ImageBuilder):
    """ELPV in two classes: defective if the annotated defect probability is above 0.5.

    Facts: category, defect_probability (0, 1/3, 2/3 or 1), cell_type.
    """

    def __init__(
        self,
        data_dir: Path | str,
        size: int = 256,
        seed: int = 0,
        shares: tuple[float, float] = SHARES,
    ):
        """Sets up the builder; `size` is the side length of the stored images (originally 300)."""
        self._size = size
        super().__init__(data_dir, f"size{size}-seed{seed}", CLASS_NAMES, 1, seed, shares)

    def _stratum(self, entry: Entry) -> str:
        return f"class {self.class_names[entry.label]!r}, {entry.facts['cell_type']}"

    def _entries(self) -> list[Entry]:
        return read_labels(package_folder() / "data")

    def _load(self, entries: list[Entry]) -> Iterator[tuple[bytes, str]]:
        for entry in entries:
            yield encode_png(read_image(entry.source, self._size, 1)), ""


def package_folder() -> Path:
    """Returns the folder of the installed package. Raises DataError if it is not installed."""
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or not found.submodule_search_locations:
        raise DataError(
            'the package elpv-dataset is not installed: run pip install "slava_jax[elpv]"'
        )
    return Path(found.submodule_search_locations[0])


def read_labels(folder: Path) -> list[Entry]:
    """Reads labels.csv, whose columns (path, defect probability, cell type) are split by spaces.

    Raises:
      DataError: the file is missing or a line is malformed.
    """
    path = folder / "labels.csv"
    if not path.is_file():
        raise DataError(f"{path}: is missing; reinstall the package elpv-dataset")
    entries = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            file, probability, cell = line.split()
            defect, cell_type = float(probability), _CELL_TYPES[cell]
        except (ValueError, KeyError) as error:
            raise DataError(
                f'{path}:{number}: {line!r} is not "path probability mono|poly"; reinstall the '
                "package elpv-dataset"
            ) from error
        label = int(defect > 0.5)
        facts = {
            "category": CLASS_NAMES[label],
            "defect_probability": defect,
            "cell_type": cell_type,
        }
        entries.append(Entry(Path(file).stem, label, facts, folder / file))
    return entries

"""The base of the TFDS builders: ArrayRecord files, the 70/10/20 split, and reading them back.

TFDS runs here without TensorFlow and without network access.
"""

import abc
import contextlib
import dataclasses
import difflib
import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from slava_jax.data.datasets.base import DataError, ImageSet
from slava_jax.errors import UserError
from slava_jax.facts import shown

SPLITS = ("train", "validation", "test")
SHARES = (0.1, 0.2)  # fractions of the validation and test split
_ALIKE = 0.85  # difflib similarity above which one name may be a typo of the other


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image of a data set, before it is read or drawn."""

    key: str
    label: int
    facts: dict[str, Any]
    source: Any  # passed to the builder's `_load` to get the picture


class ImageBuilder(tfds.core.GeneratorBasedBuilder, abc.ABC, skip_registration=True):
    """A TFDS builder for labelled square images; see `image_sets`.

    Features: image (PNG), key, label, facts (JSON), record (JSON of a GroundTruth, or '').
    """

    VERSION = tfds.core.Version("1.2.0")  # 1.2.0: textures and debris are drawn to be seen

    def __init__(
        self,
        data_dir: Path | str,
        variant: str,
        class_names: Sequence[str],
        channels: int,
        seed: int,
        shares: tuple[float, float] = SHARES,
    ):
        """Sets up the builder; nothing is read yet.

        Args:
          data_dir: parent of the folder in which the files are stored.
          variant: name of that folder; with the shares, it must identify all parameters.
          seed: seed of the split.
          shares: fractions of the validation and test split.
        """
        self.class_names, self.channels, self.seed = list(class_names), channels, seed
        self.shares = shares
        if shares != SHARES:
            variant = f"{variant}-validation{shares[0]}-test{shares[1]}"
        place = Path(data_dir) / variant
        with _damage_named(place):  # what was built before is looked at here
            super().__init__(data_dir=place)

    @abc.abstractmethod
    def _entries(self) -> list[Entry]:
        """Returns an entry for every image, before any image is read."""

    @abc.abstractmethod
    def _load(self, entries: list[Entry]) -> Iterator[tuple[bytes, str]]:
        """Yields the PNG and record of each entry, in order."""

    def _stratum(self, entry: Entry) -> str:
        """Returns the stratum of an entry for the split: its class, unless overridden."""
        return f"class {self.class_names[entry.label]!r}"

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, self.channels), encoding_format="png")
        features = {
            "image": image,
            "key": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=self.class_names),
            "facts": tfds.features.Text(),
            "record": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),  # filled in by builders
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing is downloaded.
        entries = self._entries()
        parts = split_stratified(
            [entry.key for entry in entries],
            [self._stratum(entry) for entry in entries],
            self.seed,
            self.name,
            self.shares,
        )
        bar = tqdm(total=len(entries), desc=f"{self.name} images", unit="img", mininterval=1)
        return {
            split: self._generate_examples([entries[i] for i in rows], bar)
            for split, rows in parts.items()
        }

    def _generate_examples(self, entries: list[Entry], bar: tqdm):
        for entry, (png, record) in zip(entries, self._load(entries), strict=True):
            bar.update()
            yield (
                entry.key,
                {
                    "image": io.BytesIO(png),
                    "key": entry.key,
                    "label": entry.label,
                    "facts": json.dumps(entry.facts, sort_keys=True),
                    "record": record,
                },
            )
        if bar.n >= bar.total:
            bar.close()


@contextlib.contextmanager
def _damage_named(place: Any) -> Iterator[None]:
    """Errors of any kind, from the libraries that read a stored set, as a DataError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError):
            raise  # it says what to do
        raise DataError(
            f"{place}: damaged ({shown(str(error))}); delete that folder, and the next start "
            "builds it again"
        ) from error


def image_sets(builder: ImageBuilder) -> dict[str, ImageSet]:
    """Builds the data set if it does not exist yet and opens its splits.

    The remains of an interrupted build are removed and the build starts again. Only one process may
    build at a time (with several hosts, the first one while the others wait).

    Returns:
      The sets 'train', 'validation' and 'test'; the images stay on disk.

    Raises:
      DataError, ImageError: the images cannot be used; names the file or class. DataError: what
        was built is damaged.
    """
    if not builder.data_path.exists():
        for leftover in Path(builder.data_path).parent.glob("incomplete.*"):
            shutil.rmtree(leftover)
        tfds.disable_progress_bar()  # The builder has its own, over all splits.
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        # Suppress the misleading TFDS message that data is downloaded.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(file_format="array_record", download_config=config)
    with _damage_named(builder.data_path):
        return {split: _open_split(builder, split) for split in SPLITS}


def split_stratified(
    keys: Sequence[str],
    strata: Sequence[str],
    seed: int,
    name: str,
    shares: tuple[float, float] = SHARES,
) -> dict[str, list[int]]:
    """Splits every stratum, 70/10/20 by default, independently of the order of the images.

    The images of a stratum are ranked by a hash of seed and key. The first go to the test split,
    the next to validation (rounded, at least one each), the rest to training. Adding an image
    therefore moves at most one other image across each boundary.

    Args:
      strata: the stratum of each image, as shown in error messages.
      shares: fractions of the validation and test split.

    Returns:
      split -> positions in `keys`.

    Raises:
      DataError: there are no images, or a stratum has fewer than three.
    """
    if not keys:
        raise DataError(f"{name}: contains no images; nothing to split")
    ranked: dict[str, list[int]] = {}
    for i in sorted(range(len(keys)), key=lambda i: _rank(seed, keys[i])):
        ranked.setdefault(strata[i], []).append(i)
    parts = {split: [] for split in SPLITS}
    for stratum, rows in ranked.items():
        if len(rows) < 3:
            others = [other for other in ranked if other != stratum]
            alike = difflib.get_close_matches(stratum, others, 1, _ALIKE)
            hint = f" (did you mean {alike[0]}?)" if alike else ""
            raise DataError(
                f"{name}: {stratum} has {len(rows)} image(s) ({keys[rows[0]]}) but needs 3, one "
                f"each for training, validation and test; add images or remove the class{hint}"
            )
        validation, test = (_share(len(rows), share) for share in shares)
        parts["test"] += rows[:test]
        parts["validation"] += rows[test : test + validation]
        parts["train"] += rows[test + validation :]
    return {split: sorted(rows) for split, rows in parts.items()}


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def _share(count: int, fraction: float) -> int:
    return max(1, int(count * fraction + 0.5))


def _open_split(builder: ImageBuilder, split: str) -> ImageSet:
    name = f"{builder.name} {split} split ({builder.data_path})"
    skip = {"image": tfds.decode.SkipDecoding()}
    if split not in builder.info.splits or not builder.info.splits[split].num_examples:
        raise DataError(f"{name}: is empty; delete that folder to rebuild it")
    source = builder.as_data_source(split, decoders=skip)
    class_names = builder.info.features["label"].names
    keys, labels, facts, records, hashes = [], [], [], [], []
    for i in range(len(source)):
        example = source[i]
        keys.append(example["key"].decode())
        labels.append(example["label"])
        facts.append(json.loads(example["facts"]))
        record = example["record"].decode()
        records.append(json.loads(record) if record else None)
        # Here the image is in memory anyway: reading 10,000 a second time would take seconds.
        said = json.dumps([class_names[example["label"]], facts[-1], record]).encode()
        hashes.append(hashlib.sha256(said + example["image"]).hexdigest()[:16])
    return ImageSet(
        keys, labels, class_names, lambda i: source[i]["image"], facts, records, name, hashes
    )

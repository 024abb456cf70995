"""The builder for the published data sets described in catalogue.py."""

from pathlib import Path

from slava_jax.data.datasets.catalogue import PUBLISHED, find_images
from slava_jax.data.datasets.files import ImageFiles, LabelledFile
from slava_jax.data.datasets.store import SHARES


class Published(ImageFiles):
    """One of catalogue.PUBLISHED, read from where the user unpacked it; see ImageFiles."""

    def __init__(
        self,
        which: str,
        folder: Path | str,
        data_dir: Path | str,
        size: int = 256,
        channels: int = 1,
        seed: int = 0,
        shares: tuple[float, float] = SHARES,
        crop_bar: bool = False,
    ):
        """Lists the images.

        Args:
          which: a key of catalogue.PUBLISHED.
          folder: where the archives were unpacked.

        Raises:
          DataError: a class is missing or misspelt, or there are images of unknown classes.
        """
        self.name = which
        published, folder = PUBLISHED[which], Path(folder)
        files = [LabelledFile(path, label) for path, label in find_images(published, folder)]
        super().__init__(
            folder, files, published.class_names, data_dir, size, channels, seed, shares,
            crop_bar, published.counts,
        )  # fmt: skip

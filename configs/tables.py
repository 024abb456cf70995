"""All tasks of the paper on synthetic micrographs with the quickstart's model, for `make tables`.

    slava train --config configs/tables.py --workdir runs/tables/procedural-seed0

Hardware: 2 CPU cores, 5 GiB. Time and scores: docs/tables.md, which `make tables` writes.
"""

from ml_collections import ConfigDict

from configs.multi_image import get_config as multi_image


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py documents every setting."""
    config = multi_image()
    config.evaluation.update(captions=320, answers=640, several=240)
    return config

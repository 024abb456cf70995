"""Only the vision stage: the ViT as a classifier.

    slava train --config configs/vision.py --workdir runs/vision

Hardware: 2 CPU cores, 4 GiB. Time: about 5 minutes. Scores: as the quickstart's.
"""

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py documents every setting."""
    config = quickstart()
    config.stages = ("vision",)
    return config

"""Only the assistant stage, starting from the runs of configs/vision.py and configs/language.py.

    slava train --config configs/assistant.py --workdir runs/assistant

Hardware: 2 CPU cores, 4 GiB. Time: about 5 minutes. Scores: as the quickstart's.
"""

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py documents every setting."""
    config = quickstart()
    config.stages = ("assistant",)
    config.start_from.update(vision="runs/vision", language="runs/language")
    return config

"""Only the language stage: the Llama on the instructions of the training split.

    slava train --config configs/language.py --workdir runs/language

Hardware: 2 CPU cores, 4 GiB. Time: about 2 minutes. It is not scored: its loss is in
the report.
"""

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py documents every setting."""
    config = quickstart()
    config.stages = ("language",)
    return config

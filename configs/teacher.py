"""A teacher behind an OpenAI-compatible API writes the instructions about your images.

    slava teach --config configs/teacher.py --config.data.folder=DIR \
        --config.teacher.model=gpt-4o --config.teacher.budget.money=5 --workdir runs/mine --dry-run

Without --dry-run it asks: the images leave the house then, unless config.teacher.base_url names a
server of your own (docs/teacher.md). Afterwards a run in the same work directory learns from it:

    slava train --config configs/folder.py --config.data.folder=DIR --workdir runs/mine

Hardware: any. Time: that of the server; 2 requests an image with these settings. Score: none.
"""

from ml_collections import ConfigDict

from configs.folder import get_config as folder
from slava_jax.teacher.settings import default_settings


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py and teacher/settings.py say what settings mean."""
    config = folder()
    with config.unlocked():
        config.teacher = default_settings()
    config.data.size = 512  # what the teacher looks at; a run may look at smaller ones
    config.teacher.prices.update(input=2.5, output=10.0)  # gpt-4o; look up what yours costs
    return config

"""A teacher behind an OpenAI-compatible API generates the instructions about your images.

    slava teach --config configs/teacher.py --config.data.folder=DIR \
        --config.teacher.model=gpt-4o --config.teacher.budget.money=5 --workdir runs/mine --dry-run

Without --dry-run it sends your images to the API, unless config.teacher.base_url is your own server
(docs/teacher.md). Then train in the same work directory:

    slava train --config configs/folder.py --config.data.folder=DIR --workdir runs/mine

Hardware: any. Time: depends on the server; 2 requests per image with these settings. Score: none.
"""

from ml_collections import ConfigDict

from configs.folder import get_config as folder
from slava_jax.teacher.settings import default_settings


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py and teacher/settings.py document the settings."""
    config = folder()
    with config.unlocked():
        config.teacher = default_settings()
    config.data.size = 512  # image size for the teacher; a run may use smaller images
    config.teacher.prices.update(input=2.5, output=10.0)  # gpt-4o; look up those of your model
    return config

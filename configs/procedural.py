"""The quickstart with more micrographs and longer stages.

    python -m slava_jax.main --config configs/procedural.py --workdir runs/procedural

Hardware: 2 CPU cores, 4 GiB. Time: about 30 minutes. Scores: not measured yet.
"""

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py says what every setting means."""
    config = quickstart()
    config.data.images_per_category = 2000
    config.vision.update(steps=5000, eval_every=500)
    config.language.update(steps=400, eval_every=200)
    config.assistant.update(steps=1400, eval_every=200)
    return config

"""Real images: 2,624 electroluminescence images of solar cells, functional or defective.

    make elpv
    python -m slava_jax.main --config configs/elpv.py --workdir runs/elpv

Hardware: 2 CPU cores, 4 GiB. Time and scores: not measured yet. There is no target; the
report has the majority class beside the scores.
"""

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py says what every setting means."""
    config = quickstart()
    config.data.name = "elpv"
    config.data.question = "Is this solar cell functional or defective?"
    config.vision.update(steps=1000, eval_every=100)
    config.language.update(steps=100, warmup=20, eval_every=50)
    config.assistant.update(steps=500, eval_every=100)
    return config

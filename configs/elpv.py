"""Real images: 2,624 electroluminescence images of solar cells, functional or defective.

    make elpv
    slava train --config configs/elpv.py --workdir runs/elpv

Hardware: 2 CPU cores, 3 GiB. Time: 9 minutes on one core of an AMD EPYC. Scores of seed 0 on 525
test cells: accuracy 0.832, macro F1 0.782; vision classifier alone 0.823, classical baseline 0.827,
majority class 0.688. 1,836 images are few for an encoder trained from scratch;
configs/elpv_pretrained.py uses a pretrained one.
"""

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py documents every setting."""
    config = quickstart()
    config.data.name = "elpv"
    config.data.question = "Is this solar cell functional or defective?"
    config.vit.layers = 3
    config.vision.update(steps=1000, eval_every=100)
    config.language.update(steps=100, warmup=20, eval_every=50)
    config.assistant.update(steps=500, eval_every=100)
    return config

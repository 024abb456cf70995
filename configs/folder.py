"""Your own images: a folder per class, or images and a labels.csv with columns file and label.

    slava train --config configs/folder.py --config.data.folder=DIR --workdir runs/mine

Hardware: 2 CPU cores, 4 GiB. Time: about 10 minutes, whatever the number of images. Scores: yours.
A few hundred images are enough to try it; reliable answers need thousands.
"""

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py documents every setting."""
    config = quickstart()
    config.data.name = "folder"
    config.data.question = ""  # ask what distinguishes your classes; '' asks for the category
    # Small batches, because a few hundred images have little text.
    config.vision.update(steps=1000, eval_every=100, batch_size=32, learning_rate=2e-3)
    config.language.update(steps=100, warmup=20, eval_every=50, batch_size=8, length=32)
    config.assistant.update(steps=500, eval_every=100)
    return config

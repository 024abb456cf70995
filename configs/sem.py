"""The published data sets of the paper; by default the SEM set of Aversa et al., without data bars.

    slava train --config configs/sem.py --config.data.folder=DIR --workdir runs/sem
    slava train --config configs/sem.py --config.data.name=neu \\
        --config.data.folder=DIR --config.data.crop_bar=False --workdir runs/neu

DIR is the unpacked download; for its source see third_party/: sem-dataset.md, neu-sdd.md (`neu`),
cmi.md (`cmi`) and kth-tips.md (`kth_tips`). Counts are compared with the published ones, and
duplicates left out. `--config.data.question="Which texture does this image show?"` changes the
class question.

Hardware: 2 CPU cores, 4 GiB. Time and scores: not measured, because the images are not part of this
project. The model is small and trained from scratch: its scores say nothing about the paper's.
"""

from ml_collections import ConfigDict

from configs.multi_image import get_config as multi_image


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py documents every setting."""
    config = multi_image()
    # The challenges need ground truth, but a teacher's instructions can include them.
    config.data.update(name="sem", crop_bar=True, challenges=())
    config.vision.update(steps=5000, eval_every=500)
    config.language.update(steps=100, warmup=20, eval_every=50)
    config.assistant.update(steps=1300, eval_every=260)
    return config

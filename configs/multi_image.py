"""Few-shot classification and the three challenges: prompts with several images (section 4.4).

    slava train --config configs/multi_image.py --workdir runs/multi_image

As configs/quickstart.py, but an instruction may contain training images that the vision encoder
finds similar, before its own image. Hardware: 2 CPU cores, 5 GiB. Time: 22 minutes (Intel Xeon,
330 GFLOP/s). Scores of an earlier recipe (docs/tables.md): top-1 0.86 with four examples and 0.87
without, 0.17 with permuted class names; ROUGE-L of the challenges 0.87, 0.78, 0.86.
"""

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py documents every setting."""
    config = quickstart()
    config.data.shots = (1, 2, 4, 8)
    config.data.challenges = ("intra_class", "inter_class", "heterogeneity")
    config.assistant.update(
        steps=1200,
        per_image=8,
        always=("class", "few_shot", *config.data.challenges),
        # Few, because each is compiled; the last one fits eight examples.
        buckets=((36, 8, 1), (64, 8, 5), (88, 52, 1), (112, 68, 3), (112, 68, 9)),
        eval_every=400,
    )
    return config

"""Few-shot classification and the three challenges: prompts with several images (section 4.4).

    python -m slava_jax.main --config configs/multi_image.py --workdir runs/multi_image

As configs/quickstart.py, but an instruction may hold images of the training split that the vision
encoder finds alike, before its own image. Hardware: 2 CPU cores, 5 GiB. Time and scores: not
measured yet.
"""

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py says what every setting means."""
    config = quickstart()
    config.data.shots = (1, 2, 4, 8)
    config.data.challenges = ("intra_class", "inter_class", "heterogeneity")
    config.assistant.update(
        steps=900,
        per_image=4,
        always=("class", "few_shot"),
        buckets=(
            (40, 8, 1), (64, 36, 1), (96, 60, 1),
            (72, 8, 5), (128, 8, 9), (144, 96, 3), (144, 96, 9),
        ),
        eval_every=300,
    )  # fmt: skip
    return config

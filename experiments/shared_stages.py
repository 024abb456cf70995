"""Assistant stages that share their images, vision stage and language stage."""

import os
from pathlib import Path

import jax
from ml_collections import ConfigDict

from slava_jax.train.loop import run


def shared_stages(
    config: ConfigDict, runs: Path, seed: int, stages: tuple[str, ...] = ("vision", "language")
) -> Path:
    """The work directory of a seed's first stages, which are run if missing."""
    config.seed, config.stages = seed, stages
    workdir = runs / f"seed{seed}"
    run(config, workdir)
    return workdir


def assistant_run(config: ConfigDict, workdir: Path, before: Path) -> dict[str, float]:
    """The metrics of a run with the images, questions and stages of `before`.

    `start_from` may replace some of the stages.
    """
    config.stages = tuple(name for name in config.stages if name in ("alignment", "assistant"))
    for name in ("vision", "language"):
        config.start_from[name] = config.start_from[name] or str(before)
    (workdir / "data").mkdir(parents=True, exist_ok=True)
    for name in (config.data.name, "instructions"):  # the tokenizer comes with the language model
        link = workdir / "data" / name
        if not (link.is_symlink() or link.exists()):
            # Relative, so that the runs survive a move of the checkout.
            link.symlink_to(os.path.relpath(before / "data" / name, link.parent))
    metrics = run(config, workdir)
    jax.clear_caches()  # the compiled programs of a run take more than 1 GB
    return metrics

"""Assistant stages that share what stands before them: vision and language of the quickstart."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from configs.quickstart import get_config
from slava_jax.train.loop import run


def shared_stages(runs: Path, seed: int) -> Path:
    """The work directory of a seed's vision and language stages, which are run if need be."""
    config = get_config()
    config.seed, config.stages = seed, ("vision", "language")
    workdir = runs / f"seed{seed}"
    run(config, workdir)
    return workdir


def assistant_run(config: ConfigDict, workdir: Path, before: Path) -> dict[str, float]:
    """The metrics of a run on top of `before`: the same images, questions and shared stages."""
    config.stages = tuple(name for name in config.stages if name in ("alignment", "assistant"))
    config.start_from.update(vision=str(before), language=str(before))
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / "data").exists():
        (workdir / "data").symlink_to((before / "data").absolute())
    metrics = run(config, workdir)
    jax.clear_caches()  # a run's compiled programs are more than 1 GB
    return metrics

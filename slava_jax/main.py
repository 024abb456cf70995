"""Trains, evaluates and reports: python -m slava_jax.main --config configs/X.py --workdir DIR."""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", help_string="The run; see configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run keeps everything it makes.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One process of several hosts: initialise jax.distributed."
)


def main(_) -> None:
    """Entry point."""
    # Only now, so that --help and wrong flags answer at once.
    import jax

    from slava_jax.errors import USER_ERRORS
    from slava_jax.train.loop import run

    logging.set_verbosity(logging.WARNING)  # Orbax tells its own story at the level of INFO.
    if _DISTRIBUTED.value:
        jax.distributed.initialize()
    try:
        run(_CONFIG.value, _WORKDIR.value)
    except USER_ERRORS as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)

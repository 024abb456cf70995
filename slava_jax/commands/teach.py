"""Generates instructions about images: slava teach --config configs/teacher.py --workdir DIR.

The teacher is a model behind an API. --dry-run prints prompts and the cost, and sends nothing.
"""

from pathlib import Path

from absl import app, flags, logging

from slava_jax.errors import printable, reported
from slava_jax.main import parse_flags  # defines --config and --workdir

_DRY_RUN = flags.DEFINE_bool("dry-run", False, "Print prompts and the cost; send nothing.")
_AGAIN = flags.DEFINE_bool("again", False, "Ask again for refused or malformed answers.")
flags.declare_key_flag("config")  # so that --help shows both
flags.declare_key_flag("workdir")


def main(_) -> None:
    """Entry point."""
    # Imported here so that --help and wrong flags answer at once.
    from slava_jax.teacher.settings import TeacherError
    from slava_jax.teacher.settings import check as check_settings
    from slava_jax.train.datasets import open_image_sets
    from slava_jax.train.settings import check
    from slava_jax.train.workdir import alone

    logging.set_verbosity(logging.WARNING)
    config, workdir = flags.FLAGS.config, Path(flags.FLAGS.workdir)
    with reported():
        if "teacher" not in config:
            raise TeacherError("config: has no group 'teacher'; derive it from configs/teacher.py")
        groups = config.to_dict()
        settings = groups.pop("teacher")
        check(groups)
        check_settings(settings)
        try:
            from slava_jax.teacher.taught import Job, dry_run, teach
        except ModuleNotFoundError as error:
            if error.name not in ("openai", "httpx2", "py3langid"):
                raise
            raise TeacherError('missing packages; run pip install "slava_jax[teacher]"') from error
        with alone(workdir):  # of two processes, one would delete the other's half-built images
            sets = open_image_sets(config, workdir / "data")
            job = Job(settings, sets, workdir, config.data.seed, config.data.question)
            print(printable(dry_run(job) if _DRY_RUN.value else teach(job, _AGAIN.value)))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)

"""The runs that the tables read: finished ones, or those that are run now."""

import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from experiments.results_page import ResultsError, Run, read_run
from slava_jax.errors import UserError

RUNS, CONFIGS = Path("runs/tables"), Path("configs")
# The flags behind --config of a data set; for one that is not here, NAME.py.
_BENCHMARKS = {
    name: ("sem.py", f"--config.data.name={name}", "--config.data.crop_bar=False")
    for name in ("neu", "cmi", "kth_tips")
}
_CONFIGS = {"procedural": ("tables.py",), **_BENCHMARKS}


class TablesError(UserError, ValueError):
    """A table cannot be made; the message says of which file, and what to run."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Finished runs on one data set that differ in their seeds alone.

    Attributes:
      data: config.data.name.
      workdirs, runs: one or more, in the order of their seeds.
    """

    data: str
    workdirs: tuple[Path, ...]
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> list[int]:
        """The seed of each run."""
        return [run.config["seed"] for run in self.runs]

    @property
    def common(self) -> set[str]:
        """Names of the metrics that every run has."""
        return set.intersection(*(set(run.metrics) for run in self.runs))

    def require(self, names: Iterable[str], reader: str, needs: str) -> None:
        """Raises TablesError where a run lacks one of the metrics, with what it `needs`."""
        names = list(dict.fromkeys(names))
        for workdir, run in zip(self.workdirs, self.runs, strict=True):
            lacking = [name for name in names if name not in run.metrics]
            if lacking:
                raise TablesError(
                    f"{workdir / 'metrics.json'}: {reader} reads {', '.join(lacking)}, which this "
                    f"run did not measure. It needs {needs}: see to it in its config, then\n  "
                    + _command(self.data, Path("ANOTHER_WORKDIR"))
                    + "\nA run of before these were measured is only evaluated anew: delete its "
                    "report.html and give its own command again."
                )

    def score(self, name: str) -> tuple[float, float | None]:
        """(mean, deviation): over runs where there are several, else over the examples of the one.

        The deviation is None for a score that has none over examples, such as top-1 of one run.
        """
        values = [run.metrics[name] for run in self.runs]
        if len(values) > 1:
            return float(np.mean(values)), float(np.std(values, ddof=1))
        return values[0], self.runs[0].metrics.get(f"{name}_std")


def read(workdirs: Iterable[Path]) -> list[Measured]:
    """Finished runs by data set, in the order given.

    Raises:
      TablesError: a run is not there or not finished, or runs of one data set differ in more than
        their seed.
    """
    groups: dict[str, list[tuple[Path, Run]]] = {}
    for workdir in workdirs:
        try:
            run = read_run(workdir / "metrics.json")
        except ResultsError as error:
            do = _command("procedural", workdir)
            raise TablesError(f"{error}. Run it, with this or another config:\n  {do}") from error
        groups.setdefault(run.config["data"]["name"], []).append((workdir, run))
    return [_measured(data, pairs) for data, pairs in groups.items()]


def _measured(data: str, pairs: list[tuple[Path, Run]]) -> Measured:
    pairs = sorted(pairs, key=lambda pair: pair[1].config["seed"])
    first, run = pairs[0]
    for workdir, other in pairs[1:]:
        if {**run.config, "seed": other.config["seed"]} != other.config:
            raise TablesError(
                f"{workdir}: its config differs from that of {first} in more than the seed; "
                f"runs on {data} that stand in one table must not"
            )
    if len({run.config["seed"] for _, run in pairs}) < len(pairs):
        raise TablesError(f"runs on {data}: a seed stands there twice; give each once")
    return Measured(data, *zip(*pairs, strict=True))


def run_all(
    wanted: dict[str, str], seeds: Iterable[int], flags: Iterable[str] = ()
) -> list[Measured]:
    """Runs what is not finished, and reads all.

    Args:
      wanted: {data set: folder of its images, '' for one that needs none}.
      flags: settings of every run, such as `--config.dtype=bfloat16`.

    Raises:
      TablesError: there is no config for a data set, or a run failed.
    """
    plan = []
    for data, folder in wanted.items():
        if not _config(data).is_file():
            raise TablesError(f"--data {data}: there is no {_config(data)}")
        own = [f"--config.data.folder={folder}"] if folder else []
        plan += [(data, RUNS / f"{data}-seed{n}", [*own, f"--config.seed={n}"]) for n in seeds]
    for data, workdir, own in plan:
        _run(_command(data, workdir, *own, *flags))
    return read(workdir for _, workdir, _ in plan)


def _config(data: str) -> Path:
    return CONFIGS / _CONFIGS.get(data, (f"{data}.py",))[0]


def _command(data: str, workdir: Path, *flags: str) -> str:
    of_data = _CONFIGS.get(data, ("",))[1:]
    parts = ("--config", str(_config(data)), *of_data, *flags, "--workdir", str(workdir))
    return f"python -m slava_jax.main {shlex.join(parts)}"


def _run(command: str) -> None:
    """In a process of its own, so that time and memory are the run's; a finished one is left.

    Raises TablesError where it fails.
    """
    print(command, file=sys.stderr, flush=True)
    status = subprocess.run([sys.executable, *shlex.split(command)[1:]]).returncode
    if status:
        raise TablesError(
            f"this run failed with status {status}; what it said stands above, and the same "
            f"command goes on from its last checkpoint:\n  {command}"
        )

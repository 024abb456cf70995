"""Trains one stage: the vision encoder, the language model or the assistant.

An interrupted stage resumes from its last checkpoint with the same batches, ranks and dropout, and
ends with the same numbers.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from slava_jax import hosts
from slava_jax.checkpoint import (
    CheckpointError,
    Checkpoints,
    content_hash,
    load_facts,
    load_tree,
    newest,
)
from slava_jax.data.pipeline import iterate
from slava_jax.errors import UserError, too_small
from slava_jax.models.vit import FACT_HEAD
from slava_jax.train.logging import MetricLogger, Progress, Silent
from slava_jax.train.optim import make_optimizer
from slava_jax.train.parallel import make_runner
from slava_jax.train.step import TrainState

# Fields used on the host only; the step does not take them.
_HOST_FIELDS = ("index",)


class TrainingError(UserError, RuntimeError):
    """Training failed; the message says where, and which checkpoints are kept."""


def setting_problems(stage: Mapping) -> Iterator[str]:
    """Problems with the number of steps and the validation settings."""
    yield from too_small(stage, 1, "steps", "eval_every", "patience", "stop_patience")


@dataclasses.dataclass(frozen=True)
class Stage:
    """Everything `fit` needs to train one stage.

    Attributes:
      name: also its directory. config: see slava_jax/config.py.
      objective: see recipes.py. params: initial values of the trained parameters; held: the
        collections `params` and `frozen` of everything else.
      batches: training batches in order, at least config.steps of them.
      validation: batches whose mean loss controls the learning rate, early stopping and the choice
        of the best checkpoint.
      describe: names the contents of a batch when its loss is not finite.
    """

    name: str
    config: ConfigDict
    objective: object
    params: dict
    held: dict
    batches: Sequence[dict]
    validation: Sequence[dict]
    describe: Callable[[dict], str] = lambda batch: f"rows {batch['example_id'].tolist()}"


@dataclasses.dataclass
class Plateau:
    """Halves the learning rate after `patience` validations without improvement (section 4.7).

    Training stops after `stop` of them.
    """

    patience: int
    stop: int
    best: float = math.inf
    flat: int = 0
    scale: float = 1.0

    def update(self, loss: float) -> bool:
        """Records a validation loss; True if it is the best so far."""
        if loss < self.best:
            self.best, self.flat = loss, 0
            return True
        self.flat += 1
        if self.flat % self.patience == 0:
            self.scale /= 2
        return False

    @property
    def exhausted(self) -> bool:
        """Whether to stop early."""
        return self.flat >= self.stop


class Validator:
    """Computes mean losses over fixed batches, without dropout and at the largest rank."""

    def __init__(self, objective, batches: Sequence[dict]):
        self._objective = objective
        self._batches = [device_fields(batch) for batch in batches]
        counts = [objective.counts(batch) for batch in self._batches]
        self._totals = jax.tree.map(lambda *parts: sum(parts), *counts)
        rank = jnp.int32(objective.adapter.r_max if objective.adapter else 0)
        self._sums = jax.jit(
            lambda params, held, batch: objective.loss(
                params, held, batch, self._totals, None, rank
            )[1]
        )

    def __call__(self, params, held) -> dict[str, float]:
        """Name -> mean over all batches."""
        parts = [self._sums(params, held, batch) for batch in self._batches]
        return {name: float(sum(part[name] for part in parts)) for name in parts[0]}


def device_fields(batch: dict) -> dict:
    """The arrays of a batch that the step takes."""
    return {name: array for name, array in batch.items() if name not in _HOST_FIELDS}


def fit(stage: Stage, directory: Path, seed: int) -> dict:
    """Trains a stage, resuming it if possible, and returns the best parameters.

    Args:
      stage: what to train. directory: for checkpoints (`last`, `best`) and logs.
      seed: of ranks and dropout; the batches have their own.

    Raises:
      TrainingError: a loss is not finite. CheckpointError: see checkpoint.py; or the frozen weights
        have changed since the stage started; or no whole checkpoint is left. If only the newest is
        damaged, training goes on from the one before and says so.
    """
    # The last but one is for the case that the last one is damaged.
    last, best = Checkpoints(directory / "last", keep=2), Checkpoints(directory / "best")
    optimizer = make_optimizer(stage.config)
    state = TrainState.create(stage.params, optimizer)
    hashes = {
        f"{collection}/{name}": content_hash({name: part})
        for collection, parts in stage.held.items()
        for name, part in parts.items()
    }
    begin = _Begin(state, Plateau(stage.config.patience, stage.config.stop_patience))
    _drop_damaged(last, best)
    if last.latest() is not None:
        position, state, facts = last.restore(state)
        _check_held(stage, facts["held"], hashes, directory)
        plateau = Plateau(**facts["plateau"])
        begin = _Begin(state, plateau, position, facts["batches"], facts["done"])
    if not begin.done:
        _train(stage, directory, seed, optimizer, begin, hashes, last, best)
    return best.restore(stage.params)[1]


def _drop_damaged(last: Checkpoints, best: Checkpoints) -> None:
    """Drops damaged checkpoints, and later ones, so that training goes on from the last whole one.

    A damaged best one comes again if training goes on from before it.

    Raises:
      CheckpointError: no whole checkpoint is left; names the damaged files.
    """
    top = best.latest()
    problems = [] if top is None else [best.damage(top)]
    limit = top if any(problems) else math.inf
    later, reached = last.steps(), None
    dropped = []
    while later and reached is None:
        step = later.pop()
        problems.append(last.damage(step))
        if problems[-1] or step >= limit:
            dropped.append(step)
        else:
            reached = step
    told = "\n".join(filter(None, problems))
    if reached is None and dropped:
        raise CheckpointError(
            f"{told}\nNo whole checkpoint to go on from is left; restore it from a copy, or delete "
            f"{last.directory.parent} to train this stage again"
        )
    if told and hosts.is_first():
        print(f"{told}\nTraining goes on from step {reached or 0}, as last saved", file=sys.stderr)
    for step in dropped:
        last.drop(step)
    if limit == top:
        best.drop(top)
    hosts.barrier()  # before any host looks for the newest


def _check_held(stage: Stage, begun_with: dict, now: dict, directory: Path) -> None:
    """Raises CheckpointError if the frozen weights have changed since the stage started.

    Parameters trained with one base are meaningless with another.
    """
    changed = sorted(name for name in begun_with | now if begun_with.get(name) != now.get(name))
    if changed:
        raise CheckpointError(
            f"{directory}: the {stage.name} stage was started with other frozen weights "
            f"({', '.join(changed)}): the weights in start_from have changed since. Restore them, "
            "or start again in another work directory"
        )


def best_params(stage: Stage, directory: Path) -> dict:
    """The best parameters of this stage from another run's directory.

    Raises:
      CheckpointError: there are none, the stage was not finished, or its shapes differ.
    """
    best = finished(directory, stage.name)
    try:
        stored = load_tree(best)[0]
        # The facts that the other run learned may be others, and are not used here.
        extra = {name: stored[name] for name in (FACT_HEAD,) if name in stored}
        tree = load_tree(best, {**stage.params, **extra})[0]
        return {name: tree[name] for name in stage.params}
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}\nThe run in start_from.{stage.name} used another model or other data: train "
            f"its {stage.name} stage with the settings of this config"
        ) from error


def finished(directory: Path, name: str) -> Path:
    """The best checkpoint of a finished stage. Raises CheckpointError if there is none."""
    steps = {which: newest(directory / which) for which in ("last", "best")}
    if None in steps.values() or not load_facts(steps["last"])["done"]:
        raise CheckpointError(
            f"{directory}: no finished {name} stage; run it first (python -m slava_jax.main "
            f"--config configs/{name}.py --workdir {directory.parent}), or set "
            f"start_from.{name} to the work directory of a run that has one"
        )
    return steps["best"]


@dataclasses.dataclass(frozen=True)
class _Begin:
    """Where training starts or resumes. `batches`: state of the iterator, `None` at the start."""

    state: TrainState
    plateau: Plateau
    position: int = 0
    batches: dict | None = None
    done: bool = False


def _train(stage, directory: Path, seed: int, optimizer, begin: _Begin, hashes, last, best) -> None:
    config, plateau, position = stage.config, begin.plateau, begin.position
    runner = make_runner(config, stage.objective, optimizer)
    validate = Validator(stage.objective, stage.validation)
    batches = iterate(stage.batches)
    if begin.batches is not None:
        batches.set_state(begin.batches)
    placed, held = runner.place(begin.state, stage.held)
    key = jax.random.key(seed)
    logger, progress, watch = Silent(), Silent(), _Watch(stage, directory)
    if hosts.is_first():
        logger = MetricLogger(directory, position)
        progress = Progress(config.steps, stage.name, done=position)
    with logger, progress:
        while not (position == config.steps or plateau.exhausted):
            upto = min((position // config.eval_every + 1) * config.eval_every, config.steps)
            while position < upto:
                batch = next(batches)
                placed, metrics = runner.step(placed, held, device_fields(batch), key)
                position += 1
                watch.add(position, batch, metrics)
                progress.update(1, **watch.shown)
            means, state = watch.means(), runner.fetch(placed)
            values = hosts.from_first(validate(state.params, runner.local(held)))
            watch.check_validation(position, values)
            if plateau.update(values["loss"]) and best.latest() != position:
                best.save(position, state.params, {"validation": values})
            state = state.replace(lr_scale=jnp.float32(plateau.scale))
            if plateau.flat and plateau.flat % plateau.patience == 0:
                placed, _ = runner.place(state, {})
            logger.write(position, {**means, **{f"val_{k}": v for k, v in values.items()}})
            facts = {
                "plateau": dataclasses.asdict(plateau),
                "done": position == config.steps or plateau.exhausted,
                "batches": batches.get_state(),
                "held": hashes,
            }
            last.save(position, state, facts)


class _Watch:
    """Reads the metrics one step late, so that the device never waits for the host."""

    def __init__(self, stage: Stage, directory: Path):
        self._stage, self._directory = stage, directory
        self._waiting = None
        self._seen: list[dict[str, float]] = []
        self.shown: dict[str, float] = {}

    def add(self, position: int, batch: dict, metrics: dict) -> None:
        """Takes a step's metrics and checks those of the previous step."""
        self._check()
        self._waiting = (position, batch, metrics)

    def means(self) -> dict[str, float]:
        """Mean of each metric since the last call, the newest step included."""
        self._check()
        seen, self._seen = self._seen, []
        return {name: float(np.mean([values[name] for values in seen])) for name in seen[0]}

    def _check(self) -> None:
        if self._waiting is None:
            return
        position, batch, metrics = self._waiting
        self._waiting = None
        values = {name: float(value) for name, value in metrics.items()}
        self._stop_if_bad(position, values, f", in the batch of {self._stage.describe(batch)}")
        self._seen.append(values)
        self.shown = {"loss": values["loss"]}

    def check_validation(self, position: int, values: dict[str, float]) -> None:
        """Stops if a validation loss is not finite."""
        self._stop_if_bad(position, values, ", in validation")

    def _stop_if_bad(self, position: int, values: dict[str, float], where: str) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"{self._stage.name}: {', '.join(bad)} not finite at step {position}{where}. The "
                f"last good checkpoints are kept in {self._directory}; check that data, or lower "
                f"{self._stage.name}.learning_rate"
            )

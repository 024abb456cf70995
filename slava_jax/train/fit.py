"""Training one stage: the same story for the vision encoder, the language model, the assistant.

Kill it at any moment: the same call goes on from the last checkpoint, with the same batches, ranks
and dropout, and ends with the same numbers.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from slava_jax.checkpoint import Checkpoints
from slava_jax.data.pipeline import iterate
from slava_jax.train.logging import MetricLogger, Progress
from slava_jax.train.optim import make_optimizer
from slava_jax.train.parallel import make_runner
from slava_jax.train.step import TrainState

# What the pipeline adds for the host's own use; the step does not take it.
_HOST_FIELDS = ("index",)


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped and what is kept."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """What `fit` needs to train one stage.

    Attributes:
      name: also its directory. config: see configs/quickstart.py.
      objective: see objectives.py. params, frozen: where training starts.
      batches: training batches in order, at least config.steps of them.
      validation: batches whose mean loss decides the rate, stopping, and which state is best.
      describe: what a batch holds, for the message when its loss is not finite.
    """

    name: str
    config: ConfigDict
    objective: object
    params: dict
    frozen: dict
    batches: Sequence[dict]
    validation: Sequence[dict]
    describe: Callable[[dict], str] = lambda batch: f"rows {batch['example_id'].tolist()}"


@dataclasses.dataclass
class Plateau:
    """Halves the rate after `patience` flat validations, stops after `stop` (section 4.7)."""

    patience: int
    stop: int
    best: float = math.inf
    flat: int = 0
    scale: float = 1.0

    def update(self, loss: float) -> bool:
        """Takes a validation loss in; True if it is the best so far."""
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
    """Mean losses over fixed batches, without dropout and at the largest rank."""

    def __init__(self, objective, batches: Sequence[dict]):
        self._objective = objective
        self._batches = [device_fields(batch) for batch in batches]
        counts = [objective.counts(batch) for batch in self._batches]
        self._totals = jax.tree.map(lambda *parts: sum(parts), *counts)
        rank = jnp.int32(objective.adapter.r_max if objective.adapter else 0)
        self._sums = jax.jit(
            lambda params, frozen, batch: objective.loss(
                params, frozen, batch, self._totals, None, rank
            )[1]
        )

    def __call__(self, params, frozen) -> dict[str, float]:
        """Name -> mean over all batches."""
        parts = [self._sums(params, frozen, batch) for batch in self._batches]
        return {name: float(sum(part[name] for part in parts)) for name in parts[0]}


def device_fields(batch: dict) -> dict:
    """The arrays of a batch that the step takes."""
    return {name: array for name, array in batch.items() if name not in _HOST_FIELDS}


def fit(stage: Stage, directory: Path, seed: int) -> dict:
    """Trains a stage, or goes on training it, and returns the best parameters.

    Args:
      stage: what to train. directory: checkpoints (`last`, `best`) and logs go there.
      seed: of ranks and dropout; the batches have their own.

    Raises:
      TrainingError: the loss is not finite. CheckpointError: see checkpoint.py.
    """
    config, objective = stage.config, stage.objective
    optimizer = make_optimizer(config)
    runner = make_runner(config, objective, optimizer)
    last, best = Checkpoints(directory / "last"), Checkpoints(directory / "best")
    state = TrainState.create(stage.params, optimizer)
    plateau = Plateau(config.patience, config.stop_patience)
    position, done, facts = 0, False, None
    if last.latest() is not None:
        position, state, facts = last.restore(state)
        plateau, done = Plateau(**facts["plateau"]), facts["done"]
    if not done:
        validate = Validator(objective, stage.validation)
        batches = iterate(stage.batches)
        if facts is not None:
            batches.set_state(facts["batches"])
        placed, frozen = runner.place(state, stage.frozen)
        key = jax.random.key(seed)
        logger = MetricLogger(directory, position)
        watch = _Watch(stage, directory)
        with logger, Progress(config.steps, stage.name, done=position) as progress:
            while not done:
                batch = next(batches)
                placed, metrics = runner.step(placed, frozen, device_fields(batch), key)
                position += 1
                watch.add(position, batch, metrics)
                progress.update(1, **watch.shown)
                if position % config.eval_every and position < config.steps:
                    continue
                means = watch.means()
                state = runner.fetch(placed)
                values = validate(state.params, _local(runner, frozen))
                better = plateau.update(values["loss"])
                done = position == config.steps or plateau.exhausted
                if better and best.latest() != position:
                    best.save(position, state.params, {"validation": values})
                state = state.replace(lr_scale=jnp.float32(plateau.scale))
                if plateau.flat and plateau.flat % plateau.patience == 0:
                    placed, _ = runner.place(state, {})
                logger.write(position, {**means, **{f"val_{k}": v for k, v in values.items()}})
                facts = {"plateau": dataclasses.asdict(plateau), "done": done}
                last.save(position, state, {**facts, "batches": batches.get_state()})
    return best.restore(stage.params)[1]


def _local(runner, frozen):
    return runner.fetch(frozen) if frozen else {}


class _Watch:
    """Looks at the metrics one step late, so that the device never waits for the host."""

    def __init__(self, stage: Stage, directory: Path):
        self._stage, self._directory = stage, directory
        self._waiting = None
        self._seen: list[dict[str, float]] = []
        self.shown: dict[str, float] = {}

    def add(self, position: int, batch: dict, metrics: dict) -> None:
        """Takes a step's metrics and checks those of the step before."""
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
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"{self._stage.name}: {', '.join(bad)} not finite at step {position}, in the batch "
                f"of {self._stage.describe(batch)}. The last good checkpoints are kept in "
                f"{self._directory}; look at that data, or lower {self._stage.name}.learning_rate"
            )
        self._seen.append(values)
        self.shown = {"loss": values["loss"]}

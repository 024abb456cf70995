"""The one linear story of a run: data, stages, evaluation, report."""

import json
import sys
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from slava_jax.config import check
from slava_jax.convert.pretrained import is_converted
from slava_jax.eval.report import write_report
from slava_jax.eval.targets import QUICKSTART
from slava_jax.eval.text_metrics import caption_scores
from slava_jax.inference.assistant import Assistant, has_assistant, save_assistant
from slava_jax.train import stages
from slava_jax.train.evaluation import Findings, evaluate, vision_metrics, yardstick_metrics
from slava_jax.train.fit import Stage, best_params, fit
from slava_jax.train.logging import read_history
from slava_jax.train.materials import Materials, prepare
from slava_jax.train.workdir import Clock, claim, environment, machine_metrics, write_atomically


def run(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Runs what the config asks for, or goes on with it, and returns the metrics.

    `workdir` gets config.json, data/, one directory a stage, metrics.json and report.html.

    Raises:
      ConfigError, WordNetError: before anything is written. WorkdirError: the directory belongs
        to another config. And what data, checkpoints and training raise, each saying what to do.
    """
    check(config)
    if "assistant" in config.stages:
        caption_scores("probe", "probe")  # WordNet is missing now, not after training
    workdir = Path(workdir)
    claim(workdir, config)
    clock = Clock(workdir / "clock.json")
    with clock.part("data"):
        materials = prepare(config, workdir)
    vision_stage = vision = language = None
    if {"vision", "assistant"} & set(config.stages):
        with clock.part("vision"):
            vision_stage, vision = _trained(config, "vision", materials, workdir)
    if {"language", "assistant"} & set(config.stages):
        with clock.part("language"):
            _, language = _trained(config, "language", materials, workdir)
    if "assistant" not in config.stages:
        metrics = vision_metrics(vision_stage, vision, materials) if vision_stage else {}
        return _finish(config, workdir, clock, materials, Findings(metrics))
    with clock.part("assistant"):
        start = stages.assistant_start(config, materials, vision, language)
        stage = stages.assistant_stage(config, materials, start)
        params = fit(stage, workdir / "assistant", config.seed)
    # Placed alike, or every function of the evaluation would be compiled for either.
    first = jax.tree.map(lambda a, like: jax.device_put(a, like.sharding), start.params, params)
    untrained = _assistant(start, first, materials)
    trained = _assistant(start, params, materials)
    if not has_assistant(workdir):
        save_assistant(trained, config, workdir, stages.base_place(config))
    with clock.part("evaluation"):
        found = evaluate(config, materials, trained, untrained, _say)
        if vision_stage is not None:  # a pretrained encoder has no classifier
            found.metrics.update(vision_metrics(vision_stage, vision, materials))
        found.metrics.update(yardstick_metrics(materials))
    return _finish(config, workdir, clock, materials, found)


def _trained(config, name: str, materials: Materials, workdir: Path) -> tuple[Stage | None, dict]:
    """A stage and its best parameters: trained here, or where `start_from` says.

    Converted weights belong to no stage; `None` stands for it then.
    """
    trained_here = name in config.stages
    if not trained_here and is_converted(config.start_from[name]):
        return None, stages.pretrained(config, name, len(materials.tokenizer))
    make = {"vision": stages.vision_stage, "language": stages.language_stage}[name]
    stage = make(config, materials)
    if trained_here:
        return stage, fit(stage, workdir / name, config.seed)
    return stage, best_params(stage, Path(config.start_from[name]) / name)


def _assistant(start: stages.AssistantStart, params: dict, materials: Materials) -> Assistant:
    variables = {"params": params, "frozen": start.frozen}
    return Assistant(start.model, variables, materials.tokenizer, tuple(materials.class_names))


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _finish(config, workdir: Path, clock: Clock, materials: Materials, found: Findings) -> dict:
    """Writes metrics.json and report.html."""
    metrics = {**found.metrics, **clock.metrics(), **machine_metrics()}
    sizes = {name: len(getattr(materials, name).images) for name in ("train", "validation", "test")}
    metrics.update({f"data.{name}_images": float(count) for name, count in sizes.items()})
    if jax.process_index() != 0:
        return metrics
    write_atomically(workdir / "metrics.json", json.dumps(metrics, indent=1, sort_keys=True))
    licence = "CC BY-NC-SA 4.0, non-commercial" if config.data.name == "elpv" else ""
    write_report(
        workdir / "report.html",
        metrics,
        title=f"sLAVA on {config.data.name} images",
        description=(
            f"{sizes['train']} images to train on, {sizes['validation']} to validate, "
            f"{sizes['test']} to test; every score is of the test split, seed {config.seed}. "
            "The classes were seen in training: “zero-shot” means no examples in the prompt."
        ),
        targets=QUICKSTART if config.data.name == "procedural" else (),
        history={name: read_history(workdir / name) for name in config.stages},
        confusion=found.confusion,
        class_names=materials.class_names,
        examples=found.examples,
        redistribute_images=config.data.name != "elpv",
        image_licence=licence,
        experts=found.experts,
        rank_scores=found.rank_scores,
        config_text=str(config),
        environment=environment(),
    )
    _say(f"report: {workdir / 'report.html'}")
    return metrics

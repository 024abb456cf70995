"""A whole run from start to end: data, stages, evaluation, report."""

import csv
import dataclasses
import gc
import io
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from slava_jax import files, hosts
from slava_jax.config import check_keys
from slava_jax.convert.pretrained import is_converted
from slava_jax.data.datasets.catalogue import PUBLISHED
from slava_jax.data.images import encode_png
from slava_jax.eval.contact_sheet import neighbours_sheet
from slava_jax.eval.report import write_report
from slava_jax.eval.targets import QUICKSTART
from slava_jax.eval.text_metrics import caption_scores
from slava_jax.inference.assistant import (
    CALIBRATION,
    MODEL,
    Assistant,
    has_assistant,
    save_assistant,
)
from slava_jax.teacher.multi_image import similar_groups
from slava_jax.train import stages
from slava_jax.train.datasets import (
    Datasets,
    prepare,
    with_frozen_states,
    with_multi_image,
)
from slava_jax.train.evaluation import (
    Findings,
    classical_metrics,
    evaluate,
    evaluate_vision,
    image_statistics,
)
from slava_jax.train.fact_check import check_facts_fit
from slava_jax.train.fit import Stage, best_params, fit
from slava_jax.train.inputs import (
    INPUTS,
    check_inputs,
    read_at_start,
    read_with_neighbours,
)
from slava_jax.train.logging import read_history
from slava_jax.train.settings import check
from slava_jax.train.start import (
    base_place,
    check_start,
    pretrained,
    pretrained_encoder,
    with_pretrained_shapes,
)
from slava_jax.train.workdir import (
    CONFIG,
    REPORT,
    Clock,
    alone,
    claim,
    environment,
    finished_metrics,
    machine_metrics,
    write_atomically,
    write_metrics,
)

TITLES = {"slava": "sLAVA", "inline": "LLaVA"}  # report titles, by `config.model`
# Files in the work directory.
NEIGHBOURS, GROUPS = "neighbours.png", "groups.jsonl"


def run(config: ConfigDict, workdir: str | Path, started: float | None = None) -> dict[str, float]:
    """Runs or resumes the run of a config and returns its metrics.

    A finished run only returns them. `workdir` gets config.json, data/, one directory per stage,
    metrics.json, predictions.csv, report.html; also neighbours.png if prompts contain several
    images, and groups.jsonl if a teacher has to write their answers. `run.wall_seconds` counts from
    `started`, a `time.monotonic()`, by default now.

    Raises:
      ConfigError: the config is invalid.
      WordNetError: WordNet, which METEOR needs, is missing.
      PipelineError: a batch does not split evenly over the devices.
      CheckpointError, ConvertError: the weights in `start_from` cannot be used.
      WorkdirError: the directory belongs to another config.
      UserError: other errors of data, checkpoints and training. The first four kinds are raised
        before anything is written.
    """
    started = time.monotonic() if started is None else started
    config = _checked(config)
    workdir = Path(workdir)
    metrics = _finished(workdir, config)
    if metrics is not None:
        _say(f"{workdir}: already finished; delete its {REPORT} to evaluate again")
        return metrics
    with alone(workdir):
        with hosts.first_before_others():
            new = claim(workdir, config)
        return _run(config, workdir, started, new)


def _run(config: ConfigDict, workdir: Path, started: float, new: bool) -> dict[str, float]:
    """As `run`, in a directory that is claimed; `new` if just now."""
    clock = Clock(workdir / "clock.json", started)
    with clock.part("data"):
        datasets = _datasets(config, workdir, new)
    encoder = pretrained_encoder(config)
    if config.vit.frozen_layers:
        with clock.part("frozen"):
            datasets = with_frozen_states(config, datasets, encoder[1]["stem"], workdir)
    vision_stage = vision = language = None
    if {"vision", "assistant"} & set(config.stages):
        with clock.part("vision"):
            vision_stage, vision = _trained_vision(config, datasets, workdir, encoder)
    if vision is not None and (config.data.shots or config.data.challenges):
        with clock.part("neighbours"):
            datasets = _with_neighbours(config, datasets, (vision, encoder), workdir)
    if {"language", "assistant"} & set(config.stages):
        with clock.part("language"):
            language = _trained_language(config, datasets, workdir)
    if "assistant" not in config.stages:
        found = Findings({})
        if vision_stage is not None:
            found = evaluate_vision(config, vision_stage, vision, datasets)
        return _finish(config, workdir, clock, datasets, found)
    with clock.part("assistant"):
        start = stages.assistant_start(config, datasets, vision, language, encoder)
        untrained, trained = _trained_assistant(config, datasets, start, workdir)
    if not hosts.from_first(has_assistant(workdir)):
        save_assistant(trained, config, workdir, base_place(config) if trained.base else None)
    with clock.part("evaluation"):
        statistics = image_statistics(datasets)
        found = evaluate(config, datasets, trained, untrained, statistics, _say)
        if vision_stage is not None:  # a pretrained encoder has no classifier
            found.add(evaluate_vision(config, vision_stage, vision, datasets))
        found.metrics.update(classical_metrics(datasets, statistics))
        if found.calibration is not None and hosts.is_first():
            found.calibration.write(workdir / MODEL / CALIBRATION)
    return _finish(config, workdir, clock, datasets, found)


def _checked(config: ConfigDict) -> ConfigDict:
    """The checked config, with the shapes of the weights it starts from. Raises as `run`."""
    check_keys(config)
    config = with_pretrained_shapes(config)
    check(config)
    stages.check_trainable(config)
    if "assistant" in config.stages:
        caption_scores("probe", "probe")  # a missing WordNet fails now, not after training
    return config


def _finished(workdir: Path, config) -> dict[str, float] | None:
    """The metrics of a run that is finished, else None.

    An unfinished one is checked against the devices and the weights it starts from. Writes nothing.
    """
    with hosts.first_before_others():
        metrics = finished_metrics(workdir)
        if metrics is None:
            stages.check_batches(config)
            check_start(config)
        else:
            claim(workdir, config, finished=True)
        return metrics


def _datasets(config, workdir: Path, new: bool) -> Datasets:
    """Prepares the data. If that fails in a `new` work directory, the directory is released."""
    gc.disable()
    before = _texts(workdir)
    try:
        with hosts.first_before_others():
            datasets = prepare(config, workdir)
        stages.check_batches_fill(config, datasets)
        check_facts_fit(config, datasets)
        check_inputs(workdir, read_at_start(config, workdir, datasets), new)
        # Hundreds of thousands of records live until the end of the run. Scanning them in every
        # garbage collection would add a third to the time that creating them takes.
        gc.freeze()
        return datasets
    except Exception:
        if new and hosts.is_first():
            # So the same directory can be used once the file or path is corrected. Earlier files
            # of a teacher are kept.
            for path in _texts(workdir) - before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for name in (CONFIG, INPUTS):
                (workdir / name).unlink(missing_ok=True)
        raise
    finally:
        gc.enable()


def _texts(workdir: Path) -> set[Path]:
    """Files that `prepare` derives from instructions: their copies and the tokenizer's folder."""
    data = workdir / "data"
    return {*(data / "instructions").glob("*"), *data.glob("tokenizer")}


def _trained_vision(config, datasets: Datasets, workdir: Path, encoder) -> tuple:
    """The stage and its best parameters, trained here or loaded from `start_from`.

    The stage is `None` for converted weights.
    """
    if "vision" not in config.stages and is_converted(config.start_from.vision):
        return None, {"vit": encoder[0]}
    return _trained(config, "vision", stages.vision_stage(config, datasets, encoder), workdir)


def _with_neighbours(config, datasets: Datasets, vision: tuple, workdir: Path) -> Datasets:
    """Adds the instructions about several images, and writes a contact sheet of neighbours."""
    embedded = stages.embeddings(config, datasets, *vision)
    path = workdir / NEIGHBOURS
    if hosts.is_first() and not path.exists():
        test, train = datasets.test.images, datasets.train.images
        sheet = neighbours_sheet(test, train, (embedded["test"], embedded["train"]))
        if sheet is not None:
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_bytes(encode_png(np.asarray(sheet)))
            unfinished.replace(path)
    if hosts.is_first() and config.data.challenges and not (workdir / GROUPS).exists():
        _write_groups(config.data.challenges, datasets, embedded, workdir / GROUPS)
    datasets = with_multi_image(config, datasets, embedded, workdir)
    check_inputs(workdir, read_with_neighbours(workdir))
    stages.check_batches_fill(config, datasets)
    return datasets


def _write_groups(kinds, datasets: Datasets, embedded, path: Path) -> None:
    """Writes groups of similar images for a teacher, for image sets without ground truth."""
    pool, lines = datasets.train.images, []
    for name, vectors in embedded.items():
        images = getattr(datasets, name).images
        if None in images.records:
            pair = (vectors, embedded["train"])
            lines += [json.dumps(line) for line in similar_groups(images, pool, pair, kinds)]
    if lines:
        write_atomically(path, "\n".join(lines) + "\n")


def _trained_language(config, datasets: Datasets, workdir: Path) -> dict:
    place = config.start_from.language
    if "language" not in config.stages and is_converted(place):
        return pretrained(place, "language_model")
    return _trained(config, "language", stages.language_stage(config, datasets), workdir)[1]


def _trained(config, name: str, stage: Stage, workdir: Path) -> tuple[Stage, dict]:
    if name in config.stages:
        params = fit(stage, workdir / name, config.seed)
    else:
        params = best_params(stage, Path(config.start_from[name]) / name)
    return stage, stages.whole(params, stage)


def _trained_assistant(config, datasets: Datasets, start, workdir: Path) -> tuple:
    """The assistant before and after its stages."""
    aligned = start
    if "alignment" in config.stages:
        aligned_params = _fitted(config, datasets, start, "alignment", workdir)
        aligned = dataclasses.replace(start, params=aligned_params)
    params = _fitted(config, datasets, aligned, "assistant", workdir)
    # With the same sharding for both, the evaluation functions are compiled only once.
    first = jax.tree.map(lambda a, like: jax.device_put(a, like.sharding), start.params, params)
    return _assistant(start, first, datasets), _assistant(start, params, datasets)


def _fitted(config, datasets: Datasets, start, name: str, workdir: Path) -> dict:
    """All parameters after the stage 'alignment' or 'assistant', including those kept fixed."""
    stage = stages.assistant_stage(config, datasets, start, name)
    return stages.whole(fit(stage, workdir / name, config.seed), stage)


def _assistant(start: stages.AssistantStart, params: dict, datasets: Datasets) -> Assistant:
    variables = {"params": params, "frozen": start.frozen}
    return Assistant(start.model, variables, datasets.tokenizer, tuple(datasets.class_names))


def _say(text: str) -> None:
    if hosts.is_first():
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# The first characters of a formula in a spreadsheet, also in full width.
_FORMULA = tuple("=+-@＝＋－＠")


def _table(class_names, predictions) -> str:
    """The scores of every test image as CSV; `control` is '' for the assistant itself."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["control", "image", "class", *(f"log p {name}" for name in class_names)])
    writer.writerows([_cell(value) for value in row] for row in predictions)
    return out.getvalue()


def _cell(value):
    """A value as a spreadsheet shows it: a text that it would compute gets an apostrophe first."""
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULA else value


def _why_images_withheld(data: str) -> str:
    """Why a report, which may be shared, must not show the images; '' if it may."""
    if data == "elpv":
        return "CC BY-NC-SA 4.0, non-commercial"
    if data in PUBLISHED:
        return f"no known licence allows sharing them ({PUBLISHED[data].card})"
    return ""  # synthetic, or the user's own


def _data_title(config: ConfigDict) -> str:
    data = config.data
    return f"{Path(data.folder).resolve().name} (folder)" if data.name == "folder" else data.name


def _description(config: ConfigDict, sizes: Mapping[str, int]) -> str:
    """What was trained on what, for the head of the report."""
    steps = ", ".join(f"{name} ({config[name].steps} steps)" for name in config.stages)
    text = (
        f"{sizes['train']} training, {sizes['validation']} validation and {sizes['test']} test "
        f"images; seed {config.seed}. Stages: {steps}."
    )
    if "assistant" in config.stages:
        patterns = tuple(config.assistant.trainable)
        chosen = "everything that is not frozen" if patterns == ("**",) else ", ".join(patterns)
        text += f" The assistant stage trains {chosen}."
    if config.quantized:
        text += " The kernels of the language model stay frozen in int8."
    return f"{text} The classes were seen in training: “zero-shot” means no examples in the prompt."


def _finish(config, workdir: Path, clock: Clock, datasets: Datasets, found: Findings) -> dict:
    """Writes metrics.json, predictions.csv and report.html."""
    metrics = {**found.metrics, **clock.metrics(), **machine_metrics()}
    sizes = {name: len(getattr(datasets, name).images) for name in ("train", "validation", "test")}
    metrics.update({f"data.{name}_images": float(count) for name, count in sizes.items()})
    if not hosts.is_first():
        return metrics
    write_metrics(workdir, metrics, _table(datasets.class_names, found.predictions))
    write_report(
        workdir / REPORT,
        metrics,
        title=f"{TITLES[config.model]} on {_data_title(config)} images",
        description=_description(config, sizes),
        targets=QUICKSTART if config.data.name == "procedural" else (),
        history={name: read_history(workdir / name) for name in config.stages},
        confusion=found.confusion,
        class_names=datasets.class_names,
        examples=found.examples,
        beside_paper=config.data.name != "folder",
        images_withheld=_why_images_withheld(config.data.name),
        experts=found.experts,
        rank_scores=found.rank_scores,
        confidence=found.confidence,
        config_text=str(ConfigDict(files.without_places(config.to_dict()))),
        environment=environment(),
    )
    _say(f"report: {workdir / REPORT}")
    return metrics

"""What scores did these runs reach? Updates docs/results.md and the table in README.md.

    python -m experiments.results_page runs/quickstart/metrics.json

Several files give the tables of several runs; the README shows the first. Next to each
metrics.json it also reads the run's config.json (data set, seeds) and report.html (hardware).
"""

import argparse
import dataclasses
import html
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from slava_jax.eval.report import CONTROL_COLUMNS, controls_table, target_rows
from slava_jax.eval.targets import QUICKSTART
from slava_jax.eval.truth_table import shown_columns, truth_rows, verdict
from slava_jax.train.workdir import write_atomically

README = Path(__file__).parent.parent / "README.md"
PAGE = README.parent / "docs" / "results.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
# Shown besides the targets: metrics of the paper's tables.
_FURTHER = (
    ("Top-5 accuracy", "classification.top5"),
    ("Top-1, class in the generated answer", "classification_generated.top1"),
    ("Caption ROUGE-L", "caption.rougeL"),
    ("VQA ROUGE-L", "vqa.rougeL"),
    ("Answer loss (nats/token)", "lm.nats_per_token"),
)
_WITHOUT_TARGETS = (
    ("Top-1 accuracy", "classification.top1"),
    ("Macro F1", "classification.macro_f1"),
    ("Match AUC, class question", "itm.auc_class_question"),
)


class ResultsError(ValueError):
    """A run's files or the README are invalid; the message names the file."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run; `environment` is the report's table of hardware and versions."""

    name: str
    metrics: Mapping[str, float]
    config: Mapping
    environment: Mapping[str, str]


def read_run(path: Path) -> Run:
    """The run whose metrics.json is `path`. Raises ResultsError if one of its files is missing."""
    workdir = path.resolve().parent
    try:
        metrics, config = json.loads(path.read_text()), json.loads(_beside(workdir, "config.json"))
        page = _beside(workdir, "report.html")
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: not the metrics.json of a finished run ({error})") from error
    cells = re.findall(r'<th scope="row">([^<]+)</th><td>([^<]*)</td>', page)
    environment = {name: html.unescape(value) for name, value in cells}
    lacking = {"device", "processor", "cores", "jax"} - set(environment)
    if lacking:
        raise ResultsError(f"{workdir / 'report.html'}: lacks {', '.join(sorted(lacking))}")
    return Run(workdir.name, metrics, config, environment)


def _beside(workdir: Path, name: str) -> str:
    return (workdir / name).read_text(encoding="utf-8")


def block(runs: list[Run]) -> str:
    """Markdown of all runs: settings, truth, metrics with targets, controls."""
    parts = [p for run in runs for p in (_setting(run), _truth(run), _metrics(run), _controls(run))]
    return "\n\n".join(part for part in parts if part)


def _setting(run: Run) -> str:
    m, e = run.metrics, run.environment
    tasks = ("classification", "caption", "vqa")
    scored = [f"{m[f'{task}.n']:.0f} {task}" for task in tasks if f"{task}.n" in m]
    texts = f" Questions scored: {', '.join(scored)}." if scored else ""
    return "\n".join(
        (
            f"`{run.name}` ({run.config['data']['name']} images): "
            f"{m['data.test_images']:.0f} test images, {m['data.train_images']:.0f} to train on, "
            f"{m['data.validation_images']:.0f} to validate; "
            f"seed {run.config['seed']} (data: {run.config['data']['seed']}).{texts}",
            f"Took {m['run.wall_seconds']:.0f} s, excluding installation; peak memory "
            f"{m['run.peak_memory_gib']:.2f} GiB. Reference matmul on that machine "
            f"(float32, 1024x1024): {m['run.matmul_gflops']:.0f} GFLOP/s.",
            f"Hardware: {e['processor']}, {e['cores']} cores; {e['device']}; jax {e['jax']}.",
        )
    )


def _truth(run: Run) -> str:
    """The verdict and the facts, '' if the run's images have no ground truth."""
    columns = shown_columns(run.metrics)
    if not columns:
        return ""
    rows = [
        (
            row["label"],
            f"{row['n']}",
            *(
                "" if row[name] is None else f"{row[name]:.2f}"
                for name in ("missing", "impossible", "factor_2")
            ),
            *(f"{cell:.2f}" for cell in row["cells"]),
        )
        for row in truth_rows(run.metrics)
    ]
    skills = (f"{run.metrics[f'{name}.skill']:.2f}" for name, _ in columns)
    rows.append(("Skill", *("",) * 4, *skills))
    header = ("fact", "n", "not stated", "impossible", "within a factor of 2")
    header += tuple(label for _, label in columns)
    return f"{verdict(run.metrics)}\n\n{table(header, rows)}"


def _metrics(run: Run) -> str:
    targets = QUICKSTART if run.config["data"]["name"] == "procedural" else ()
    rows = [
        (
            row["label"],
            f"{row['value']} {row['unit']}".strip(),
            f"{row['bound']} {row['unit']}".strip() + f": {row['state']}",
        )
        for row in target_rows(targets, run.metrics)
    ]
    further = _FURTHER if targets else (*_WITHOUT_TARGETS, *_FURTHER)
    rows += [(label, f"{run.metrics[key]:.3f}", "") for label, key in further if key in run.metrics]
    return table(("metric", run.name, "target"), rows)


def _controls(run: Run) -> str:
    rows = [(row["label"], *row["cells"]) for row in controls_table(run.metrics)]
    return table(("control", *(title for *_, title in CONTROL_COLUMNS)), rows)


# Label, group and score in metrics.json, the control without an image, n.
_SUMMARY = (
    ("Feature size within 25 %", "truth", "mean_size_nm.score", "_constant", "mean_size_nm.n"),
    ("Number of features within 25 %", "truth", "count.score", "_constant", "count.n"),
    ("Charging, balanced accuracy", "truth", "artefact_charging.score", "_constant",
     "artefact_charging.n"),
    ("Skill over all facts (1: always right)", "truth", "skill", "_constant", ""),
    ("Class named correctly (10 classes)", "classification", "top1", "_majority", "n"),
    ("Caption, ROUGE-L", "caption", "rougeL", "_blind", "n"),
    ("Other questions, ROUGE-L", "vqa", "rougeL", "_blind", "n"),
)  # fmt: skip


def summary(run: Run) -> str:
    """Markdown: the assistant, a mismatched image, no image, and the classical baseline."""
    rows = []
    for label, group, score, blind, n in _SUMMARY:
        shown = ("", "_shuffled", blind, "_classical")
        held = [run.metrics.get(f"{group}{control}.{score}") for control in shown]
        if group == "truth" and held[2] is not None:  # the better of two blind answers
            held[2] = max(held[2], run.metrics.get(f"truth_blind.{score}", held[2]))
            held[2] = 0.0 if score == "skill" else held[2]
        if held[0] is None and group == "truth":
            continue
        count = run.metrics.get(f"{group}.{n}")
        cells = ["–" if x is None else f"{x:.2f}".replace("-", "−") for x in held]
        rows.append((label, *cells, "" if count is None else f"{count:.0f}"))
    header = (run.name, "assistant", "mismatched image", "no image", "classical baseline", "n")
    m, e = run.metrics, run.environment
    where = f"{e['processor']}, {e['cores']} cores, {m['run.wall_seconds'] / 60:.0f} minutes"
    return table(header, rows) + f"\n\nSeed {run.config['seed']}; {where}."


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [header, ("---", *("---:" for _ in header[1:])), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replaced(text: str, results: str, begin: str = BEGIN, end: str = END) -> str:
    """`text` with `results` between the markers. Raises ResultsError unless each occurs once."""
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ResultsError(f"the page must contain {begin} and then {end}, once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{results}\n{end}{rest.split(end)[1]}"


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    options = argparse.ArgumentParser("python -m experiments.results_page")
    options.add_argument("metrics", nargs="+", type=Path, help="metrics.json of finished runs")
    options.add_argument("--readme", type=Path, default=README, help="page for the short table")
    options.add_argument("--page", type=Path, default=PAGE, help="page for all tables")
    asked = options.parse_args(arguments)
    try:
        runs = [read_run(path) for path in asked.metrics]
        texts = {asked.readme: summary(runs[0]), asked.page: block(runs)}
        pages = {path: replaced(path.read_text("utf-8"), text) for path, text in texts.items()}
    except ResultsError as error:
        sys.exit(f"error: {error}")
    for path, page in pages.items():
        write_atomically(path, page)
    print(texts[asked.page])
    runs = [str(path) for path in asked.metrics]
    print(json.dumps({"runs": runs, "pages": [str(path) for path in pages]}))


if __name__ == "__main__":
    main()

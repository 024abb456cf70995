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
    """Markdown of all runs: settings, metrics with targets, controls."""
    return "\n\n".join(
        part for run in runs for part in (_setting(run), _metrics(run), _controls(run))
    )


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


_SUMMARY = (
    ("Class named correctly (10 classes)", "classification", "top1", "classification_majority"),
    ("Caption, ROUGE-L", "caption", "rougeL", "caption_blind"),
    ("Other questions, ROUGE-L", "vqa", "rougeL", "vqa_blind"),
)


def summary(run: Run) -> str:
    """Markdown: the assistant, with a mismatched image, and what is likely without an image."""
    rows = []
    for label, group, score, blind in _SUMMARY:
        held = [run.metrics.get(f"{g}.{score}") for g in (group, f"{group}_shuffled", blind)]
        count = run.metrics.get(f"{group}.n", 0)
        rows.append((label, *("–" if x is None else f"{x:.2f}" for x in held), f"{count:.0f}"))
    header = (run.name, "assistant", "mismatched image", "no image", "n")
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

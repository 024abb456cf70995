"""Which claims of the paper's tables can be reproduced, and on what data?

    python -m experiments.tables                # all, on synthetic micrographs; resumes if killed
    python -m experiments.tables 5 7            # two of them, only printed
    python -m experiments.tables --seeds 0 1 2  # three runs; ± is then over them
    python -m experiments.tables --data sem=DIR # your copy of the paper's images: Tables 1 to 9
    python -m experiments.tables 21 22 --data neu=DIR cmi=DIR kth_tips=DIR
    python -m experiments.tables --runs runs/a runs/b     # only finished runs

A data set has one run per seed, in runs/tables/: of configs/tables.py for synthetic micrographs, of
configs/sem.py for the published data sets. `--config.KEY=VALUE` applies to every run, such as
`--config.data.instructions=FILE`. Finished runs are not repeated.

All tables together are written to docs/tables.md, docs/results.md and
experiments/tables/procedural.json, or with other data to runs/tables/NAMES.md and .json. Tables 2,
10, 29, 30 and 31 need no run: their printed texts are scored again.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.results_page import PAGE as RESULTS_PAGE
from experiments.results_page import replaced, table
from experiments.tables import texts
from experiments.tables.runs import RUNS, Measured, TablesError, read, run_all
from experiments.tables.specs import HEADLINES, SPECS
from experiments.tables.table import Table, build, data_names
from slava_jax.errors import UserError
from slava_jax.eval.paper_tables import TABLES
from slava_jax.train.workdir import write_atomically

BEGIN, END = "<!-- tables:begin -->", "<!-- tables:end -->"
PAGE = RESULTS_PAGE.with_name("tables.md")
RESULTS = Path(__file__).parent / "procedural.json"
ALL = sorted({*SPECS, *texts.TITLES})
_INTRODUCTION = """# The paper's tables, with our results

Written by `python -m experiments.tables`. Rows that begin with *paper:* are quoted from it, not run
here. *Not stated*: the paper gives neither seeds nor the number of examples."""


def overview(measured: Sequence[Measured]) -> str:
    """The overview for docs/results.md, a line per headline result."""
    rows = []
    for number, what, metric, method, column in HEADLINES:
        printed = TABLES[number]
        (theirs,) = [row for row in printed.rows if row.method == method]
        value = theirs.values[printed.columns.index(column)][0]
        for m in measured:
            ours = f"{m.score(metric)[0]:.3f}" if metric in m.common else "not measured"
            data = (data_names([m.data]), data_names(printed.data))
            rows.append((str(number), what, f"{ours} ({data[0]})", f"{value:.3f} ({data[1]})"))
    return table(("table", "what", "ours (data)", "the paper's (data)"), rows)


def about(measured: Sequence[Measured]) -> str:
    """The runs, their machines and times."""
    lines = []
    for m in measured:
        for run in m.runs:
            held, machine = run.metrics, run.environment
            lines.append(
                f"- `{run.name}`: {data_names([m.data])}, seed {run.config['seed']} (data: "
                f"{run.config['data']['seed']}), {held['data.train_images']:.0f} images to train "
                f"on, {held['data.test_images']:.0f} to test; {held['run.wall_seconds']:.0f} s on "
                f"{machine['processor']}, {machine['cores']} cores (reference matmul "
                f"{held['run.matmul_gflops']:.0f} GFLOP/s)."
            )
    return "Runs:\n\n" + "\n".join(lines)


def results(measured: Sequence[Measured], tables: Sequence[Table]) -> dict:
    """Our numbers as data: {table: rows of {who, data, seeds, n, column: [mean, deviation]}}."""
    held = {}
    for made in tables:
        columns = made.columns
        held[str(made.number)] = [
            {"who": line.who, "data": line.data, "seeds": line.seeds, "n": line.n}
            | {name: cell for name, cell in zip(columns, line.cells, strict=True) if cell}
            for line in made.lines
            if line.ours
        ]
    runs = [run for m in measured for run in m.runs]
    environment = [{"run": run.name, **run.environment} for run in runs]
    seconds = {run.name: run.metrics["run.wall_seconds"] for run in runs}
    return {"environment": environment, "seconds": seconds, "tables": held}


def make(numbers: Sequence[int], measured: Sequence[Measured]):
    """({number: Markdown}, our tables, errors); an error only affects its own table."""
    pieces, tables, errors = {}, [], []
    pairs = texts.scored() if set(numbers) & set(texts.TITLES) else []
    for number in numbers:
        if number in texts.TITLES:
            pieces[number] = texts.markdown(number, pairs)
            continue
        try:
            tables.append(build(number, measured))
            pieces[number] = tables[-1].markdown()
        except TablesError as error:
            errors.append(str(error))
    return pieces, tables, errors


def write(measured: Sequence[Measured], pieces: dict[int, str], tables: Sequence[Table]) -> None:
    """Writes the page and the result file; for synthetic micrographs those in the repository.

    The page lists the tables that could not be made.
    """
    missing = [str(number) for number in ALL if number not in pieces]
    gap = [f"Missing, because no run measured them: Tables {', '.join(missing)}."]
    names = [m.data for m in measured]
    own = names == ["procedural"]
    page = PAGE if own else RUNS / f"{'-'.join(names)}.md"
    place = RESULTS if own else page.with_suffix(".json")
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, json.dumps(results(measured, tables), indent=1) + "\n")
    head = (_INTRODUCTION, about(measured), *(gap if missing else []))
    text = "\n\n".join((*head, *pieces.values()))
    write_atomically(page, text + "\n")
    if own:
        block = replaced(RESULTS_PAGE.read_text("utf-8"), overview(measured), BEGIN, END)
        write_atomically(RESULTS_PAGE, block)


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    asked, flags = _parser().parse_known_args(arguments)
    if strange := [flag for flag in flags if not flag.startswith("--config.")]:
        sys.exit(f"error: {' '.join(strange)}: unknown; settings of a run are --config.KEY=VALUE")
    numbers = asked.tables or ALL
    if unknown := set(numbers) - set(ALL):
        sys.exit(f"error: no such table: {sorted(unknown)}; choose from {ALL}")
    measured, errors = [], []
    try:
        if set(numbers) & set(SPECS):
            wanted = dict(_data(text) for text in asked.data)
            measured = read(asked.runs) if asked.runs else run_all(wanted, asked.seeds, flags)
        pieces, tables, errors = make(numbers, measured)
        print("\n\n".join(pieces.values()))
        if not asked.tables:
            write(measured, pieces, tables)
    except UserError as error:
        errors = [str(error)]
    if errors:
        sys.exit("\n".join(f"error: {error}" for error in errors))
    runs = [str(workdir) for m in measured for workdir in m.workdirs]
    print(json.dumps({"tables": numbers, "runs": runs}))


def _data(text: str) -> tuple[str, str]:
    name, _, folder = text.partition("=")
    return name, folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m experiments.tables")
    parser.add_argument("tables", nargs="*", type=int, help="table numbers (default: all)")
    parser.add_argument("--data", nargs="+", default=["procedural"], metavar="NAME[=DIR]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--runs", nargs="+", type=Path, default=[], help="finished ones")
    return parser


if __name__ == "__main__":
    main()

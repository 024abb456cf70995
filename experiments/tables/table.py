"""Builds one table: our rows, the paper's below them, and notes."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from experiments.results_page import table as markdown_table
from experiments.tables.remarks import remarks
from experiments.tables.runs import Measured
from experiments.tables.specs import PAIRED_ERRORS, SPECS, Ours, Spec
from slava_jax.eval.paper_tables import TABLES, Number, PrintedRow, PrintedTable

_DATA = {
    "procedural": "synthetic",
    "sem": "SEM",
    "neu": "NEU-SDD",
    "cmi": "CMI",
    "kth_tips": "KTH-TIPS",
    "elpv": "ELPV (solar cells)",
    "folder": "own images",
}
_NOT_STATED = "not stated"
_TRUE = "true"  # heading of our column beside the text scores


@dataclasses.dataclass(frozen=True)
class Line:
    """One row.

    Attributes:
      who: the method; in Table 9 preceded by the category.
      data, seeds, n: data set, seeds of the runs, examples scored; as text.
      cells: a number per column, or None.
      ours: measured here, not in the paper.
    """

    who: str
    data: str
    seeds: str
    n: str
    cells: tuple[Number | None, ...]
    ours: bool


@dataclasses.dataclass(frozen=True)
class Table:
    """A table ready for printing.

    Attributes:
      other_data: our data are not the paper's data sets.
      notes: sentences below it.
    """

    number: int
    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    other_data: str
    notes: tuple[str, ...]

    def markdown(self) -> str:
        """Heading, warning, table and notes."""
        rows = [
            (line.who, line.data, line.seeds, line.n, *map(_cell, line.cells))
            for line in self.lines
        ]
        warning = [f"**{self.other_data}**"] if self.other_data else []
        body = markdown_table(("", "data", "seeds", "n", *self.columns), rows)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return "\n\n".join((f"## Table {self.number}: {self.title}", *warning, body, notes))


def build(number: int, measured: Sequence[Measured]) -> Table:
    """The table of the runs on its data sets, or of all runs if there are none.

    Raises TablesError if a run did not measure the metrics of the table.
    """
    spec, printed = SPECS[number], TABLES[number]
    own = [m for m in measured if m.data in printed.data]
    used = own or list(measured)
    for m in used:
        m.require(metric_names(spec), f"Table {number}", spec.needs)
    rows = [r for r in spec.ours if r.always or all(f"{r.prefix}.n" in m.common for m in used)]
    spec = dataclasses.replace(spec, ours=tuple(rows))
    columns, lines = _LAYOUTS[spec.layout](spec, printed, used)
    warning = "" if own else _other_data(used, printed)
    said = [spec.note] if spec.note else []
    if _TRUE in columns:
        said.append(f"*{_TRUE}*: the share of our {spec.true} that is right, numbers within 25 %.")
    notes = (*_deviations(spec, printed, used), *said, *_claims(spec, used), *remarks(number))
    return Table(number, printed.title, columns, tuple(lines), warning, notes)


def data_names(names: Sequence[str]) -> str:
    """Display names of data sets."""
    return ", ".join(_DATA.get(name, name) for name in names)


def metric_names(spec: Spec) -> Iterator[str]:
    """All required metrics; a class that never occurs has no scores of its own."""
    for claim in spec.claims:
        yield from (claim.metric, claim.minus)
    for row in spec.ours:
        if not row.always:
            continue
        yield f"{row.prefix}.n"
        names = ("macro_f1",) if spec.layout == "classes" else spec.names[: row.columns]
        yield from (f"{row.prefix}.{name}" for name in names)


def _line(row: Ours, measured: Sequence[Measured], who: str, cells) -> Line:
    seeds = {", ".join(map(str, m.seeds)) for m in measured}
    counts = [f"{m.score(f'{row.prefix}.n')[0]:.0f}" for m in measured]
    names = data_names([m.data for m in measured])
    return Line(who, names, "; ".join(sorted(seeds)), ", ".join(counts), tuple(cells), True)


def _printed(row: PrintedRow, data: Sequence[str], cells: Sequence[Number | None] = ()) -> Line:
    family = f" ({row.family})" if row.family not in ("", "sLAVA") else ""
    own = "sLAVA, " if row.family == "sLAVA" else ""
    who = f"paper: {own}{row.method}{family}"
    return Line(who, data_names(data), _NOT_STATED, _NOT_STATED, tuple(cells) or row.values, False)


def _own_first(printed: PrintedTable) -> list[PrintedRow]:
    return sorted(printed.rows, key=lambda row: "sLAVA" not in (row.method, row.family))


def _methods(spec: Spec, printed: PrintedTable, measured: Sequence[Measured]):
    """A row per method, and per data set if there are several."""
    lines = []
    true = any(row.truth in m.common for row in spec.ours for m in measured)
    for row in spec.ours:
        for m in measured:
            cells = [m.score(f"{row.prefix}.{name}") for name in spec.names[: row.columns]]
            cells += [None] * (len(spec.names) - len(cells))
            if true:
                cells.append(m.score(row.truth) if row.truth in m.common else None)
            lines.append(_line(row, [m], row.label, cells))
    theirs = [
        _printed(row, printed.data, (*row.values, None) if true else ())
        for row in _own_first(printed)
    ]
    return printed.columns + ((_TRUE,) if true else ()), lines + theirs


def _classes(spec: Spec, printed: PrintedTable, measured: Sequence[Measured]):
    """A row per class and method, followed by the paper's for the same class."""
    theirs = {row.method: row for row in printed.rows}
    marker = f"{spec.ours[0].prefix}.{spec.names[0]}."
    measures = {name for m in measured for name in m.common if name.startswith(marker)}
    seen = sorted(name.removeprefix(marker) for name in measures)
    lines = []
    for category in [*theirs, *(name for name in seen if name not in theirs)]:
        for row in spec.ours:
            for m in measured:
                names = [f"{row.prefix}.{name}.{category}" for name in spec.names]
                cells = [m.score(name) if name in m.common else None for name in names]
                if category in seen:
                    lines.append(_line(row, [m], f"{_words(category)}: {row.label}", cells))
        if category in theirs:
            line = _printed(theirs[category], printed.data)
            lines.append(dataclasses.replace(line, who=f"{_words(category)}: paper"))
    return printed.columns, lines


def _data_sets(spec: Spec, printed: PrintedTable, measured: Sequence[Measured]):
    """A column per data set: ours that the paper lacks, then the paper's."""
    columns = [*(m.data for m in measured if m.data not in printed.data), *printed.data]
    lines = []
    for row in spec.ours:
        held = {m.data: m.score(f"{row.prefix}.{spec.names[0]}") for m in measured}
        lines.append(_line(row, measured, row.label, [held.get(name) for name in columns]))
    for row in _own_first(printed):
        held = dict(zip(printed.data, row.values, strict=True))
        lines.append(_printed(row, printed.data, [held.get(name) for name in columns]))
    return tuple(data_names([name]) for name in columns), lines


_LAYOUTS = {"methods": _methods, "classes": _classes, "data": _data_sets}


def _words(category: str) -> str:
    return category.replace("_", " ")


def _cell(number: Number | None) -> str:
    if number is None:
        return "–"
    mean, deviation = number
    return f"{mean:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")


def _other_data(measured: Sequence[Measured], printed: PrintedTable) -> str:
    return (
        f"Not the paper's data (ours: {data_names([m.data for m in measured])}; the paper's: "
        f"{data_names(printed.data)}). The metric is the same, but the scores are not comparable."
    )


def _deviations(spec: Spec, printed: PrintedTable, measured: Sequence[Measured]) -> Iterator[str]:
    """The meaning of `±`, in ours and theirs."""
    several = max(len(m.runs) for m in measured)
    if several > 1:
        yield f"Our ±: the standard deviation over {several} runs, one per seed, on one split."
    elif spec.names[0] == "bleu2":
        yield "Our ±: the standard deviation over the n answers of one run, not over runs."
    else:
        least = min(m.score(f"{spec.ours[0].prefix}.n")[0] for m in measured)
        yield (
            f"Ours is one run, so it has no ±; a proportion of n = {least:.0f} has a standard "
            f"error of at most {0.5 / math.sqrt(least):.3f}."
        )
    with_deviation = any(d is not None for row in printed.rows for _, d in row.values)
    yield f"The paper {'does not state what its ± measures' if with_deviation else 'gives no ±'}."
    if spec.names[0] != "bleu2":
        yield "Zero-shot: no examples in the prompt. All classes were seen in training."


def _claims(spec: Spec, measured: Sequence[Measured]) -> Iterator[str]:
    for m in measured:
        means = {name: m.score(name)[0] for name in m.common}
        of = f" ({data_names([m.data])})" if len(measured) > 1 else ""
        for claim in spec.claims:
            value, bound = claim.value(means), f"bound {claim.bound}"
            error = means.get(PAIRED_ERRORS.get(claim.minus)) if len(m.runs) == 1 else None
            if error is not None:
                bound += f", standard error over images {error:.3f}"
                if claim.reached(means) and value < 2 * error:
                    bound += ", within chance"
            verdict = "supported" if claim.reached(means) else "**not** supported"
            yield f"{claim.label}{of}: {value:+.3f}; {verdict} ({bound})."

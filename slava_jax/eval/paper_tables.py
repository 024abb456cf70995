"""The paper's printed results (paper_tables.json). It never says what its `±` measures.

Zero-shot in the paper means no examples in the prompt; the classes were seen in training.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Number = tuple[float, float | None]  # as printed, with its deviation if any


@dataclass(frozen=True)
class PrintedRow:
    """One row; `family` is its group of methods, '' if the table has none."""

    method: str
    family: str
    values: tuple[Number, ...]


@dataclass(frozen=True)
class PrintedTable:
    """One table.

    Attributes:
      title: what it measures.
      data: names of the data sets, as in config.data.name.
      columns, rows: as printed; a row has one value per column.
    """

    title: str
    data: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[PrintedRow, ...]


def _read(path: Path) -> dict[int, PrintedTable]:
    tables = json.loads(path.read_text(encoding="utf-8"))["tables"]
    return {int(number): _table(number, table) for number, table in tables.items()}


def _table(number: str, held: Mapping) -> PrintedTable:
    rows = []
    for row in held["rows"]:
        values = tuple((mean, deviation) for mean, deviation in row["values"])
        if len(values) != len(held["columns"]):
            raise ValueError(f"Table {number}, {row['method']}: has {len(values)} numbers")
        rows.append(PrintedRow(row["method"], row.get("family", ""), values))
    return PrintedTable(held["title"], tuple(held["data"]), tuple(held["columns"]), tuple(rows))


TABLES: dict[int, PrintedTable] = _read(Path(__file__).with_suffix(".json"))

# {row: its numbers}
Scores = dict[str, tuple[Number, ...]]


def _scores(number: int) -> Scores:
    """A table without families, its rows reversed: the paper prints its own row last."""
    return {row.method: row.values for row in reversed(TABLES[number].rows)}


CAPTION_TABLE_1 = _scores(1)
VQA_TABLE_3 = _scores(3)
PER_CLASS_TABLE_9 = _scores(9)

# {(family, method): (top-1, top-5)} of Table 7: the paper's own rows, the best of each family, and
# VanillaViT.
_SHOWN = ("few-shot", "zero-shot", "T2TViT", "VanillaViT", "GoogleNet", "simsiam")
CLASSIFICATION_TABLE_7: dict[tuple[str, str], tuple[float, float]] = {
    (row.family, row.method): (row.values[0][0], row.values[1][0])
    for name in _SHOWN
    for row in TABLES[7].rows
    if row.method == name
}

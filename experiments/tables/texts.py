"""Tables 2, 10, 29, 30 and 31: recomputes the scores of the printed pairs of texts.

The pairs are in tests/eval/paper_text_scores.json, which notes differences from our copy.
Our copy has no scores for Tables 10 and 31, so these are only computed.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from experiments.results_page import table as markdown_table
from slava_jax.eval.text_metrics import caption_scores

PAIRS = Path(__file__).parent.parent.parent / "tests" / "eval" / "paper_text_scores.json"
TITLES = {
    2: "captions",
    10: "answers on size, distribution and aggregation",
    29: "answers on defects of steel",
    30: "answers on surface texture",
    31: "answers on corrosion",
}
SCORES = {"bleu2": "BLEU-2", "rougeL": "ROUGE-L", "meteor": "METEOR"}
# Three printed decimals; the last may be rounded either way.
_TOLERANCE = 5.1e-4


def scored() -> list[dict]:
    """Every printed pair, with `ours`, its scores computed here; printed ones may be None."""
    rows = json.loads(PAIRS.read_text(encoding="utf-8"))["rows"]
    return [{**row, "ours": caption_scores(row["reference"], row["candidate"])} for row in rows]


def disagreements(rows: list[Mapping]) -> Iterator[tuple[Mapping, str]]:
    """(row, score) for every printed number that differs from the recomputed one."""
    for row in rows:
        for score in SCORES:
            if row[score] is not None and not _agree(row[score], row["ours"][score]):
                yield row, score


def _agree(printed: float, computed: float) -> bool:
    return abs(printed - computed) < _TOLERANCE


def markdown(number: int, rows: list[Mapping]) -> str:
    """One table: printed and recomputed scores, then the disagreements. `rows`: all pairs."""
    own = [row for row in rows if row["table"] == number]
    printed = own[0]["meteor"] is not None
    header, lines = ["row"], [[str(row["row"]) for row in own] + ["mean"]]
    for score, title in SCORES.items():
        if printed:
            header.append(f"{title}, printed")
            lines.append(_column([row[score] for row in own]))
        header.append(f"{title}, recomputed")
        lines.append(_column([row["ours"][score] for row in own]))
    body = markdown_table(tuple(header), list(zip(*lines, strict=True)))
    notes = "\n".join(f"- {note}" for note in _notes(own, rows, printed))
    title = f"## Table {number}: {TITLES[number]}, recomputed from the printed texts"
    return f"{title}\n\n{body}\n\n{notes}"


def _column(values: list[float]) -> list[str]:
    return [f"{value:.3f}" for value in (*values, float(np.mean(values)))]


def _notes(own: list[Mapping], rows: list[Mapping], printed: bool) -> Iterator[str]:
    if not printed:
        yield "Our copy of the paper lacks the printed scores, so there is nothing to compare."
        return
    found = list(disagreements(own))
    total = len(own) * len(SCORES)
    yield f"{total - len(found)} of {total} printed scores are reproduced to three decimals."
    for row, score in found:
        value = row["ours"][score]
        yield (
            f"Row {row['row']}, {SCORES[score]}: printed {row[score]:.3f}, recomputed {value:.3f}"
            f"{_origin(row, score, rows)}."
        )
    for row in own:
        if row["restored"]:
            yield f"Row {row['row']}: scored with the candidate's {row['restored']}."


def _origin(row: Mapping, score: str, rows: list[Mapping]) -> str:
    """Other printed pairs with the same score as the printed number, if any."""
    others = [
        f"Table {other['table']}, row {other['row']}"
        for other in rows
        if other is not row
        and other[score] is not None
        and _agree(row[score], other["ours"][score])
    ]
    return f"; the score of {' and '.join(others)}" if others else ""

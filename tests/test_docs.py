"""Tables in the docs that stand between markers are what their scripts make of the result files."""

from pathlib import Path

import pytest

from experiments import bench_gpu, bench_peft, elpv_table, kept_bytes, plan_tpu, results
from experiments.ablations import __main__ as ablations
from experiments.claims import __main__ as claims
from experiments.tables import __main__ as tables
from experiments.tables.specs import HEADLINES

ROOT = Path(__file__).parent.parent


def result(module) -> dict:
    return results.read(module.RESULT)


@pytest.mark.parametrize(
    ("page", "made"),
    [
        ("docs/scale.md", lambda: bench_gpu.tables(result(bench_gpu)["rows"])),
        ("docs/scale.md", lambda: bench_peft.shown(result(bench_peft))),
        ("docs/scale.md", lambda: kept_bytes.results(result(kept_bytes)["bytes"])),
        ("docs/scale.md", lambda: plan_tpu.tables(result(plan_tpu)["results"])),
        (
            "docs/results.md",
            lambda: elpv_table.results(results.read(elpv_table.RESULTS / "summary.json")),
        ),
        ("docs/claims.md", lambda: claims.page(results.read(claims.RESULTS))),
        ("docs/ablations.md", lambda: ablations.tables(results.read(ablations.RESULTS))),
    ],
    ids=["bench_gpu", "bench_peft", "kept_bytes", "plan_tpu", "elpv", "claims", "ablations"],
)
def test_a_table_is_that_of_its_result_file(page, made):
    assert made().strip() in (ROOT / page).read_text(encoding="utf-8")


def cell(mean: float, deviation: float | None) -> str:
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"


def test_the_papers_tables_hold_every_number_of_ours():
    held = results.read(tables.RESULTS)["tables"]
    page = tables.PAGE.read_text(encoding="utf-8").split("\n## Table ")[1:]
    sections = {text.split(":")[0]: text for text in page}
    for number, rows in held.items():
        for row in rows:
            cells = [cell(*value) for value in row.values() if isinstance(value, list)]
            start = f"| {row['who']} | {row['data']} | {row['seeds']} | {row['n']} | "
            assert start + " | ".join(cells) in sections[number], (number, row["who"])


def test_the_results_say_what_the_tables_say():
    held = results.read(tables.RESULTS)["tables"]
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for number, what, _, _, column in HEADLINES:
        mark = "few-shot" if what.startswith("few-shot") else ""
        row = next(
            r for r in held[str(number)] if r["who"].startswith("slava") and mark in r["who"]
        )
        assert f"| {number} | {what} | {row[column][0]:.3f} (" in page

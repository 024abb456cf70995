"""The paper's printed numbers: complete and plausible."""

import pytest

from slava_jax.eval.paper_tables import CLASSIFICATION_TABLE_7, TABLES

# Rows, and the sum of all means and deviations, from a second, independent transcription.
READ_AGAIN = {
    1: (4, 20.143), 3: (4, 19.81), 4: (4, 18.365), 5: (4, 18.76602), 6: (4, 17.263),
    7: (34, 45.461), 8: (21, 32.104), 9: (10, 29.651), 21: (4, 20.772), 22: (5, 14.299),
}  # fmt: skip


def numbers(table):
    pairs = [pair for row in table.rows for pair in row.values]
    return [value for pair in pairs for value in pair if value is not None]


@pytest.mark.parametrize("number", READ_AGAIN)
def test_every_number_of_the_paper_is_there(number):
    rows, total = READ_AGAIN[number]
    table = TABLES[number]
    assert len(table.rows) == rows
    assert sum(numbers(table)) == pytest.approx(total, abs=1e-6)


def test_there_are_the_tables_with_results_and_no_others():
    assert set(TABLES) == set(READ_AGAIN)


@pytest.mark.parametrize("table", TABLES.values(), ids=map(str, TABLES))
def test_numbers_are_fractions_and_rows_are_full(table):
    assert all(0 <= value <= 1 for value in numbers(table))
    assert all(len(row.values) == len(table.columns) for row in table.rows)
    assert len({(row.method, row.values) for row in table.rows}) == len(table.rows)
    printed_with = {deviation is not None for row in table.rows for _, deviation in row.values}
    assert len(printed_with) == 1


@pytest.mark.parametrize(
    ("least", "most"), [("BLEU-4", "BLEU-2"), ("ROUGE-2", "ROUGE-1"), ("Top-1", "Top-5")]
)
def test_what_cannot_be_larger_is_not(least, most):
    """Catches misread and swapped columns."""
    seen = 0
    for table in TABLES.values():
        if least in table.columns:
            i, j = table.columns.index(least), table.columns.index(most)
            assert all(row.values[i][0] <= row.values[j][0] for row in table.rows)
            seen += len(table.rows)
    assert seen >= 24


def test_the_papers_own_rows_are_the_same_in_tables_7_and_8():
    own = [{r.method: r.values for r in TABLES[n].rows if r.family == "sLAVA"} for n in (7, 8)]
    assert own[0] == own[1] and set(own[0]) == {"zero-shot", "few-shot"}


def test_the_report_shows_the_best_of_each_family():
    for family in ("ConvNets", "ViTs", "VSL"):
        best = max((r.values[0][0], r.method) for r in TABLES[7].rows if r.family == family)
        assert (family, best[1]) in CLASSIFICATION_TABLE_7
    assert len(CLASSIFICATION_TABLE_7) == 6

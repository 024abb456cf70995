"""Consistency checks of the printed numbers, by arithmetic alone."""

from slava_jax.eval.paper_tables import TABLES, PrintedRow

_HALF = 0.0005  # half of the last printed digit


def remarks(number: int) -> list[str]:
    """Remarks on a printed table, [] if none."""
    if number in (4, 5, 6):
        return [*_factor_remark(number), *_deviation_remark(number)]
    if number == 9:
        return _f1_remark()
    return []


def factor(row: PrintedRow, base: PrintedRow) -> float | None:
    """The common factor between the means of `base` and `row`, if any.

    Printed values are accurate to half a unit of the third decimal.
    """
    pairs = [(here, there) for (here, _), (there, _) in zip(row.values, base.values, strict=True)]
    least = max((here - _HALF) / (there + _HALF) for here, there in pairs)
    most = min((here + _HALF) / (there - _HALF) for here, there in pairs)
    return (least + most) / 2 if least <= most else None


def _factor_remark(number: int) -> list[str]:
    found = [
        (row.method, factor(row, base))
        for row, base in zip(TABLES[number].rows, TABLES[3].rows, strict=True)
    ]
    if any(value is None for _, value in found):
        return []
    factors = ", ".join(f"{method} {value:.3f}" for method, value in found)
    return [
        "Within rounding, the six printed means of a row are those of Table 3 times one factor: "
        f"{factors}."
    ]


def _deviation_remark(number: int) -> list[str]:
    same = all(
        [deviation for _, deviation in row.values] == [deviation for _, deviation in base.values]
        for row, base in zip(TABLES[number].rows, TABLES[3].rows, strict=True)
    )
    return ["The printed deviations equal those of Table 3, number for number."] if same else []


def impossible_f1() -> list[tuple[str, float, float]]:
    """Classes of Table 9 whose F1 is above the mean of precision and recall: (class, F1, mean).

    Impossible for a harmonic mean, and for averages over runs; allows half a digit of each for
    rounding.
    """
    found = []
    for row in TABLES[9].rows:
        precision, recall, f1 = (mean for mean, _ in row.values)
        if f1 - (precision + recall) / 2 > 2 * _HALF + 1e-9:
            found.append((row.method, f1, (precision + recall) / 2))
    return found


def _f1_remark() -> list[str]:
    found = impossible_f1()
    classes = ", ".join(f"{name} ({f1:.3f} above {mean:.4f})" for name, f1, mean in found)
    return [
        "F1 cannot exceed the mean of precision and recall, nor can its average over runs; "
        f"the printed one does for {classes}."
    ]

"""What the printed numbers say about each other: arithmetic on them, no measurement of ours."""

from slava_jax.eval.paper_tables import TABLES, PrintedRow

_HALF = 0.0005  # of the last printed digit


def remarks(number: int) -> list[str]:
    """Sentences about a printed table, [] where nothing is to be remarked."""
    if number in (4, 5, 6):
        return [*_factor_remark(number), *_deviation_remark(number)]
    if number == 9:
        return _f1_remark()
    return []


def factor(row: PrintedRow, base: PrintedRow) -> float | None:
    """The one number that every mean of `base` is multiplied by to give `row`, if there is one.

    Both as printed: each is known to half a unit of its third decimal.
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
    return ["The printed deviations are those of Table 3, number for number."] if same else []


def impossible_f1() -> list[tuple[str, float, float]]:
    """Classes of Table 9 whose F1 is above the mean of precision and recall: (class, F1, mean).

    A harmonic mean never is, nor is the average of several beside the averages of theirs; half a
    digit of each is left for rounding.
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
        "F1 is never above the mean of precision and recall, nor are averages over runs; "
        f"in print it is for {classes}."
    ]

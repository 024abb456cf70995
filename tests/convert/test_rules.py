"""The table engine: every tensor exactly once, or one error that lists all problems."""

import numpy as np
import pytest
from reference_models import Held

from slava_jax.convert.rules import ConvertError, LeftOut, Row, plan, slices, transposed

TABLE = [
    Row("layers.{}.q.weight", "blocks/q/kernel", (3, 2), transposed),
    Row("norm.weight", "norm/scale", (2,)),
    LeftOut("layers.*.inv_freq", "computed"),
]
LEAVES = ["blocks/q/kernel", "norm/scale"]


def arrays(**other):
    rng = np.random.default_rng(0)
    shapes = {"layers.0.q.weight": (3, 2), "layers.1.q.weight": (3, 2), "norm.weight": (2,)}
    return {**{n: rng.normal(size=s).astype(np.float16) for n, s in shapes.items()}, **other}


def problem(held, table=TABLE, layers=2, leaves=LEAVES) -> str:
    with pytest.raises(ConvertError, match="nothing was converted") as error:
        plan(table, Held(held), layers, leaves)
    assert "model.file" in str(error.value)
    return str(error.value)


def test_a_form_that_is_not_read_matters_where_a_row_needs_the_tensor():
    forms = {"layers.1.q.weight": "is I8", "layers.0.inv_freq": "is I64"}
    held = Held(arrays(**{"layers.0.inv_freq": np.zeros(9)}), forms)
    with pytest.raises(
        ConvertError, match=r"unsupported format \(1\):\n  layers\.1\.q\.weight: is I8"
    ):
        plan(TABLE, held, 2, LEAVES)
    assert plan(TABLE, Held(arrays(), {"layers.0.inv_freq": "is I64"}), 2, LEAVES)


def test_layers_are_slices_of_one_leaf():
    """In table order, converted, as float32; tensors left out are not read."""
    held = Held(arrays(**{"layers.0.inv_freq": np.zeros(9)}))
    found = list(slices(plan(TABLE, held, 2, LEAVES), held))
    assert [(path, layer) for path, layer, _ in found] == [
        ("blocks/q/kernel", 0), ("blocks/q/kernel", 1), ("norm/scale", None),
    ]  # fmt: skip
    np.testing.assert_array_equal(found[1][2], held.read("layers.1.q.weight").T)
    assert all(a.dtype == np.float32 and a.flags.c_contiguous for _, _, a in found)


def test_missing_and_extra_are_listed_side_by_side():
    """A file with another name for its norm and one layer more than the config."""
    held = arrays(**{"final.weight": np.zeros(2), "layers.2.q.weight": np.zeros((3, 2))})
    del held["norm.weight"]
    text = problem(held)
    missing, extra = text.split("in the file, but in no row")
    assert "missing from the file (1):\n  norm.weight" in missing
    assert "(2):\n  final.weight\n  layers.2.q.weight" in extra


def test_two_rows_for_one_tensor():
    """By name, and by a pattern of tensors left out."""
    twice = [*TABLE, Row("norm.weight", "other/scale", (2,))]
    text = problem(arrays(), twice, leaves=[*LEAVES, "other/scale"])
    assert "claimed by more than one row (1):\n  norm.weight" in text
    text = problem(arrays(), [*TABLE, LeftOut("norm.*", "a mistake")])
    assert "claimed by more than one row (1):\n  norm.weight" in text


def test_the_table_must_be_the_models():
    """A leaf without a row, a row without a leaf, a leaf with two rows."""
    assert "leaves of the model without a row (1):\n  head" in problem(
        arrays(), leaves=[*LEAVES, "head"]
    )
    assert "rows without a leaf of the model (1):\n  norm/scale" in problem(
        arrays(), leaves=LEAVES[:1]
    )
    twice = [*TABLE, Row("more.weight", "norm/scale", (2,))]
    text = problem(arrays(**{"more.weight": np.zeros(2)}), twice)
    assert "leaves with more than one row (1):\n  norm/scale" in text


def test_a_tensor_of_another_shape():
    """The error names both shapes."""
    text = problem(arrays(**{"layers.1.q.weight": np.zeros((2, 3))}))
    assert "layers.1.q.weight: is [2, 3], must be [3, 2]" in text


def test_a_long_list_is_cut():
    """A file of another architecture does not flood the screen."""
    text = problem({f"other.{i}": np.zeros(1) for i in range(100)})
    assert "no row of the table (100)" in text and "... and 88 more" in text
    assert len(text.splitlines()) < 25


def test_numbers_that_are_none():
    """Detected and named when the tensor is read."""
    held = Held(arrays(**{"norm.weight": np.array([1, np.nan], np.float16)}))
    steps = plan(TABLE, held, 2, LEAVES)
    with pytest.raises(ConvertError, match=r"model.file: norm.weight contains NaN"):
        list(slices(steps, held))

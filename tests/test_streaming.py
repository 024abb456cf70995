"""Checkpoints written slice by slice equal those of `save_tree`, or are not written."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from slava_jax.checkpoint import CheckpointError, load_facts, load_tree, save_tree
from slava_jax.streaming import save_slices


def sliced() -> dict[str, np.ndarray]:
    """Arrays of three dtypes by name, one without layers."""
    draw = np.random.default_rng(0)
    return {
        "language_model/blocks/kernel": draw.integers(-127, 128, (3, 4, 5), np.int8),
        "language_model/norm": draw.normal(size=7).astype(np.float32),
        "half": draw.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
    }


def shapes(arrays) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}


def pieces(arrays):
    """Layer by layer, in any order for one array; `norm` in one piece."""
    for i in (2, 0, 1):
        yield "language_model/blocks/kernel", i, arrays["language_model/blocks/kernel"][i]
    yield "language_model/norm", None, arrays["language_model/norm"]
    yield "half", 1, arrays["half"][1]
    yield "half", 0, arrays["half"][0]


@pytest.mark.parametrize("commit", [1, 2**26])
def test_slices_are_read_as_one_tree(tmp_path, monkeypatch, commit):
    """The reference is `save_tree` of the whole, read with and without a template."""
    monkeypatch.setattr("slava_jax.streaming._COMMIT", commit)
    arrays = sliced()
    save_slices(tmp_path / "slices", shapes(arrays), pieces(arrays), {"a": 1})
    blocks = {
        "blocks": {"kernel": arrays["language_model/blocks/kernel"]},
        "norm": arrays["language_model/norm"],
    }
    tree = {"half": arrays["half"], "language_model": blocks}
    save_tree(tmp_path / "whole", tree, {"a": 1})
    assert load_facts(tmp_path / "slices") == {"a": 1}
    for template in (None, jax.tree.map(jnp.asarray, tree)):
        found, _ = load_tree(tmp_path / "slices", template)
        wanted, _ = load_tree(tmp_path / "whole", template)
        assert jax.tree.structure(found) == jax.tree.structure(wanted)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert (type(a), a.dtype) == (type(b), b.dtype)
            np.testing.assert_array_equal(a, b)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["slices", "whole"]


def test_slices_that_do_not_add_up_leave_nothing(tmp_path):
    """Missing, repeated, wrong shape, wrong dtype, and an error in between."""
    arrays = sliced()
    all_pieces = list(pieces(arrays))
    wrong = [
        all_pieces[:-1],
        [*all_pieces, all_pieces[0]],
        [*all_pieces, all_pieces[3]],
        [("half", 0, np.zeros(4, ml_dtypes.bfloat16)), *all_pieces[:-1]],
        [("half", 0, np.zeros(3, np.float32)), *all_pieces[:-1]],
    ]
    wrong.append([*all_pieces, ("norm", None, arrays["language_model/norm"])])
    for given in wrong:
        with pytest.raises(CheckpointError, match=r"half|norm|kernel"):
            save_slices(tmp_path / "x", shapes(arrays), given, {})
        assert not list(tmp_path.iterdir())

    def fails():
        yield all_pieces[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_slices(tmp_path / "x", shapes(arrays), fails(), {})
    assert not list(tmp_path.iterdir())


def test_room_for_slices_is_asked_before_anything_is_written(tmp_path):
    """For a petabyte nothing is read or written."""
    huge = {"kernel": jax.ShapeDtypeStruct((2**10, 2**20, 2**20), jnp.int8)}

    def unread():
        raise AssertionError("read before the free space was checked")
        yield

    with pytest.raises(CheckpointError, match=r"1048576.00 GiB needed, [\d.]+ GiB free"):
        save_slices(tmp_path / "x", huge, unread(), {})
    assert not list(tmp_path.iterdir())


def test_a_neighbours_folder_is_left_alone(tmp_path):
    """Regardless of its name: only own files are deleted."""
    (tmp_path / "x.unfinished").mkdir()
    save_slices(tmp_path / "x", shapes(sliced()), pieces(sliced()), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "x.unfinished"]

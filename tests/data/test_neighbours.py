"""Similarity sampling against a naive reference, and images that must never be chosen."""

import numpy as np
import pytest

from slava_jax.data.datasets.base import DataError
from slava_jax.data.neighbours import RELATIONS, available, neighbours


def twin(queries, pool, count, relation, query_labels, pool_labels, own_rows):
    """Naive search: one pair at a time, sorted by similarity and row."""
    rows, similarities = [], []
    queries, pool = queries.astype(np.float64), pool.astype(np.float64)
    for query, label, own in zip(queries, query_labels, own_rows, strict=True):
        found = []
        for row, (vector, other) in enumerate(zip(pool, pool_labels, strict=True)):
            wanted = {
                "few_shot": True,
                "inter_class": other != label,
                "intra_class": other == label,
            }[relation]
            if wanted and row != own:
                lengths = np.linalg.norm(query) * np.linalg.norm(vector)
                cosine = round(float(query @ vector / lengths), 7)
                found.append((cosine if relation == "intra_class" else -cosine, row, cosine))
        best = sorted(found)[:count]
        rows.append([row for _, row, _ in best])
        similarities.append([cosine for _, _, cosine in best])
    return np.asarray(rows), np.asarray(similarities)


def embedded(seed, n=60, queries=25, width=4, categories=3):
    """Every direction three times, with different lengths; some queries are in the pool."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((n // 3, width)).astype(np.float32)
    pool = directions[rng.permutation(n) % len(directions)] * 2.0 ** rng.integers(-9, 9, (n, 1))
    pool = pool.astype(np.float32)
    labels = rng.integers(0, categories, n)
    inside = rng.choice(n, queries // 2, replace=False)
    others = rng.standard_normal((queries - len(inside), width)).astype(np.float32)
    return {
        "queries": np.concatenate([pool[inside], others]),
        "pool": pool,
        "query_labels": np.concatenate([labels[inside], np.arange(len(others)) % categories]),
        "pool_labels": labels,
        "own_rows": np.concatenate([inside, np.full(len(others), -1)]),
    }


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_a_plain_search_including_ties(relation, seed):
    given = embedded(seed)
    rows, similarities = neighbours(**given, count=5, relation=relation)
    wanted, cosines = twin(**given, count=5, relation=relation)
    assert rows.dtype == np.int32 and similarities.dtype == np.float32
    assert np.array_equal(rows, wanted)
    assert np.allclose(similarities, cosines, atol=1e-6)
    ties = (np.diff(similarities) == 0).sum()
    assert ties > 20, "the data must have ties to break"


@pytest.mark.parametrize("relation", RELATIONS)
def test_relations_restrict_the_candidates(relation):
    given = embedded(2)
    rows, similarities = neighbours(**given, count=6, relation=relation)
    assert not (rows == given["own_rows"][:, None]).any()
    assert all(len(set(row)) == len(row) for row in rows.tolist())
    same = given["pool_labels"][rows] == given["query_labels"][:, None]
    steps = np.diff(similarities)
    if relation == "intra_class":
        assert same.all() and (steps >= 0).all()
    else:
        assert (steps <= 0).all()
        assert same.any() if relation == "few_shot" else not same.any()


@pytest.mark.parametrize("relation", RELATIONS)
def test_block_size_and_order_do_not_matter(relation):
    rng = np.random.default_rng(3)
    pool = rng.standard_normal((301, 37)).astype(np.float32)
    pool[150:170] = pool[10]  # copies have bitwise equal similarities for any block
    labels = np.arange(301) % 4
    own_rows = np.arange(301)
    given = (pool, 7, relation, labels, labels, own_rows)
    rows, similarities = neighbours(pool, *given, block=301)
    for block in (1, 2, 100):
        again = neighbours(pool, *given, block=block)
        assert np.array_equal(again[0], rows) and np.array_equal(again[1], similarities)
    order = rng.permutation(301)
    again = neighbours(pool[order], pool, 7, relation, labels[order], labels, order, block=64)
    assert np.array_equal(again[0], rows[order]) and np.array_equal(again[1], similarities[order])
    longer = neighbours(pool * 3, *given)
    assert np.array_equal(longer[0], rows), "the length of an embedding does not count"


def test_ties_go_to_the_lower_row():
    rng = np.random.default_rng(4)
    pool = rng.standard_normal((999, 129)).astype(np.float32)
    copies = [3, 500, 996, 997, 998]
    pool[copies] = pool[3]
    labels = np.zeros(999, int)
    rows, similarities = neighbours(pool[[3]], pool, 4, "few_shot", [0], labels, [3])
    assert rows.tolist() == [copies[1:]]
    assert similarities == pytest.approx(1)


def test_a_query_of_another_split_may_match_its_copy():
    """Only the query's own row is excluded, not near duplicates."""
    given = embedded(5)
    given["own_rows"] = np.full_like(given["own_rows"], -1)
    _, similarities = neighbours(**given, count=1, relation="few_shot")
    assert similarities[:12] == pytest.approx(1)
    assert (similarities[12:] < 1).all()


def test_few_shot_needs_no_category_of_the_query():
    given = embedded(6)
    rows, _ = neighbours(**given, count=3, relation="few_shot")
    given["query_labels"] = np.full_like(given["query_labels"], -1)
    again, _ = neighbours(**given, count=3, relation="few_shot")
    assert np.array_equal(rows, again)


def test_no_queries_give_no_neighbours():
    given = embedded(7)
    for name in ("queries", "query_labels", "own_rows"):
        given[name] = given[name][:0]
    rows, similarities = neighbours(**given, count=3, relation="intra_class")
    assert rows.shape == similarities.shape == (0, 3)


def test_available_counts_the_candidates():
    labels = np.asarray([0, 0, 0, 1, 2, 2])
    given = ([0, 1, 2, 3], labels, [0, 3, -1, -1])
    assert available("few_shot", *given).tolist() == [5, 5, 6, 6]
    assert available("inter_class", *given).tolist() == [3, 5, 4, 6]
    assert available("intra_class", *given).tolist() == [2, 0, 2, 0]


def test_a_category_too_small_is_named():
    """A class with one image has no other image of the same class."""
    pool = np.eye(4, dtype=np.float32)
    labels = np.asarray([0, 0, 0, 1])
    arguments = (pool, pool, 1, "intra_class", labels, labels, np.arange(4))
    with pytest.raises(DataError, match=r"queries, row 3: the pool has 0 image\(s\) for intra"):
        neighbours(*arguments)
    with pytest.raises(DataError, match="row 0: the pool has 1"):
        neighbours(pool, pool, 2, "inter_class", labels, labels, np.arange(4))
    rows, _ = neighbours(pool[:3], pool, 2, "intra_class", labels[:3], labels, np.arange(3))
    assert rows.tolist() == [[1, 2], [0, 2], [0, 1]]


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("pool", 0.0, "pool, row 4: the embedding is zero"),
        ("pool", np.nan, "pool, row 4: the embedding is not finite"),
        ("queries", np.inf, "queries, row 4: the embedding is not finite"),
        ("queries", 0.0, "queries, row 4: the embedding is zero"),
    ],
)
def test_zero_and_non_finite_embeddings_are_named(where, value, said):
    given = embedded(8)
    given[where] = given[where].copy()
    given[where][4] = value
    with pytest.raises(DataError, match=said):
        neighbours(**given, count=2, relation="few_shot")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"relation": "nearest"}, "relation must be one of few_shot"),
        ({"count": 0}, "count and block must be 1 or more"),
        ({"queries": np.ones((25, 9), np.float32)}, "of 9 numbers, the pool of 4"),
        ({"pool": np.ones(60, np.float32)}, r"pool: must be a matrix.*\(60,\)"),
        ({"queries": np.ones((3, 4), np.float32)}, "queries: 3 embeddings, but 25 labels"),
        ({"pool_labels": np.zeros(61, int)}, "pool: 60 embeddings, but 61 labels"),
        ({"own_rows": np.full(25, 60)}, "own_rows, row 0: 60 is not the query's own row"),
        ({"own_rows": np.full(25, -2)}, "own_rows, row 0: -2 is not"),
        ({"own_rows": np.full(24, -1)}, r"own_rows has shape \(24,\)"),
    ],
)
def test_invalid_arguments_are_named(changes, said):
    given = {**embedded(9), "count": 2, "relation": "few_shot", **changes}
    with pytest.raises(DataError, match=said):
        neighbours(**given)


def test_a_row_of_another_category_is_not_the_query():
    given = embedded(10)
    given["own_rows"] = np.roll(given["own_rows"], 1)
    with pytest.raises(DataError, match="not the query's own row"):
        neighbours(**given, count=1, relation="intra_class")

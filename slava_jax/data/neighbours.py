"""Similarity sampling (section 4.4): selects the training images shown together with an image.

Images are compared by the cosine similarity of their `<cls>` embeddings. The pool is the training
split only, so images of other splits can never be chosen. Near duplicates are not filtered, since
the method does not exclude them.
"""

from collections.abc import Iterator

import numpy as np

from slava_jax.data.datasets.base import DataError

RELATIONS = ("few_shot", "inter_class", "intra_class")

# Coordinates of the unit vectors are multiples of this. Products of two are then multiples of
# 2^-52, which float64 sums without rounding up to 2, in any order. Equal images therefore have
# equal similarities for any block size and matrix library.
_STEP = 2.0**-26


def neighbours(
    queries: np.ndarray,
    pool: np.ndarray,
    count: int,
    relation: str,
    query_labels: np.ndarray,
    pool_labels: np.ndarray,
    own_rows: np.ndarray,
    block: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the pool images that are in `relation` to each query, by exact cosine similarity.

    Args:
      queries: float32[q, D], image embeddings from any split.
      pool: float32[n, D], image embeddings of the training split, from the same encoder.
      count: images per query, 1 or more.
      relation: 'few_shot', the most similar images of any category; 'inter_class', the most similar
        images of other categories; 'intra_class', the least similar images of the same category.
      query_labels, pool_labels: int[q], int[n], categories. Ignored for few_shot, where an image
        without a category may have any number.
      own_rows: int[q], the query's own row in the pool, which is never chosen; -1 if the query is
        not in the pool.
      block: queries compared at once; memory is about 30 bytes x block x n.

    Returns:
      int32[q, count], rows of the pool, and float32[q, count], their similarities, best first (for
      intra_class, the least similar). Ties go to the lower row.

    Raises:
      DataError: an embedding is zero or not finite, shapes do not match, or a query has fewer than
        `count` images in that relation (see `available`).
    """
    if count < 1 or block < 1:
        raise DataError(f"count and block must be 1 or more, are {count} and {block}")
    there = available(relation, query_labels, pool_labels, own_rows)
    queries, pool = _unit(queries, "queries"), _unit(pool, "pool")
    if queries.shape[1] != pool.shape[1]:
        raise DataError(
            f"queries have embeddings of {queries.shape[1]} numbers, the pool of {pool.shape[1]}; "
            "compute both with the same encoder"
        )
    for name, rows, labels in (("queries", queries, query_labels), ("pool", pool, pool_labels)):
        if len(rows) != len(labels):
            raise DataError(f"{name}: {len(rows)} embeddings, but {len(labels)} labels")
    if len(there) and there.min() < count:
        worst = int(there.argmin())
        raise DataError(
            f"queries, row {worst}: the pool has {there[worst]} image(s) for {relation}, fewer "
            f"than {count}; lower the count or drop queries with too few (see `available`)"
        )
    rows = np.empty((len(queries), count), np.int32)
    similarities = np.empty((len(queries), count), np.float32)
    for part in _blocks(len(queries), block):
        found = queries[part] @ pool.T
        goodness = -found if relation == "intra_class" else found.copy()
        goodness[~_allowed(relation, query_labels[part], pool_labels, own_rows[part])] = -np.inf
        rows[part] = _best(goodness, count)
        similarities[part] = np.take_along_axis(found, rows[part], 1)
    return rows, similarities


def available(
    relation: str, query_labels: np.ndarray, pool_labels: np.ndarray, own_rows: np.ndarray
) -> np.ndarray:
    """Counts the pool images that are in `relation` to each query.

    Args: see `neighbours`.

    Returns:
      int64[q]. May be 0 for a category with one image, or if there is only one category.

    Raises:
      DataError: the relation is unknown, or `own_rows` is not a row of the pool or has another
        category.
    """
    if relation not in RELATIONS:
        raise DataError(f"relation must be one of {', '.join(RELATIONS)}, is {relation!r}")
    query_labels, pool_labels, own_rows = map(np.asarray, (query_labels, pool_labels, own_rows))
    if own_rows.shape != query_labels.shape:
        raise DataError(f"own_rows has shape {own_rows.shape}, query_labels {query_labels.shape}")
    wrong = (own_rows < -1) | (own_rows >= len(pool_labels))
    inside = np.where(wrong, -1, own_rows) >= 0
    if relation != "few_shot":
        wrong[inside] = pool_labels[own_rows[inside]] != query_labels[inside]
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"own_rows, row {row}: {own_rows[row]} is not the query's own row among the "
            f"{len(pool_labels)} of the pool; give that row, or -1 if the query is not in the pool"
        )
    if relation == "few_shot":
        return len(pool_labels) - inside.astype(np.int64)
    labels, counts = np.unique(pool_labels, return_counts=True)
    sizes = dict(zip(labels.tolist(), counts.tolist(), strict=True))
    same = np.asarray([sizes.get(label, 0) for label in query_labels.tolist()], np.int64)
    return same - inside if relation == "intra_class" else len(pool_labels) - same


def _unit(embeddings: np.ndarray, name: str) -> np.ndarray:
    """Returns float64[n, D], rows normalised to unit length and rounded to multiples of _STEP."""
    rows = np.asarray(embeddings, np.float64)
    if rows.ndim != 2:
        raise DataError(f"{name}: must be a matrix of embeddings, has shape {rows.shape}")
    finite = np.isfinite(rows).all(1)
    lengths = np.linalg.norm(np.where(finite[:, None], rows, 1.0), axis=1)
    bad = ~finite | (lengths == 0)
    if bad.any():
        row = int(bad.argmax())
        what = "is zero" if finite[row] else "is not finite"
        raise DataError(
            f"{name}, row {row}: the embedding {what}, so it has no cosine similarity; check that "
            "image and whether the vision encoder is trained"
        )
    return np.rint(rows / lengths[:, None] / _STEP) * _STEP


def _allowed(relation, query_labels, pool_labels, own_rows) -> np.ndarray:
    """Returns bool[q, n], the pool images that may be chosen."""
    if relation == "few_shot":
        allowed = np.ones((len(query_labels), len(pool_labels)), bool)
    else:
        same = np.asarray(query_labels)[:, None] == np.asarray(pool_labels)
        allowed = same if relation == "intra_class" else ~same
    inside = np.flatnonzero(np.asarray(own_rows) >= 0)
    allowed[inside, np.asarray(own_rows)[inside]] = False
    return allowed


def _best(goodness: np.ndarray, count: int) -> np.ndarray:
    """Returns int[q, count], the columns of each row's largest values, in descending order; ties
    go to the leftmost.
    """
    worst = np.partition(goodness, goodness.shape[1] - count, axis=1)[:, -count]
    chosen = np.empty((len(goodness), count), np.int32)
    for row, (values, least) in enumerate(zip(goodness, worst, strict=True)):
        candidates = np.flatnonzero(values >= least)
        chosen[row] = candidates[np.argsort(-values[candidates], kind="stable")[:count]]
    return chosen


def _blocks(rows: int, size: int) -> Iterator[slice]:
    for start in range(0, rows, size):
        yield slice(start, start + size)

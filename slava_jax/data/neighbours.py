"""Similarity sampling (section 4.4): which training images go with an image into a prompt.

Images are compared by the cosine of their `<cls>` embeddings. The pool is the training split and
nothing else, so that no image of another split can be chosen, whatever the queries are.
Near duplicates are not filtered: an image beside its own copy is what the method asks for.
"""

from collections.abc import Iterator

import numpy as np

from slava_jax.data.datasets.base import DataError

RELATIONS = ("few_shot", "inter_class", "intra_class")

# Coordinates of the unit vectors are multiples of this. Products of two are then multiples of
# 2^-52, and a float64 adds such numbers up to 2 without rounding, in any order: whatever the
# blocks and the library of the matrix product, equal images have equal similarities.
_STEP = 2.0**-26


def neighbours(
    queries: np.ndarray,
    pool: np.ndarray,
    count: int,
    relation: str,
    query_labels: np.ndarray,
    pool_labels: np.ndarray,
    itself: np.ndarray,
    block: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """The images of the pool that stand in `relation` to each query, by exact cosine similarity.

    Args:
      queries: float32[q, D], embeddings of any split's images.
      pool: float32[n, D], embeddings of the training split's images, of the same encoder.
      count: images for each query, 1 or more.
      relation: 'few_shot', the most similar of any category; 'inter_class', the most similar of
        other categories; 'intra_class', the least similar of the query's own category.
      query_labels, pool_labels: int[q], int[n], categories. few_shot does not look at them: an
        image without a category may have any number there.
      itself: int[q], row of the pool that is the query itself, which is never chosen; -1 where
        the query is not in the pool.
      block: queries compared at once; memory is about 30 bytes x block x n.

    Returns:
      int32[q, count], rows of the pool, and float32[q, count], their similarities. The best
      stands first: for intra_class the least similar. Of equal ones the first row wins.

    Raises:
      DataError: an embedding is zero or not finite, shapes that do not fit, or a query has
        fewer than `count` images in that relation (`available` says how many).
    """
    if count < 1 or block < 1:
        raise DataError(f"count and block must be 1 or more, are {count} and {block}")
    there = available(relation, query_labels, pool_labels, itself)
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
            f"than {count}; ask for fewer, or leave out queries that have too few (`available`)"
        )
    rows = np.empty((len(queries), count), np.int32)
    similarities = np.empty((len(queries), count), np.float32)
    for part in _blocks(len(queries), block):
        found = queries[part] @ pool.T
        goodness = -found if relation == "intra_class" else found.copy()
        goodness[~_allowed(relation, query_labels[part], pool_labels, itself[part])] = -np.inf
        rows[part] = _best(goodness, count)
        similarities[part] = np.take_along_axis(found, rows[part], 1)
    return rows, similarities


def available(
    relation: str, query_labels: np.ndarray, pool_labels: np.ndarray, itself: np.ndarray
) -> np.ndarray:
    """How many images of the pool stand in `relation` to each query.

    Args: those of `neighbours`.

    Returns:
      int64[q]. With a category of one image, or one category alone, some may be 0.

    Raises:
      DataError: an unknown relation, or `itself` names no row of the pool or one of another
        category.
    """
    if relation not in RELATIONS:
        raise DataError(f"relation must be one of {', '.join(RELATIONS)}, is {relation!r}")
    query_labels, pool_labels, itself = map(np.asarray, (query_labels, pool_labels, itself))
    if itself.shape != query_labels.shape:
        raise DataError(f"itself has shape {itself.shape}, query_labels {query_labels.shape}")
    wrong = (itself < -1) | (itself >= len(pool_labels))
    inside = np.where(wrong, -1, itself) >= 0
    if relation != "few_shot":
        wrong[inside] = pool_labels[itself[inside]] != query_labels[inside]
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"itself, row {row}: {itself[row]} is not the query's own row among the "
            f"{len(pool_labels)} of the pool; give that row, or -1 where the pool lacks the query"
        )
    if relation == "few_shot":
        return len(pool_labels) - inside.astype(np.int64)
    labels, counts = np.unique(pool_labels, return_counts=True)
    sizes = dict(zip(labels.tolist(), counts.tolist(), strict=True))
    same = np.asarray([sizes.get(label, 0) for label in query_labels.tolist()], np.int64)
    return same - inside if relation == "intra_class" else len(pool_labels) - same


def _unit(embeddings: np.ndarray, name: str) -> np.ndarray:
    """float64[n, D], rows of length one in multiples of _STEP."""
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
            f"{name}, row {row}: the embedding {what} and is similar to nothing; look at that "
            "image, and whether the vision encoder is trained"
        )
    return np.rint(rows / lengths[:, None] / _STEP) * _STEP


def _allowed(relation, query_labels, pool_labels, itself) -> np.ndarray:
    """bool[q, n], what may be chosen."""
    if relation == "few_shot":
        allowed = np.ones((len(query_labels), len(pool_labels)), bool)
    else:
        same = np.asarray(query_labels)[:, None] == np.asarray(pool_labels)
        allowed = same if relation == "intra_class" else ~same
    inside = np.flatnonzero(np.asarray(itself) >= 0)
    allowed[inside, np.asarray(itself)[inside]] = False
    return allowed


def _best(goodness: np.ndarray, count: int) -> np.ndarray:
    """int[q, count], columns of the largest of each row, the largest first, then the leftmost."""
    worst = np.partition(goodness, goodness.shape[1] - count, axis=1)[:, -count]
    chosen = np.empty((len(goodness), count), np.int32)
    for row, (values, least) in enumerate(zip(goodness, worst, strict=True)):
        candidates = np.flatnonzero(values >= least)
        chosen[row] = candidates[np.argsort(-values[candidates], kind="stable")[:count]]
    return chosen


def _blocks(rows: int, size: int) -> Iterator[slice]:
    for start in range(0, rows, size):
        yield slice(start, start + size)

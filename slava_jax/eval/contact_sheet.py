"""A contact sheet of similarity sampling (section 4.4): each query and its chosen neighbours."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from slava_jax.data.datasets.base import ImageSet
from slava_jax.data.images import read_image
from slava_jax.data.neighbours import available, neighbours
from slava_jax.eval.plots import INK, MUTED, STRONG

OTHER = "#a8501b"  # for categories other than the query's
_MARGIN, _GAP, _GROUP_GAP = 16, 8, 28  # pixels
_LINE, _SIZE = 16, 12  # pixels: line height, font size


HEADINGS = {
    "few_shot": "most similar in the training set (few-shot)",
    "inter_class": "most similar in other categories (inter-class)",
    "intra_class": "least similar in its own category (intra-class)",
}


def neighbours_sheet(
    queries: ImageSet, pool: ImageSet, embeddings: tuple[np.ndarray, np.ndarray], count: int = 3
) -> Image.Image | None:
    """The contact sheet with one query per category, in every relation.

    Args:
      queries: from a split other than `pool`, which is the training split.
      embeddings: float32[n, D] of the queries and of the pool.
      count: neighbours per query; a category without enough neighbours in the pool has no row.

    Returns:
      An RGB picture; `None` if no category has a row.
    """
    _, rows = np.unique(queries.labels, return_index=True)
    there = [
        available(relation, queries.labels[rows], pool.labels, np.full(len(rows), -1))
        for relation in HEADINGS
    ]
    rows = rows[np.min(there, axis=0) >= count]
    if not len(rows):
        return None
    apart = np.full(len(rows), -1)  # no query is in the pool
    chosen = {
        heading: neighbours(
            embeddings[0][rows], embeddings[1], count, relation, queries.labels[rows], pool.labels,
            apart,
        )
        for relation, heading in HEADINGS.items()
    }  # fmt: skip
    return contact_sheet(queries, rows.tolist(), pool, chosen)


def contact_sheet(
    queries: ImageSet,
    query_rows: Sequence[int],
    pool: ImageSet,
    chosen: Mapping[str, tuple[np.ndarray, np.ndarray]],
    side: int = 128,
) -> Image.Image:
    """One row per query: its picture, then the neighbours of each relation, best first.

    Below every picture are its category, in another colour if it is not the query's, and its
    similarity to the query.

    Args:
      queries: the image set of the queries; query_rows: m rows of it.
      pool: the image set of the neighbours.
      chosen: heading -> rows int[m, count] of the pool, and their similarities float[m, count]
        (data/neighbours.py).
      side: of a picture, in pixels.

    Returns:
      An RGB picture.
    """
    font = ImageFont.load_default(_SIZE)
    groups = {"query": 1, **{name: rows.shape[1] for name, (rows, _) in chosen.items()}}
    lefts = _lefts(list(groups.values()), side)
    widths = [count * (side + _GAP) - _GAP for count in groups.values()]
    headings = [_wrapped(name, width, font) for name, width in zip(groups, widths, strict=True)]
    top = _MARGIN + max(map(len, headings)) * _LINE + _GAP
    height = side + 2 * _LINE + _GAP
    size = (lefts[-1][-1] + side + _MARGIN, top + len(query_rows) * height + _MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for (left, *_), lines in zip(lefts, headings, strict=True):
        draw.text((left, _MARGIN), "\n".join(lines), INK, font, spacing=_LINE - _SIZE)
    for line, query in enumerate(query_rows):
        own = queries.category(query)
        tiles = [(queries, query, "")]
        for rows, similarities in chosen.values():
            pairs = zip(rows[line], similarities[line], strict=True)
            tiles += [(pool, int(row), f"{similarity:.3f}") for row, similarity in pairs]
        for left, (images, row, note) in zip(itertools.chain(*lefts), tiles, strict=True):
            y = top + line * height
            sheet.paste(_picture(images, row, side), (left, y))
            category = images.category(row)
            color = STRONG if category == own else OTHER
            draw.text((left, y + side + 3), _fitted(category, side, font), color, font)
            draw.text((left, y + side + 3 + _LINE), note, MUTED, font)
    return sheet


def _lefts(counts: Sequence[int], side: int) -> list[list[int]]:
    """Left edges of the pictures in every group."""
    lefts, x = [], _MARGIN
    for count in counts:
        lefts.append([x + i * (side + _GAP) for i in range(count)])
        x = lefts[-1][-1] + side + _GROUP_GAP
    return lefts


def _picture(images: ImageSet, row: int, side: int) -> Image.Image:
    return Image.fromarray(read_image(images.encoded(row), side, 3, images.keys[row]))


def _fitted(category: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The name with spaces, truncated to fit the width."""
    text = category.replace("_", " ")
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines

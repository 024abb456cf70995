"""Finds the instrument's data bar: the band of text below (or above) the picture of the specimen.

A bar is told by what it is, not by where its maker puts it: rows of one even grey, behind which the
picture starts abruptly, and on them crisp small marks, the text.
"""

import numpy as np

_SHORTEST, _TALLEST = 0.02, 0.25  # of all rows
_LEGIBLE = 8  # rows, at least
_MARGIN = 0.12  # of all rows; a bar may stand so far from the border, with picture behind it
_STRAY = 8  # grey levels by which JPEG may change the ground of a bar
_INK = 64  # grey levels between the ground and what is written on it, at least
_RULE = 6  # rows of a frame or line around a bar, at most
_MARKS = 4  # pieces of text that a row of text has, at least


def picture_rows(grey: np.ndarray) -> tuple[int, int]:
    """The rows [top, bottom) that show the specimen; all of them where no bar is found.

    A bar is at most a quarter of the picture high and stands in its lowest or highest rows. What
    is between a bar and the border goes with it. A bar without text, and text without a ground of
    its own (letters laid over the picture), are not found.

    Args:
      grey: uint8[rows, columns].
    """
    rows = len(grey)
    below, above = _bar_start(grey), _bar_start(grey[::-1])
    if below is not None and above is not None and rows - above >= below:
        return 0, rows  # nothing would be left: a page of text
    return 0 if above is None else rows - above, rows if below is None else below


def _bar_start(grey: np.ndarray) -> int | None:
    """The first row of a bar at the bottom, None where there is none."""
    rows = len(grey)
    first = rows - int((_TALLEST + _MARGIN) * rows) - 2 * _RULE
    if first < 0:
        return None  # a stamp of a picture
    low = grey[first:].astype(np.int16)
    middle = np.median(low, axis=1)
    even = (np.abs(low - middle[:, None]) <= _STRAY).mean(1)
    levels, counts = np.unique(middle[even > 0.5].astype(int), return_counts=True)
    for level in levels[np.argsort(-counts, kind="stable")][:6]:
        start, end = _last_run((np.abs(low - level) <= _STRAY).mean(1) > 0.5, max(3, rows // 60))
        fits = max(_LEGIBLE, _SHORTEST * rows) <= end - start <= _TALLEST * rows
        if not fits or first + end < (1 - _MARGIN) * rows or start < _RULE:
            continue
        if _is_bar(low[start:end], level):
            frame = np.flatnonzero(even[start - _RULE : start] <= 0.9)
            return first + start - _RULE + (int(frame[-1]) + 1 if len(frame) else _RULE)
    return None


def _last_run(belongs: np.ndarray, gap: int) -> tuple[int, int]:
    """[start, end) of the last run of True; fewer than `gap` False in a row do not end it."""
    at = np.flatnonzero(belongs)
    if not len(at):
        return 0, 0
    breaks = np.flatnonzero(np.diff(at) > gap)
    return int(at[breaks[-1] + 1] if len(breaks) else at[0]), int(at[-1]) + 1


def _is_bar(band: np.ndarray, level: int) -> bool:
    """Whether the band has a straight edge and text on it."""
    away = np.abs(band - level)
    edge = (away[1:3] <= _STRAY).mean()  # a dark region of the specimen begins gradually
    ink = away > _INK
    marks = (ink[:, 1:] & ~ink[:, :-1]).sum(1)
    lines = np.sort(marks)[-max(3, len(band) // 7)]  # a seventh of the rows have as many
    blurred = (away > _STRAY) & ~ink
    return edge > 0.8 and lines >= _MARKS and blurred.sum() <= 2 * ink.sum()

"""Finds the instrument's data bar: the band of text below (or above) the picture of the specimen.

A bar is recognised by its appearance, not by the manufacturer's layout: rows of one uniform grey
level with an abrupt edge to the picture, and small sharp marks on them, the text.
"""

import numpy as np

_SHORTEST, _TALLEST = 0.02, 0.25  # fractions of all rows
_LEGIBLE = 8  # least height, rows
_MARGIN = 0.12  # largest distance of a bar from the border, as a fraction of all rows
_STRAY = 8  # grey levels by which JPEG may change a bar's background
_INK = 64  # least difference between background and text, grey levels
_RULE = 6  # most rows of a frame or line around a bar
_MARKS = 4  # least number of marks in a row of text


def picture_rows(grey: np.ndarray) -> tuple[int, int]:
    """Returns the rows [top, bottom) that show the specimen; all rows if no bar is found.

    A bar is at most a quarter of the image height and close to the upper or lower border. Rows
    between a bar and the border are removed with it. Bars without text, and text without its own
    background (overlaid on the picture), are not found.

    Args:
      grey: uint8[rows, columns].
    """
    rows = len(grey)
    below, above = _bar_start(grey), _bar_start(grey[::-1])
    if below is not None and above is not None and rows - above >= below:
        return 0, rows  # nothing would be left, as for a page of text
    return 0 if above is None else rows - above, rows if below is None else below


def _bar_start(grey: np.ndarray) -> int | None:
    """Returns the first row of a bar at the bottom, None if there is none."""
    rows = len(grey)
    first = rows - int((_TALLEST + _MARGIN) * rows) - 2 * _RULE
    if first < 0:
        return None  # the picture is too small
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
    """Returns [start, end) of the last run of True, allowing gaps of fewer than `gap` rows."""
    at = np.flatnonzero(belongs)
    if not len(at):
        return 0, 0
    breaks = np.flatnonzero(np.diff(at) > gap)
    return int(at[breaks[-1] + 1] if len(breaks) else at[0]), int(at[-1]) + 1


def _is_bar(band: np.ndarray, level: int) -> bool:
    """Returns whether the band has a straight edge and contains text."""
    away = np.abs(band - level)
    edge = (away[1:3] <= _STRAY).mean()  # a dark region of the specimen begins gradually
    ink = away > _INK
    marks = (ink[:, 1:] & ~ink[:, :-1]).sum(1)
    lines = np.sort(marks)[-max(3, len(band) // 7)]  # a seventh of the rows have at least this many
    blurred = (away > _STRAY) & ~ink
    return edge > 0.8 and lines >= _MARKS and blurred.sum() <= 2 * ink.sum()

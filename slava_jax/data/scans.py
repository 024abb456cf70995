"""How many scans a JPEG file has, each of which goes over the whole picture when it is decoded.

A progressive file needs about ten. Thousands fit into a small file and take hours.
"""

import re

from slava_jax.data.picture import MAX_PIXELS, ImageError

_MOST = 200
_MOST_PIXELS = 20 * MAX_PIXELS  # of all scans together
# Not the zero after a data byte 0xff, the marks between parts of a scan, or fill bytes.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_TEMPORARY, _START, _END, _SCAN = 0x01, 0xD8, 0xD9, 0xDA


def check_scans(name: str, content, width: int, height: int) -> None:
    """Checks the scans of the first picture in a JPEG file, before it is decoded.

    Args:
      name: of the file, for the message.
      content: the file's bytes, or a memory map of it.

    Raises:
      ImageError: there are more than a program would write.
    """
    most = min(_MOST, _MOST_PIXELS // (width * height))
    if _scans(content, most) > most:
        raise ImageError(
            f"{name}: a JPEG file of more than {most} scans, which would take too long to decode; "
            "save it again"
        )


def _scans(content, most: int) -> int:
    """The number of scans, at most `most` + 1."""
    place, scans = 2, 0
    while scans <= most and (found := _MARKER.search(content, place)):
        kind, place = found[1][0], found.end()
        if kind == _END:
            break
        scans += kind == _SCAN
        if kind not in (_TEMPORARY, _START):
            place += int.from_bytes(content[place : place + 2])  # the segment's length
    return scans

"""Whether the data of a PNG file reach its last row. Pillow leaves the rows after them black."""

import struct
import zlib

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by the kind of colours
# First column and row, and the steps between them, of the passes over an interlaced picture.
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
_PIECE = 1 << 20  # bytes that are held at once


def has_all_rows(content) -> bool:
    """Whether the compressed data of a PNG file are as long as its header says.

    Args:
      content: the bytes of a file that Pillow decoded, or a memory map of it.
    """
    width, height, bits, kind, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    wanted = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            wanted += rows * (1 + -(-columns * bits * _SAMPLES[kind] // 8))
    return _inflated(content, wanted) >= wanted


def _inflated(content, most: int) -> int:
    """The length of the decompressed data, counted up to `most`."""
    unpack, length, place = zlib.decompressobj(), 0, 8
    while length < most and place + 12 <= len(content):
        size, name = struct.unpack_from(">I4s", content, place)
        packed = content[place + 8 : place + 8 + size] if name == b"IDAT" else b""
        while packed and length < most:
            length += len(unpack.decompress(packed, _PIECE))
            packed = unpack.unconsumed_tail
        place += size + 12
    return length

"""Writes TIFF files tag by tag, for those that no library writes."""

import struct

SHORT, LONG, RATIONAL, ASCII, UNDEFINED = 3, 4, 5, 2, 7
_FORMATS = {SHORT: "H", LONG: "I"}


def tiff_bytes(width, height, bits, data, tags=(), order="<", counts=None) -> bytes:
    """A TIFF file of one grey page.

    Args:
      bits: per sample.
      data: the bytes of each strip.
      tags: (code, type, values or bytes), which replace or complement the usual ones.
      counts: code -> a number of values that is stated instead of the true one.
    """
    offsets, start = [], 8
    for strip in data:
        offsets.append(start)
        start += len(strip)
    start += start % 2
    known = {
        256: (SHORT, [width]), 257: (SHORT, [height]), 258: (SHORT, [bits]), 259: (SHORT, [1]),
        262: (SHORT, [1]), 273: (LONG, offsets), 277: (SHORT, [1]), 278: (SHORT, [height]),
        279: (LONG, [len(strip) for strip in data]),
    }  # fmt: skip
    known |= {code: (kind, values) for code, kind, values in tags}
    after, entries, rest = start + 2 + 12 * len(known) + 4, b"", b""
    for code, (kind, values) in sorted(known.items()):
        raw = values
        if not isinstance(values, bytes):
            raw = struct.pack(f"{order}{len(values)}{_FORMATS[kind]}", *values)
        size = {SHORT: 2, LONG: 4, RATIONAL: 8}.get(kind, 1)
        count = (counts or {}).get(code, len(raw) // size)
        value = raw.ljust(4, b"\0")
        if len(raw) > 4:
            value = struct.pack(f"{order}I", after + len(rest))
            rest += raw + b"\0" * (len(raw) % 2)
        entries += struct.pack(f"{order}HHI", code, kind, count) + value
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    body = b"".join(data).ljust(start - 8, b"\0") + struct.pack(f"{order}H", len(known))
    return head + body + entries + bytes(4) + rest

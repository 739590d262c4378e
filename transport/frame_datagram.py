"""DATAGRAM (RFC 9221 §4): bytes that are sent once, and are lost when their packet is. See `frame`."""

from __future__ import annotations

from typing import NamedTuple

from quicfs.transport import varint
from quicfs.transport.frame_type import FrameType, malformed

_LEN = 0x01


class DatagramFrame(NamedTuple):
    data: memoryview
    size: int
    """Of the whole frame, which max_datagram_frame_size bounds (§3)."""


def parse_datagram(buf: memoryview, pos: int, end: int) -> tuple[DatagramFrame, int]:
    start = pos - 1
    stop = end
    if buf[start] & _LEN:
        length, pos = varint.decode(buf, pos)
        stop = pos + length
    if stop > end or pos > end:
        malformed("DATAGRAM is cut off")
    return DatagramFrame(buf[pos:stop], stop - start), stop


def write_datagram_header(length: int) -> bytes:
    """All but the data, with their length."""
    return bytes((FrameType.DATAGRAM_LEN,)) + varint.encode(length)

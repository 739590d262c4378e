"""Frames about acknowledging: ACK (RFC 9000 §19.3), and what a sender wishes of it, ACK_FREQUENCY and IMMEDIATE_ACK
(draft-ietf-quic-ack-frequency-13 §4, §5). See `frame` for how codecs look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from quicfs.transport import varint
from quicfs.transport.frame_type import FrameType, malformed

EcnCounts: TypeAlias = tuple[int, int, int]
"""ECT(0), ECT(1), ECN-CE."""


class AckFrame(NamedTuple):
    ranges: list[tuple[int, int]]
    """(smallest, largest) of each run of packet numbers, the newest first; never empty."""
    ack_delay: int
    """As it stands in the frame, before the exponent is applied."""
    ecn: EcnCounts | None


def parse_ack(buf: memoryview, pos: int, end: int) -> tuple[AckFrame, int]:
    decode = varint.decode
    has_ecn = buf[pos - 1] == FrameType.ACK_ECN
    largest, pos = decode(buf, pos)
    ack_delay, pos = decode(buf, pos)
    count, pos = decode(buf, pos)
    length, pos = decode(buf, pos)
    smallest = largest - length
    if 2 * count > end - pos:
        malformed("ACK claims more ranges than the packet can hold")
    if smallest < 0:
        malformed("ACK range below packet number 0")  # §19.3.1
    ranges = [(smallest, largest)]
    try:
        for _ in range(count):  # at most half the packet's bytes, see above
            gap = buf[pos]
            length = buf[pos + 1]
            if gap < 0x40 and length < 0x40:
                pos += 2
            else:
                gap, pos = decode(buf, pos)
                length, pos = decode(buf, pos)
            largest = smallest - gap - 2
            smallest = largest - length
            if smallest < 0:
                malformed("ACK range below packet number 0")  # §19.3.1
            ranges.append((smallest, largest))
    except IndexError:
        malformed("ACK is cut off")
    ecn = None
    if has_ecn:
        ect0, pos = decode(buf, pos)
        ect1, pos = decode(buf, pos)
        ce, pos = decode(buf, pos)
        ecn = (ect0, ect1, ce)
    if pos > end:
        malformed("ACK is cut off")
    return AckFrame(ranges, ack_delay, ecn), pos


def write_ack(
    ranges: Sequence[tuple[int, int]], ack_delay_field: int, ecn: EcnCounts | None, max_size: int
) -> bytes:
    """ACK of `ranges`, (smallest, largest) with the newest first, not adjacent, in at most `max_size` bytes.

    The oldest ranges that do not fit are left out; empty when not even the newest fits.
    """
    encode = varint.encode
    smallest, largest = ranges[0]
    head = b"\x02" if ecn is None else b"\x03"
    head += encode(largest) + encode(ack_delay_field)
    first = encode(largest - smallest)
    tail = b"" if ecn is None else encode(ecn[0]) + encode(ecn[1]) + encode(ecn[2])
    room = max_size - len(head) - len(first) - len(tail) - varint.size(len(ranges) - 1)
    if room < 0:
        return b""
    parts = [head, b"", first]
    for low, high in ranges[1:] if len(ranges) > 1 else ():
        part = encode(smallest - high - 2) + encode(high - low)
        room -= len(part)
        if room < 0:
            break
        parts.append(part)
        smallest = low
    parts[1] = encode(len(parts) - 3)
    parts.append(tail)
    return b"".join(parts)


class AckFrequencyFrame(NamedTuple):
    sequence_number: int
    ack_eliciting_threshold: int
    """Ack-eliciting packets that may come without an ACK being sent."""
    max_ack_delay_us: int
    reordering_threshold: int
    """0: packets out of order are no reason for an ACK. 1: as in RFC 9000."""


def parse_ack_frequency(buf: memoryview, pos: int, end: int) -> tuple[AckFrequencyFrame, int]:
    values = []
    for _ in range(4):
        value, pos = varint.decode(buf, pos)
        values.append(value)
    if pos > end:
        malformed("ACK_FREQUENCY is cut off")
    return AckFrequencyFrame(*values), pos


def write_ack_frequency(
    sequence_number: int, ack_eliciting_threshold: int, max_ack_delay_us: int, reordering_threshold: int
) -> bytes:
    fields = (
        FrameType.ACK_FREQUENCY,
        sequence_number,
        ack_eliciting_threshold,
        max_ack_delay_us,
        reordering_threshold,
    )
    return b"".join(map(varint.encode, fields))


def parse_immediate_ack(buf: memoryview, pos: int, end: int) -> tuple[None, int]:
    return None, pos


def write_immediate_ack() -> bytes:
    return b"\x1f"

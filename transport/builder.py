"""Composing packets and datagrams: payloads within their room, headers, padding, protection."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from quicfs.transport import limits
from quicfs.transport.crypto import Keys
from quicfs.transport.packet import PacketType, long_header_size, write_long_header
from quicfs.transport.protection import TAG_LENGTH
from quicfs.transport.sent import Record

MIN_SAMPLED: Final = 4  # packet number and payload together (RFC 9001 §5.4.2)


class Transmit(NamedTuple):
    """One send: `data` is cut into datagrams of `segment_size` bytes, the last one may be shorter."""

    data: memoryview
    segment_size: int
    remote: Any
    local: Any
    ecn: int


def segments_per_send(segment_size: int) -> int:
    """How many datagrams of a train one system call takes."""
    return max(1, min(limits.GSO_SEGMENTS, limits.GSO_BYTES // segment_size))


class PacketBuilder:
    """The payload of one packet, and what has to be remembered of it."""

    __slots__ = ("eliciting", "parts", "records", "room")

    def __init__(self, room: int) -> None:
        self.room = room
        self.parts: list[bytes | memoryview] = []
        self.records: list[Record] = []
        self.eliciting = False

    def add(self, frame: bytes, record: Record | None, *, eliciting: bool = True) -> None:
        self.parts.append(frame)
        self.room -= len(frame)
        if record is not None:
            self.records.append(record)
        self.eliciting = self.eliciting or eliciting

    def add_with_data(self, header: bytes, data: memoryview, record: Record) -> None:
        self.parts.append(header)
        self.parts.append(data)
        self.room -= len(header) + len(data)
        self.records.append(record)
        self.eliciting = True

    def pad(self, count: int) -> None:
        self.parts.append(bytes(count))
        self.room -= count

    @property
    def empty(self) -> bool:
        return not self.parts

    def payload(self, pn_length: int) -> bytes:
        """The plaintext, long enough for a sample to be taken."""
        joined = b"".join(self.parts)
        if len(joined) + pn_length < MIN_SAMPLED:
            joined += bytes(MIN_SAMPLED - pn_length - len(joined))
        return joined


class LongPacket(NamedTuple):
    """A packet with a long header that waits to be sealed, since padding depends on what follows it."""

    packet_type: PacketType
    keys: Keys
    pn: int
    pn_length: int
    token: bytes
    builder: PacketBuilder


def long_packet_overhead(
    packet_type: PacketType, dcid: bytes, scid: bytes, token: bytes, pn_length: int
) -> int:
    """Bytes of a long-header packet that are not payload."""
    return long_header_size(packet_type, dcid, scid, token, pn_length) + TAG_LENGTH


def seal_long_packet(
    packet: LongPacket,
    version: int,
    dcid: bytes,
    scid: bytes,
    fixed_bit: int,
    out: memoryview,
    pos: int,
) -> int:
    """Write one long-header packet into `out` from `pos` on; returns its end."""
    payload = packet.builder.payload(packet.pn_length)
    header = write_long_header(
        packet.packet_type,
        version,
        dcid,
        scid,
        packet.token,
        packet.pn,
        packet.pn_length,
        packet.pn_length + len(payload) + TAG_LENGTH,
        fixed_bit,
    )
    prefix = header[: -packet.pn_length]
    return packet.keys.seal_run(out, pos, prefix, packet.pn, packet.pn_length, (payload,))

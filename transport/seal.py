"""Sealing for a connection: its headers, its keys, and word of it to the tracer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quicfs.transport.builder import LongPacket, seal_long_packet
from quicfs.transport.packet import FIXED_BIT, PacketType
from quicfs.transport.protection import TAG_LENGTH

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection


def short_overhead(conn: Connection, pn_length: int) -> int:
    """Bytes of a 1-RTT packet that are not payload."""
    return 1 + len(conn.peer_cids.current.cid) + pn_length + TAG_LENGTH


def seal_short(
    conn: Connection,
    now: float,
    buffer: memoryview,
    pos: int,
    first_pn: int,
    pn_length: int,
    payloads: Sequence[bytes],
) -> int:
    """Seal consecutive 1-RTT packets into `buffer` from `pos` on; returns their end."""
    keys = conn.application.keys_out
    assert keys is not None
    prefix = bytes((FIXED_BIT | conn.key_phases.phase | (pn_length - 1),)) + conn.peer_cids.current.cid
    end = keys.seal_run(buffer, pos, prefix, first_pn, pn_length, payloads)
    if conn.trace is not None:
        overhead = len(prefix) + pn_length + TAG_LENGTH
        conn.trace.packets_sent(now, PacketType.ONE_RTT, first_pn, payloads, overhead)
    return end


def seal_long(
    conn: Connection, now: float, packet: LongPacket, dcid: bytes, buffer: memoryview, pos: int
) -> int:
    """Seal one packet with a long header into `buffer` from `pos` on; returns its end."""
    end = seal_long_packet(packet, conn.version, dcid, conn.local_cid, buffer, pos)
    if conn.trace is not None:
        payload = packet.builder.payload(packet.pn_length)
        overhead = end - pos - len(payload)
        conn.trace.packets_sent(now, packet.packet_type, packet.pn, (payload,), overhead)
    return end

"""Sealing for a connection: its headers, its keys, and word of it to the tracer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from quicfs.transport import varint
from quicfs.transport.builder import LongPacket, seal_long_packet
from quicfs.transport.packet import PacketType
from quicfs.transport.plain_protection import stream_payloads
from quicfs.transport.protection import TAG_LENGTH
from quicfs.transport.sent import StreamRange

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection

_STREAM_OFF: Final = 0x0C  # STREAM with OFF, without LEN: the data end where the packet ends


def short_overhead(conn: Connection, pn_length: int, dcid: bytes | None = None) -> int:
    """Bytes of a 1-RTT packet that are not payload. `dcid` is the active path's if it is not given."""
    return 1 + len(conn.peer_cids.current.cid if dcid is None else dcid) + pn_length + TAG_LENGTH


def _short_prefix(conn: Connection, pn_length: int, dcid: bytes | None = None) -> bytes:
    if dcid is None:
        dcid = conn.peer_cids.current.cid
    return bytes((conn.grease.fixed_bit() | conn.key_phases.phase | (pn_length - 1),)) + dcid


def seal_short(
    conn: Connection,
    now: float,
    buffer: memoryview,
    pos: int,
    first_pn: int,
    pn_length: int,
    payloads: Sequence[bytes],
    dcid: bytes | None = None,
) -> int:
    """Seal consecutive 1-RTT packets into `buffer` from `pos` on; returns their end."""
    keys = conn.application.keys_out
    assert keys is not None
    prefix = _short_prefix(conn, pn_length, dcid)
    end = keys.seal_run(buffer, pos, prefix, first_pn, pn_length, payloads)
    if conn.trace is not None:
        overhead = len(prefix) + pn_length + TAG_LENGTH
        conn.trace.packets_sent(now, PacketType.ONE_RTT, first_pn, payloads, overhead)
    return end


def stream_head_length(stream_id: int) -> int:
    """Bytes of each of `seal_stream`'s payloads that are not stream data: type, ID, offset."""
    return 1 + varint.size(stream_id) + 8


def seal_stream(
    conn: Connection,
    now: float,
    buffer: memoryview,
    pos: int,
    first_pn: int,
    pn_length: int,
    bulk: StreamRange,
) -> int:
    """Seal consecutive 1-RTT packets that carry a range of a stream into `buffer` from `pos` on; returns their end."""
    keys = conn.application.keys_out
    send = bulk.stream.send
    assert keys is not None and send is not None
    head = bytes((_STREAM_OFF,)) + varint.encode(bulk.stream.stream_id)
    data = send.queue.view(bulk.offset, bulk.stop - bulk.offset)
    if conn.trace is not None:
        payloads = stream_payloads(head, bulk.offset, data, bulk.step)
        return seal_short(conn, now, buffer, pos, first_pn, pn_length, payloads)
    prefix = _short_prefix(conn, pn_length)
    return keys.seal_stream_run(buffer, pos, prefix, first_pn, pn_length, head, bulk.offset, data, bulk.step)


def seal_long(
    conn: Connection, now: float, packet: LongPacket, dcid: bytes, buffer: memoryview, pos: int
) -> int:
    """Seal one packet with a long header into `buffer` from `pos` on; returns its end."""
    early = packet.packet_type is PacketType.ZERO_RTT
    version = conn.versions.original if early else conn.version  # RFC 9369 §4.1
    end = seal_long_packet(packet, version, dcid, conn.local_cid, conn.grease.fixed_bit(), buffer, pos)
    if conn.trace is not None:
        payload = packet.builder.payload(packet.pn_length)
        overhead = end - pos - len(payload)
        conn.trace.packets_sent(now, packet.packet_type, packet.pn, (payload,), overhead)
    return end

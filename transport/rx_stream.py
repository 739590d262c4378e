"""Receiving a transfer: packets that go on where the last one ended are opened and processed in one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection

_STREAM_OFF: Final = 0x0C  # STREAM with OFF, without LEN: the data end where the packet ends


def continue_stream(
    conn: Connection, now: float, data: memoryview, segment_size: int, pn_offset: int, ecn: int
) -> int:
    """Take the 1-RTT packets at the beginning of `data` that hold nothing but the next bytes of the stream which
    `conn.continues` names; returns how many there were. Whatever else comes is left to `rx`.

    Opening tells: a packet of another key phase, with reserved bits, another number or another frame ends it.
    """
    space = conn.application
    phases = conn.key_phases
    if conn.continues is None or conn.trace is not None or phases.settling or space.keys_in is None:
        return 0
    stream_id, offset = conn.continues
    received = space.received
    pn = received.largest + 1
    head = bytes((_STREAM_OFF, stream_id))
    count, piece = space.keys_in.open_stream_run(
        data, segment_size, pn_offset, pn, phases.phase, head, offset
    )
    if not count:
        return 0
    conn.paths.arrival.dcid = bytes(data[1:pn_offset])
    conn.handle_stream_data(stream_id, offset, piece, False)
    conn.continues = stream_id, offset + len(piece)
    received.add(now, pn, pn + count)
    received.count_ecn(ecn, count)
    received.decide(now, count)
    conn.on_received(now)
    return count

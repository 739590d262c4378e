"""Receiving: a train is split into packets, opened, and its frames given to their rows in `frame_ops`.

In-order STREAM frames of a train become one piece before they reach their stream, and a train leads to at
most one decision about acknowledging.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final

from quicfs.transport import delivery, early_data, establish, key_update, limits, migration, versions
from quicfs.transport.errors import ProtocolViolation, TransportErrorCode
from quicfs.transport.frame import FRAME_CODECS, parse_frame, parse_stream, skip_padding_and_ping
from quicfs.transport.frame_ops import FRAME_OPS
from quicfs.transport.frame_type import FrameType
from quicfs.transport.packet import (
    FIXED_BIT,
    LONG_FORM,
    STATELESS_RESET_TOKEN_LENGTH,
    LongHeader,
    PacketType,
    check_retry,
    parse_long_header,
)
from quicfs.transport.protection import TAG_LENGTH, Opened
from quicfs.transport.rx_stream import continue_stream

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection
    from quicfs.transport.path import Address
    from quicfs.transport.pnspace import PacketNumberSpace

_HEAD: Final = Struct(">BBQ")  # STREAM with OFF and no LEN: type, ID below 64, offset in 8 bytes
_HEAD_LENGTH: Final = _HEAD.size
_BULK_STREAM: Final = 0x0C
_BULK_HEAD: Final = bytes((_BULK_STREAM,))
_OFFSET_8: Final = 0xC0 << 56
_MIN_SAMPLED: Final = 1 + limits.LOCAL_CID_LENGTH + 4 + 16  # RFC 9001 §5.4.2
_MIN_SHORT: Final = 21  # RFC 9000 §10.3: less is neither a packet with a sample nor a stateless reset


def handle_burst(
    conn: Connection,
    now: float,
    data: memoryview,
    segment_size: int,
    ecn: int,
    scratch: memoryview,
    remote: Address,
    local: Address,
) -> None:
    """Process a train (see `Connection.handle_burst`)."""
    if conn.work.used > limits.WORK_BURST and conn.work.exhausted(now):
        return
    path = conn.path
    if remote != path.remote or local != path.local:
        other = migration.path_of(conn, remote, local)
        if other is None:
            return
        path = other
        conn.continues = None  # what else it may mean is looked at packet by packet
    path.bytes_received += len(data)
    conn.paths.arrival = path
    if not path.validated:
        conn.paths.pending = True  # what came may be what a challenge waits for, to be allowed to leave
    try:
        _split(conn, now, data, segment_size, ecn, scratch)
        if path is not conn.path:
            migration.after_train(conn, path, now)
    except ProtocolViolation as violation:
        conn.close(now, violation.code, violation.reason, frame_type=violation.frame_type)


def replay_undecryptable(conn: Connection, now: float, scratch: memoryview) -> None:
    """Keys have come: datagrams that waited for them get another chance."""
    waiting, conn.undecryptable = conn.undecryptable, []
    conn.paths.arrival = conn.path
    try:
        for datagram, ecn in waiting:
            view = memoryview(bytearray(datagram))
            _split(conn, now, view, len(view), ecn, scratch)
    except ProtocolViolation as violation:
        conn.close(now, violation.code, violation.reason, frame_type=violation.frame_type)


def _split(
    conn: Connection, now: float, data: memoryview, segment_size: int, ecn: int, scratch: memoryview
) -> None:
    total = len(data)
    firsts = data[::segment_size].tobytes()  # the first bytes of all datagrams
    # short headers only, and nothing in them that RFC 9000 §17.3 wants to be discarded
    if max(firsts) < LONG_FORM and (conn.ours.grease_quic_bit or min(firsts) >= FIXED_BIT):
        rest = total % segment_size
        whole = total - rest if rest < _MIN_SAMPLED else total
        if whole:
            starts = range(0, whole, segment_size)
            _open_short(conn, now, data, starts, [*starts[1:], whole], ecn, scratch)
        if total - whole >= _MIN_SHORT:  # no packet, but perhaps a stateless reset
            _open_short(conn, now, data, (whole,), (total,), ecn, scratch)
        return
    for start in range(0, total, segment_size):
        _handle_datagram(conn, now, data, start, min(start + segment_size, total), ecn, scratch)


# --- short headers


def _open_short(
    conn: Connection,
    now: float,
    data: memoryview,
    starts: Sequence[int],
    stops: Sequence[int],
    ecn: int,
    scratch: memoryview,
) -> None:
    space = conn.application
    keys = space.keys_in
    # RFC 9001 §5.7: a server does not process 1-RTT packets before the handshake is complete
    if keys is None or (conn.is_server and not conn.recovery.handshake_confirmed):
        for start, stop in zip(starts, stops, strict=True):
            _keep_undecryptable(conn, now, PacketType.ONE_RTT, data[start:stop], ecn)
        return
    pn_offset = 1 + len(conn.local_cid)
    if conn.continues is not None:
        train = data[starts[0] : stops[-1]]
        if done := continue_stream(conn, now, train, stops[0] - starts[0], pn_offset, ecn):
            starts, stops = starts[done:], stops[done:]
            if not starts:
                return
    phases = conn.key_phases
    opened, other = keys.open_run(
        data, starts, stops, pn_offset, space.received.largest, scratch, phases.phase
    )
    old: Opened = []  # of the key phase before
    new: Opened = []  # of the next one
    if len(opened) < len(starts) or phases.settling:
        old, new = key_update.open_rest(conn, data, starts, stops, opened, other, pn_offset, scratch)
    if conn.trace is not None:
        conn.trace.packets_received(
            now, PacketType.ONE_RTT, [*old, *opened, *new], len(starts), pn_offset + TAG_LENGTH
        )
    if opened or old or new:
        conn.paths.arrival.dcid = bytes(data[starts[0] + 1 : starts[0] + pn_offset])
        if conn.paths.arrival is not conn.path:
            migration.inspect(conn, [*old, *opened, *new])
        if phases.settling:
            key_update.settle(conn, now, old, opened)
        if old:
            _process(conn, now, space, PacketType.ONE_RTT, old, ecn)
            phases.check_old_acks(space.sent.largest_acked)
        if opened:
            _process(conn, now, space, PacketType.ONE_RTT, opened, ecn)
        if new:
            key_update.follow(conn, now, new)
            _process(conn, now, space, PacketType.ONE_RTT, new, ecn)
        if phases.settling:
            phases.note_acked(space.sent.largest_acked, now)
    else:  # RFC 9000 §10.3.1: nothing could be opened, so it may be a stateless reset
        for stop in stops:
            conn.handle_maybe_reset(now, data[stop - STATELESS_RESET_TOKEN_LENGTH : stop])


def _keep_undecryptable(
    conn: Connection, now: float, packet_type: PacketType, datagram: memoryview, ecn: int
) -> None:
    waiting = conn.undecryptable
    kept = (
        len(waiting) < limits.MAX_UNDECRYPTABLE
        and sum(len(kept) for kept, _ in waiting) + len(datagram) <= limits.MAX_UNDECRYPTABLE_BYTES
    )
    if kept:
        waiting.append((bytes(datagram), ecn))
    if conn.trace is not None:
        conn.trace.packet_unopened(now, packet_type, len(datagram), kept=kept)


# --- long headers: one datagram may hold several packets


def _handle_datagram(
    conn: Connection, now: float, data: memoryview, pos: int, end: int, ecn: int, scratch: memoryview
) -> None:
    while pos < end:
        greased = conn.ours.grease_quic_bit
        if not data[pos] & LONG_FORM:
            if end - pos >= _MIN_SHORT and (greased or data[pos] & FIXED_BIT):
                _open_short(conn, now, data, [pos], [end], ecn, scratch)
            return
        try:
            header = parse_long_header(data, pos, end)
        except ProtocolViolation:
            return  # unauthenticated: dropped (RFC 9000 §12.2)
        # RFC 9000 §17.2: a Fixed Bit of 0 -> drop, unless we have said that it may have any value (RFC 9287)
        if not (greased or header.fixed_bit):
            return
        if header.packet_type is PacketType.VERSION_NEGOTIATION:
            versions.handle_version_negotiation(conn, header)
            return
        if header.packet_type is PacketType.RETRY:
            _handle_retry(conn, now, header, data[pos:end])
            return
        if header.dcid not in conn.accepted_cids:
            return
        if header.version != conn.version and not versions.admits(conn, header):
            return
        _handle_long(conn, now, header, data, pos, ecn, scratch)
        pos = header.end


def _handle_long(
    conn: Connection,
    now: float,
    header: LongHeader,
    data: memoryview,
    pos: int,
    ecn: int,
    scratch: memoryview,
) -> None:
    space: PacketNumberSpace
    if header.packet_type is PacketType.INITIAL:
        space = conn.initial
    elif header.packet_type is PacketType.HANDSHAKE:
        space = conn.handshake
    else:
        space = conn.application
    if space.discarded:
        return
    keys = space.keys_in if header.version == conn.version else versions.keys_in(conn, header)
    if header.packet_type is PacketType.ZERO_RTT:
        keys = conn.early.keys_in
        if keys is None and not early_data.waits_for_keys(conn):
            return
    if keys is None:
        _keep_undecryptable(conn, now, header.packet_type, data[pos : header.end], ecn)
        return
    # RFC 9000 §7.2: after the first packet the peer's source connection ID stays as it is
    if conn.peer_cid_fixed and header.scid != conn.peer_cids.first:
        return
    opened, _ = keys.open_run(
        data, (pos,), (header.end,), header.payload_offset - pos, space.received.largest, scratch
    )
    if conn.trace is not None:
        overhead = header.payload_offset - pos + TAG_LENGTH
        conn.trace.packets_received(now, header.packet_type, opened, 1, overhead)
    if not opened:
        key_update.count_forged(conn, keys, 1)
        return
    if header.version != conn.version:
        versions.on_opened(conn, header)
    if not conn.peer_cid_fixed:
        conn.peer_cid_fixed = True
        conn.peer_cids.replace_first(header.scid)
    if space is conn.handshake and conn.is_server:
        # RFC 9000 §8.1 and RFC 9001 §4.9.1: the client's address is valid, and Initial keys are done with
        conn.path.validated = True
        establish.discard_space(conn, conn.initial)
    _process(conn, now, space, header.packet_type, opened, ecn)


def _handle_retry(conn: Connection, now: float, header: LongHeader, packet: memoryview) -> None:
    # RFC 9000 §17.2.5.2: one Retry, before anything else, with a valid tag and a new connection ID
    if conn.is_server or conn.peer_cid_fixed or conn.retry_scid is not None or header.version != conn.version:
        return
    if header.dcid != conn.local_cid or header.scid == conn.original_dcid:
        return
    if not check_retry(packet, conn.original_dcid):
        return
    # RFC 9000 §17.2.5: start again with the token, to the server's new ID
    conn.retry_scid = header.scid
    conn.versions.initial_keys_in.clear()
    conn.token = header.token
    conn.peer_cids.replace_first(header.scid)
    establish.install_initial_keys(conn, header.scid)
    for run in conn.initial.sent:
        delivery.requeue(conn, conn.initial, run)
    conn.recovery.discard(conn.initial)
    early_data.send_again(conn)


# --- frames


def _process(
    conn: Connection, now: float, space: PacketNumberSpace, packet_type: PacketType, opened: Opened, ecn: int
) -> None:
    """Process the frames of opened packets, in their order."""
    received = space.received
    work = conn.work
    reserved = 0x18 if packet_type is PacketType.ONE_RTT else 0x0C
    is_1rtt = packet_type is PacketType.ONE_RTT
    eliciting = 0
    processed = 0
    run_start = run_stop = -1  # packet numbers processed, not yet in `received`
    stream_id = -1  # STREAM frames gathered: of which stream, from where, up to where
    offset = expected = 0
    pieces: list[memoryview] = []
    next_head = (-1, 0, 0)  # of a packet that continues the gathered frames to its end
    for pn, first, payload in opened:
        # RFC 9000 §17.2, §17.3.1: reserved bits set -> PROTOCOL_VIOLATION
        if first & reserved:
            raise ProtocolViolation(TransportErrorCode.PROTOCOL_VIOLATION, "reserved bits are set")
        if pn != run_stop:
            if run_stop >= 0:
                received.add(now, run_start, run_stop)
                run_stop = -1
            if not received.is_new(pn):
                continue
            run_start = pn
        run_stop = pn + 1
        processed += 1
        end = len(payload)
        # RFC 9000 §12.4: a packet without frames -> PROTOCOL_VIOLATION
        if not end:
            raise ProtocolViolation(TransportErrorCode.PROTOCOL_VIOLATION, "packet without frames")
        if end > _HEAD_LENGTH and _HEAD.unpack_from(payload) == next_head:
            # Most packets of a transfer: nothing but the next bytes of the stream.
            eliciting += 1
            pieces.append(payload[_HEAD_LENGTH:])
            expected += end - _HEAD_LENGTH
            next_head = (_BULK_STREAM, stream_id, _OFFSET_8 | expected)
            continue
        pos = units = 0
        asks = False
        while pos < end:
            frame_type = payload[pos]
            if frame_type & 0xF8 == 0x08 and is_1rtt:
                asks = True
                (sid, at, data, fin), pos = parse_stream(payload, pos + 1, end)
                if sid == stream_id and at == expected:
                    pieces.append(data)
                    expected += len(data)
                else:
                    if stream_id >= 0:
                        _deliver(conn, stream_id, offset, pieces, fin=False)
                    stream_id, offset, pieces = sid, at, [data]
                    expected = at + len(data)
                if fin:
                    _deliver(conn, stream_id, offset, pieces, fin=True)
                    stream_id = -1
            elif frame_type <= FrameType.PING:
                pinged, pos = skip_padding_and_ping(payload, pos, end)
                asks = asks or pinged
            else:
                frame_type, frame, pos = parse_frame(payload, pos, end, packet_type)
                if FRAME_CODECS[frame_type].ack_eliciting:
                    asks = True
                    if stream_id >= 0:
                        _deliver(conn, stream_id, offset, pieces, fin=False)
                        stream_id = -1
                op = FRAME_OPS[frame_type]
                units += op.work
                op.process(conn, space, frame, now)
        if units:
            work.packet(units)
        eliciting += asks
        next_head = (_BULK_STREAM, stream_id if stream_id < 64 else -1, _OFFSET_8 | expected)
    if stream_id >= 0:
        _deliver(conn, stream_id, offset, pieces, fin=False)
    if run_stop >= 0:
        received.add(now, run_start, run_stop)
    # A packet that was nothing but stream data to its end lets expect more of the kind.
    goes_on = 0 <= stream_id < 64 and payload[:1] == _BULK_HEAD
    conn.continues = (stream_id, expected) if goes_on else None
    if processed:
        received.count_ecn(ecn, processed)
        received.decide(now, eliciting)
        conn.on_received(now)


def _deliver(conn: Connection, stream_id: int, offset: int, pieces: list[memoryview], *, fin: bool) -> None:
    data = b"".join(pieces)
    conn.work.delivery(len(pieces), len(data))
    conn.handle_stream_data(stream_id, offset, data, fin)

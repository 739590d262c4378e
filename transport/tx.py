"""Sending: what leaves next, composed into a train.

A train is a run of datagrams of one size, of which the last may be shorter. Its first packet takes
acknowledgements and control frames; what is left of it and the packets after it take stream data, as long as the
windows, the pacer and the train last. While the handshake goes on, a train is one datagram that may hold
packets of several levels (RFC 9000 §12.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.transport import establish, key_update, limits, migration
from quicfs.transport.builder import (
    LongPacket,
    PacketBuilder,
    Transmit,
    long_packet_overhead,
    segments_per_send,
)
from quicfs.transport.delivery import repeat_flight
from quicfs.transport.frame import (
    write_connection_close,
    write_crypto_header,
    write_stream_header,
)
from quicfs.transport.frame_ack import write_ack
from quicfs.transport.frame_ops import FRAME_OPS
from quicfs.transport.frame_type import FrameType
from quicfs.transport.packet import PacketType, packet_number_length
from quicfs.transport.seal import seal_long, seal_short, seal_stream, short_overhead, stream_head_length
from quicfs.transport.sent import SentRun, StreamRange
from quicfs.transport.state import OPEN, State
from quicfs.transport.timer import Timer

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection
    from quicfs.transport.pnspace import PacketNumberSpace
    from quicfs.transport.stream import Stream

_MIN_CHUNK: Final = 24  # no use in starting a STREAM frame in less room
_PING: Final = b"\x01"


def poll_transmit(conn: Connection, now: float, buffer: memoryview) -> Transmit | None:
    """See `Connection.poll_transmit`."""

    if conn.state not in OPEN:
        return _close(conn, now, buffer) if conn.state is State.CLOSING else None
    if not (conn.initial.discarded and conn.handshake.discarded):
        return _handshake_datagram(conn, now, buffer)
    sent = conn.application.sent
    if sent.next_pn >= sent.skip_at:
        sent.skip(conn.entropy)
    if sent.next_pn >= conn.key_phases.update_at:
        key_update.before_train(conn, now)
        if conn.state not in OPEN:
            return _close(conn, now, buffer)
    # A challenge comes first on a new path: what follows has to wait for its answer.
    if conn.paths.pending and (transmit := migration.poll_transmit(conn, now, buffer)) is not None:
        return transmit
    # The probe comes first: a transfer that never pauses would never let it out, and gains most by it.
    return _mtu_probe(conn, now, buffer) or _train(conn, now, buffer)


# --- the handshake: one datagram, several levels


def _handshake_datagram(conn: Connection, now: float, buffer: memoryview) -> Transmit | None:
    # RFC 9000 §8.1: a datagram that would have to be cut short waits until the client was heard again
    room = limits.MIN_INITIAL_DATAGRAM
    if conn.path.allowance() < room:
        return None
    packets: list[tuple[PacketNumberSpace, LongPacket]] = []
    dcid = conn.peer_cids.current.cid
    for space in (conn.initial, conn.handshake):
        if space.keys_out is None:
            continue
        pn = space.sent.next_pn
        pn_length = packet_number_length(pn, space.sent.largest_acked)
        token = conn.token if space is conn.initial else b""
        overhead = long_packet_overhead(space.packet_type, dcid, conn.local_cid, token, pn_length)
        if room - overhead < _MIN_CHUNK:
            break
        builder = PacketBuilder(room - overhead)
        _fill_crypto_packet(conn, space, builder, now)
        if builder.empty:
            continue
        packets.append((space, LongPacket(space.packet_type, space.keys_out, pn, pn_length, token, builder)))
        room = builder.room
    early = _fill_0rtt(conn, now, room)
    if early is not None:
        packets.append((conn.application, early))
        room = early.builder.room
    builder_1rtt = _fill_early_1rtt(conn, now, room)
    if not packets:
        return _finish_1rtt(conn, now, buffer, builder_1rtt) if builder_1rtt is not None else None
    # RFC 9000 §14.1: a client's Initials, and a server's that ask for an ACK, come in full-sized datagrams
    if packets[0][0] is conn.initial and (not conn.is_server or packets[0][1].builder.eliciting):
        pad = room if builder_1rtt is None else builder_1rtt.room
        if pad > 0:
            (packets[-1][1].builder if builder_1rtt is None else builder_1rtt).pad(pad)
    end = 0
    for space, packet in packets:
        start = end
        end = seal_long(conn, now, packet, dcid, buffer, start)
        padded = packet.builder.room <= 0
        _remember(
            conn,
            space,
            packet.pn,
            packet.builder,
            end - start,
            now,
            in_flight=packet.builder.eliciting or padded,
        )
    if builder_1rtt is not None:
        end = _seal_1rtt(conn, now, buffer, end, builder_1rtt)
    if not conn.is_server and any(space is conn.handshake for space, _ in packets):
        establish.discard_space(conn, conn.initial)  # RFC 9001 §4.9.1
    return _transmit(conn, buffer[:end], end, 1, now)


def _fill_crypto_packet(
    conn: Connection, space: PacketNumberSpace, builder: PacketBuilder, now: float
) -> None:
    """ACK and CRYPTO of one handshake level."""
    queue = space.crypto_out
    if space.probes > 0 and not (queue.has_lost or queue.unsent > 0):
        # The second probe says what the first one does: alone it would tell a peer nothing that has heard nothing yet
        # (RFC 9000 §17.2.2: the first packet that a server sees has to carry CRYPTO data).
        repeat_flight(conn, space)
    wants = queue.has_lost or queue.unsent > 0
    may_send = space.probes > 0 or _handshake_window(conn) >= limits.MIN_INITIAL_DATAGRAM
    sends = may_send and (wants or space.probes > 0)
    if space.received.ack_at is not None and (sends or space.received.ack_at <= now):
        _add_ack(conn, space, builder, now)
    if not sends:
        return
    while builder.room > 8:
        lost = queue.first_lost()
        start, stop = lost if lost is not None else (queue.sent, queue.end)
        header = write_crypto_header(start, min(stop - start, builder.room))
        length = min(stop - start, builder.room - len(header))
        if length <= 0:
            break
        header = write_crypto_header(start, length)
        builder.add_with_data(header, queue.view(start, length), (FrameType.CRYPTO, (start, start + length)))
        queue.mark_sent(start, start + length)
    if space.probes > 0:
        if not builder.eliciting:
            builder.add(_PING, None)
        space.probes -= 1


def _handshake_window(conn: Connection) -> int:
    """Application data under way before the handshake is over do not stop it: nothing would ever declare them lost,
    since they get no probe timeout until it is confirmed (RFC 9002 §6.2.1)."""
    return conn.recovery.window + sum(run.size for run in conn.application.sent if run.in_flight)


def _fill_0rtt(conn: Connection, now: float, room: int) -> LongPacket | None:
    """A client's data before the handshake is complete, if TLS allows them (RFC 9001 §4.6)."""
    space, keys = conn.application, conn.early.keys_out
    if keys is None:
        return None
    pn = space.sent.next_pn
    pn_length = packet_number_length(pn, space.sent.largest_acked)
    dcid = conn.peer_cids.current.cid
    room -= long_packet_overhead(PacketType.ZERO_RTT, dcid, conn.local_cid, b"", pn_length)
    if room < _MIN_CHUNK:
        return None
    builder = PacketBuilder(room)
    _fill_1rtt(conn, now, builder, windowed=conn.recovery.window >= limits.MIN_INITIAL_DATAGRAM)
    return None if builder.empty else LongPacket(PacketType.ZERO_RTT, keys, pn, pn_length, b"", builder)


def _fill_early_1rtt(conn: Connection, now: float, room: int) -> PacketBuilder | None:
    """1-RTT data beside the handshake: a server may send it before the handshake is confirmed."""
    space = conn.application
    if space.keys_out is None or conn.peer is None:
        return None
    room -= short_overhead(conn, packet_number_length(space.sent.next_pn, space.sent.largest_acked))
    if room < _MIN_CHUNK:
        return None
    builder = PacketBuilder(room)
    _fill_1rtt(conn, now, builder, windowed=conn.recovery.window >= limits.MIN_INITIAL_DATAGRAM)
    return None if builder.empty else builder


def _finish_1rtt(conn: Connection, now: float, buffer: memoryview, builder: PacketBuilder) -> Transmit:
    end = _seal_1rtt(conn, now, buffer, 0, builder)
    return _transmit(conn, buffer[:end], end, 1, now)


def _seal_1rtt(conn: Connection, now: float, buffer: memoryview, pos: int, builder: PacketBuilder) -> int:
    space = conn.application
    assert space.keys_out is not None
    pn = space.sent.next_pn
    pn_length = packet_number_length(pn, space.sent.largest_acked)
    end = seal_short(conn, now, buffer, pos, pn, pn_length, (builder.payload(pn_length),))
    _remember(conn, space, pn, builder, end - pos, now, in_flight=builder.eliciting)
    return end


# --- 1-RTT trains


def _train(conn: Connection, now: float, buffer: memoryview) -> Transmit | None:
    space = conn.application
    if space.keys_out is None:
        return None
    if not (
        conn.streams.ready
        or conn.control
        or space.probes
        or conn.datagrams.outgoing
        or _ack_wanted(space, now)
    ):
        _note_limits(conn, now, full=False)
        return None
    recovery = conn.recovery
    mtu = conn.path.pmtud.current
    first_pn = space.sent.next_pn
    most = segments_per_send(mtu)
    most *= max(1, min(len(buffer), limits.TRAIN_BYTES) // (most * mtu))
    if not conn.path.validated:  # §8.1
        most = min(most, conn.path.allowance() // mtu)
        if most <= 0:
            return None
    pn_length = packet_number_length(first_pn + most, space.sent.largest_acked)
    room = mtu - short_overhead(conn, pn_length)

    end = 0
    payloads: list[bytes] = []  # of packets that are not sealed yet, the last ones before `pn`
    pn = first_pn
    last_pn = first_pn + most
    paced = recovery.paced(now)
    while pn < last_pn:
        window = min(recovery.window, paced)
        if (
            not conn.control
            and window >= mtu
            and conn.streams.ready
            and not space.probes
            and not conn.datagrams.outgoing
            and (pn > first_pn or not _ack_wanted(space, now))
        ):
            bulk = _bulk(conn, now, pn, mtu, room, min(window // mtu, last_pn - pn))
            if bulk is not None:
                if payloads:
                    end = seal_short(conn, now, buffer, end, pn - len(payloads), pn_length, payloads)
                    payloads = []
                end = seal_stream(conn, now, buffer, end, pn, pn_length, bulk)
                count = (bulk.stop - bulk.offset) // bulk.step
                pn += count
                paced -= count * mtu
                continue
        builder = PacketBuilder(room)
        _fill_1rtt(conn, now, builder, windowed=paced > 0 and recovery.window >= mtu)
        if builder.empty:
            break
        full = builder.room == 0
        payloads.append(builder.payload(pn_length))
        size = mtu if full else len(payloads[-1]) + mtu - room
        _remember(conn, space, pn, builder, size, now, in_flight=builder.eliciting)
        pn += 1
        paced -= size
        if not full:
            break
    _note_limits(conn, now, full=pn == last_pn)
    if payloads:
        end = seal_short(conn, now, buffer, end, pn - len(payloads), pn_length, payloads)
    if not end:
        return None
    return _transmit(conn, buffer[:end], min(mtu, end), pn - first_pn, now)


def _bulk(conn: Connection, now: float, pn: int, mtu: int, room: int, most: int) -> StreamRange | None:
    """Take full packets of one stream's data, at most `most`."""
    stream = next(iter(conn.streams.ready))
    send = stream.send
    assert send is not None
    step = room - stream_head_length(stream.stream_id)
    chunk = send.next_chunk(most * step, conn.streams.send_credit.available)
    if chunk is None:
        return None
    offset, length, fin = chunk
    whole = send.queue.contiguous(offset) if length > step else 0
    if max(step, length >> 2) <= whole < length:
        length, fin = whole, False  # not all are copied because one has pieces of two writes
    count = length // step
    if fin and count * step == length:
        count -= 1  # the last one carries FIN
    if count <= 0:
        return None
    stop = offset + count * step
    bulk = StreamRange(stream, offset, stop, step, False)
    conn.streams.send_credit.used += send.mark_sent(offset, stop, False)
    conn.recovery.on_sent(
        conn.application,
        SentRun(
            pn,
            pn + count - 1,
            now,
            mtu,
            mtu,
            eliciting=True,
            in_flight=True,
            bulk=bulk,
            marked=conn.path.ecn.codepoint != 0,
        ),
    )
    _end_turn(conn, stream)
    return bulk


def _fill_1rtt(conn: Connection, now: float, builder: PacketBuilder, *, windowed: bool) -> None:
    """One packet: acknowledgement, control frames, then stream data up to the end of the room."""
    space = conn.application
    probing = space.probes > 0
    sends = windowed or probing  # RFC 9002 §7: what would not fit into the window waits, probes do not
    has_work = bool(conn.control or conn.streams.ready or conn.datagrams.outgoing)
    if _ack_wanted(space, now) or (sends and has_work and space.received.ack_at is not None):
        _add_ack(conn, space, builder, now)
    if not sends:
        return
    if conn.control:
        _add_control(conn, builder, now)
    if conn.datagrams.outgoing:
        conn.datagrams.fill(builder, conn.path.pmtud.current - short_overhead(conn, 4), now)
    if conn.streams.ready:
        _add_streams(conn, builder)
    if probing:
        if not builder.eliciting and builder.room:
            builder.add(_PING, None)
        space.probes -= 1


def _ack_wanted(space: PacketNumberSpace, now: float) -> bool:
    due = space.received.ack_at
    return due is not None and due <= now


def _add_ack(conn: Connection, space: PacketNumberSpace, builder: PacketBuilder, now: float) -> None:
    received = space.received
    delay = int(received.delay(now) * 1e6) >> conn.ours.ack_delay_exponent
    frame = write_ack(received.descending(), delay, received.ecn_counts, builder.room)
    if frame:
        builder.add(frame, (FrameType.ACK, received.largest), eliciting=False)
        received.on_ack_sent()


def _add_control(conn: Connection, builder: PacketBuilder, now: float) -> None:
    for record in list(conn.control):
        frame_type, argument = record
        write = FRAME_OPS[frame_type].write
        assert write is not None
        frame = write(conn, argument, builder.room, now)
        if frame is not None:
            if len(frame) > builder.room:
                return
            builder.add(frame, record)
        del conn.control[record]


def _add_streams(conn: Connection, builder: PacketBuilder) -> None:
    streams = conn.streams
    for _ in range(len(streams.ready)):
        if builder.room < _MIN_CHUNK:
            return
        stream = next(iter(streams.ready))
        send = stream.send
        assert send is not None
        chunk = send.next_chunk(builder.room, streams.send_credit.available)
        if chunk is None:  # the connection's credit is used up
            if streams.send_credit.is_news():
                conn.queue_control(FrameType.DATA_BLOCKED, None)
            streams.rotate(stream)
            continue
        offset, length, _ = chunk
        header = write_stream_header(stream.stream_id, offset, None, False)
        length = min(length, builder.room - len(header))
        fin = send.finished and offset + length == send.queue.end
        if len(header) + length < builder.room:
            # Not the last frame of the packet, perhaps: it says its own length.
            header = write_stream_header(stream.stream_id, offset, length, fin)
            over = len(header) + length - builder.room
            if over > 0:
                length -= over
                fin = False
                header = write_stream_header(stream.stream_id, offset, length, fin)
        else:
            header = write_stream_header(stream.stream_id, offset, None, fin)
        stop = offset + length
        data = send.queue.view(offset, length) if length else memoryview(b"")
        streams.send_credit.used += send.mark_sent(offset, stop, fin)
        builder.add_with_data(header, data, (FrameType.STREAM, (stream, offset, stop, fin)))
        _end_turn(conn, stream)


def _end_turn(conn: Connection, stream: Stream) -> None:
    """Next stream; a peer whose limit stops us hears of it once per limit (RFC 9000 §4.1)."""
    conn.streams.update_ready(stream)
    conn.streams.rotate(stream)
    send = stream.send
    if send is not None and send.blocked() and send.credit.is_news():
        conn.queue_control(FrameType.STREAM_DATA_BLOCKED, stream)


def _note_limits(conn: Connection, now: float, *, full: bool) -> None:
    """Why did the train end? Congestion control wants to know, and the pacing timer."""
    recovery = conn.recovery
    mtu = conn.path.pmtud.current
    wants = bool(conn.streams.ready or conn.control or conn.datagrams.outgoing)
    paced = wants and recovery.window >= mtu and recovery.paced(now) <= 0
    conn.timers.set(Timer.PACING, recovery.paced_at(now) if paced else None)
    # RFC 9002 §7.8: neither the window nor the pacer held us back, so the window has not been tested
    conn.app_limited = not full and not paced and recovery.window >= mtu


# --- DPLPMTUD, close


def _mtu_probe(conn: Connection, now: float, buffer: memoryview) -> Transmit | None:
    if conn.recovery.window < conn.path.pmtud.current or not conn.path.validated:
        return None
    size = conn.path.pmtud.next_probe(now)
    if size is None:
        return None
    space = conn.application
    assert space.keys_out is not None
    pn = space.sent.next_pn
    pn_length = packet_number_length(pn, space.sent.largest_acked)
    payload = _PING + bytes(size - short_overhead(conn, pn_length) - 1)
    end = seal_short(conn, now, buffer, 0, pn, pn_length, (payload,))
    conn.recovery.on_sent(
        space, SentRun(pn, pn, now, end, end, eliciting=True, in_flight=True, mtu_probe=True)
    )
    conn.path.pmtud.on_probe_sent(size, pn, now)
    return _transmit(conn, buffer[:end], end, 1, now)


def _close(conn: Connection, now: float, buffer: memoryview) -> Transmit | None:
    """CONNECTION_CLOSE in every level that the peer may be able to read (RFC 9000 §10.2.3)."""
    if not conn.close_due or conn.close_frame is None:
        return None
    conn.close_due = False
    dcid = conn.peer_cids.current.cid
    end = 0
    levels = [space for space in conn.spaces if space.keys_out is not None]
    if conn.recovery.handshake_confirmed:
        levels = levels[-1:]
    for space in levels:
        assert space.keys_out is not None
        frame = conn.close_frame
        if frame.frame_type is None and space is not conn.application:
            # RFC 9000 §10.2.3: an application's reason must not leave before the handshake is over
            payload = write_connection_close(0x0C, 0, "", 64)
        else:
            payload = write_connection_close(frame.error_code, frame.frame_type, frame.reason, 512)
        pn = space.sent.next_pn
        space.sent.next_pn += 1
        pn_length = packet_number_length(pn, space.sent.largest_acked)
        builder = PacketBuilder(0)
        builder.add(payload, None, eliciting=False)
        if space is conn.application:
            end = seal_short(conn, now, buffer, end, pn, pn_length, (builder.payload(pn_length),))
        else:
            token = conn.token if space is conn.initial else b""
            if space is conn.initial and not conn.is_server:
                used = long_packet_overhead(PacketType.INITIAL, dcid, conn.local_cid, token, pn_length) + len(
                    payload
                )
                builder.pad(max(0, limits.MIN_INITIAL_DATAGRAM - used))
            packet = LongPacket(space.packet_type, space.keys_out, pn, pn_length, token, builder)
            end = seal_long(conn, now, packet, dcid, buffer, end)
    if not end or end > conn.path.allowance():
        return None
    conn.path.bytes_sent += end
    return Transmit(buffer[:end], end, conn.path.remote, conn.path.local, 0)


# --- common


def _remember(
    conn: Connection,
    space: PacketNumberSpace,
    pn: int,
    builder: PacketBuilder,
    size: int,
    now: float,
    *,
    in_flight: bool,
) -> None:
    conn.recovery.on_sent(
        space,
        SentRun(
            pn,
            pn,
            now,
            size,
            size,
            eliciting=builder.eliciting,
            in_flight=in_flight,
            records=builder.records,
            marked=conn.path.ecn.codepoint != 0,
        ),
    )
    if builder.eliciting and not conn.sent_eliciting_since_received:
        conn.sent_eliciting_since_received = True
        conn.touch(now)


def _transmit(conn: Connection, data: memoryview, segment_size: int, packets: int, now: float) -> Transmit:
    path = conn.path
    path.bytes_sent += len(data)
    codepoint = path.ecn.codepoint
    if codepoint:
        path.ecn.on_sent(packets)
    return Transmit(data, segment_size, path.remote, path.local, codepoint)

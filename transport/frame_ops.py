"""What each frame means to a connection, one row per type: how it is processed when it comes, written when
it is due, and what its acknowledgement and its loss lead to.

The wire format, and which packets may carry a frame, is in `frame`. STREAM and ACK have rows, but the trains of
STREAM frames that make up a transfer pass through `conn` in one piece and do not come here one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import byteorder
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from quicfs.transport import establish, limits, migration
from quicfs.transport import frame as codec
from quicfs.transport.errors import ProtocolViolation, TransportErrorCode
from quicfs.transport.frame_ack import write_immediate_ack
from quicfs.transport.frame_type import FrameType
from quicfs.transport.stream import SendState
from quicfs.transport.streams import BIDI, UNI
from quicfs.transport.uapi import Event, StreamMaxData

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection
    from quicfs.transport.pnspace import PacketNumberSpace

Process = Callable[["Connection", "PacketNumberSpace", Any, float], None]
Write = Callable[["Connection", Any, int, float], bytes | None]
OnAck = Callable[["Connection", "PacketNumberSpace", Any], None]
OnLost = Callable[["Connection", "PacketNumberSpace", Any], None]


class FrameOp(NamedTuple):
    process: Process
    write: Write | None = None
    """`(connection, argument, room, now)`: the frame; None if it has become pointless; b"" if the room is too small."""
    on_ack: OnAck | None = None
    on_lost: OnLost | None = None
    work: int = 4
    """What `process` costs, in the units of `work`."""


# --- PADDING, PING, HANDSHAKE_DONE ---------------------------------------------------------------------


def _nothing(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    return None


def _process_handshake_done(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    # RFC 9000 §19.20: from a client -> PROTOCOL_VIOLATION
    if conn.is_server:
        raise ProtocolViolation(
            TransportErrorCode.PROTOCOL_VIOLATION, "HANDSHAKE_DONE from a client", FrameType.HANDSHAKE_DONE
        )
    establish.confirm_handshake(conn, now)


def _write_handshake_done(conn: Connection, argument: Any, room: int, now: float) -> bytes:
    return codec.write_handshake_done()


def _write_ping(conn: Connection, argument: Any, room: int, now: float) -> bytes:
    return codec.write_ping()


# --- ACK --------------------------------------------------------------------------------------------


def _process_ack(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    conn.handle_ack(space, frame, now)


def _ack_acked(conn: Connection, space: PacketNumberSpace, largest: int) -> None:
    space.received.forget_below(largest + 1)


def _process_ack_frequency(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    conn.ack_frequency.handle(frame, conn.ours, space.received)


def _write_ack_frequency(conn: Connection, argument: Any, room: int, now: float) -> bytes:
    return conn.ack_frequency.write()


def _process_immediate_ack(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    # draft-ietf-quic-ack-frequency §5: not announced -> PROTOCOL_VIOLATION
    if conn.ours.min_ack_delay_us is None:
        raise ProtocolViolation(
            TransportErrorCode.PROTOCOL_VIOLATION, "IMMEDIATE_ACK is not spoken", FrameType.IMMEDIATE_ACK
        )
    space.received.ask_now()


def _write_immediate_ack(conn: Connection, argument: Any, room: int, now: float) -> bytes:
    return write_immediate_ack()


# --- DATAGRAM -----------------------------------------------------------------------------------------


def _process_datagram(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    conn.datagrams.handle(frame)


# --- CRYPTO, NEW_TOKEN ------------------------------------------------------------------------------


def _process_crypto(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    data = space.handle_crypto(frame.offset, bytes(frame.data))
    if data:
        conn.deliver_crypto(space.level, data)


def _crypto_acked(conn: Connection, space: PacketNumberSpace, argument: Any) -> None:
    space.crypto_out.on_ack(*argument)


def _crypto_lost(conn: Connection, space: PacketNumberSpace, argument: Any) -> None:
    if space is conn.application:
        conn.queue_control(FrameType.CRYPTO, argument)
    else:
        space.crypto_out.on_lost(*argument)


def _write_crypto(conn: Connection, argument: Any, room: int, now: float) -> bytes | None:
    """After the handshake: `argument` is a piece (see `establish.send_crypto`)."""
    start, stop = argument
    queue = conn.application.crypto_out
    if stop <= queue.acked:
        return None
    queue.mark_sent(start, stop)
    return codec.write_crypto_header(start, stop - start) + bytes(queue.view(start, stop - start))


def _process_new_token(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    # RFC 9000 §19.7: from a client -> PROTOCOL_VIOLATION
    if conn.is_server:
        raise ProtocolViolation(
            TransportErrorCode.PROTOCOL_VIOLATION, "NEW_TOKEN from a client", FrameType.NEW_TOKEN
        )
    if len(frame.token) <= limits.MAX_TOKEN:
        conn.new_token = bytes(frame.token)
        conn.emit(Event.NEW_TOKEN, conn.new_token)


def _write_new_token(conn: Connection, argument: Any, room: int, now: float) -> bytes:
    return codec.write_new_token(argument)


# --- streams ------------------------------------------------------------------------------------------


def _process_stream(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    stream_id, offset, data, fin = frame  # of a 0-RTT packet: those of 1-RTT packets do not come here
    conn.handle_stream_data(stream_id, offset, bytes(data), fin)
    stream = conn.streams.get(stream_id)
    if stream is not None:
        stream.early = True


def _stream_acked(conn: Connection, space: PacketNumberSpace, argument: Any) -> None:
    stream, start, stop, fin = argument
    conn.on_stream_acked(stream, start, stop, fin)


def _stream_lost(conn: Connection, space: PacketNumberSpace, argument: Any) -> None:
    stream, start, stop, fin = argument
    conn.on_stream_lost(stream, start, stop, fin)


def _process_reset_stream(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    stream = conn.streams.for_frame(frame.stream_id, FrameType.RESET_STREAM, receiving=True)
    if stream is not None and stream.recv is not None:
        recv = stream.recv
        unread = recv.queue.highest - recv.queue.read
        grown = recv.handle_reset(frame.error_code, frame.final_size)
        conn.streams.count_received(grown, FrameType.RESET_STREAM)
        conn.consume(None, unread + grown, now)  # RFC 9000 §4.5: the connection's credit comes back
        conn.readable[stream] = None
        conn.events.note_stream(stream)


def _write_reset_stream(conn: Connection, argument: Any, room: int, now: float) -> bytes | None:
    send = argument.send
    if send.state is not SendState.RESET_SENT:
        return None
    return codec.write_reset_stream(argument.stream_id, send.error_code, send.queue.sent)


def _reset_stream_acked(conn: Connection, space: PacketNumberSpace, argument: Any) -> None:
    argument.send.on_reset_acked()
    conn.events.note_stream(argument)
    conn.reap(argument)


def _process_stop_sending(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    stream = conn.streams.for_frame(frame.stream_id, FrameType.STOP_SENDING, receiving=False)
    if stream is not None and stream.send is not None:
        stream.send.stop_code = frame.error_code
        conn.reset_stream(stream, frame.error_code)  # RFC 9000 §3.5: answer with RESET_STREAM
        conn.writable[stream] = None
        conn.events.note_stream(stream)


def _write_stop_sending(conn: Connection, argument: Any, room: int, now: float) -> bytes | None:
    recv = argument.recv
    if recv.stop_sent is None or recv.final_size is not None:
        return None
    return codec.write_stop_sending(argument.stream_id, recv.stop_sent)


# --- flow control -------------------------------------------------------------------------------------


def _process_max_data(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    conn.streams.send_credit.raise_to(frame.maximum)


def _write_max_data(conn: Connection, argument: Any, room: int, now: float) -> bytes:
    return codec.write_max_data(conn.streams.recv_window.renew(now, conn.recovery.rtt.smoothed))


def _process_max_stream_data(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    stream = conn.streams.for_frame(frame.stream_id, FrameType.MAX_STREAM_DATA, receiving=False)
    if stream is not None and stream.send is not None and stream.send.credit.raise_to(frame.maximum):
        conn.streams.update_ready(stream)
        conn.emit(Event.STREAM_MAX_DATA, StreamMaxData(stream.stream_id, frame.maximum).pack())


def _write_max_stream_data(conn: Connection, argument: Any, room: int, now: float) -> bytes | None:
    recv = argument.recv
    if recv.final_size is not None:
        return None
    return codec.write_max_stream_data(argument.stream_id, recv.window.renew(now, conn.recovery.rtt.smoothed))


def _process_max_streams(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    kind = UNI if frame.unidirectional else BIDI
    if conn.streams.handle_max_streams(kind, frame.maximum):
        last = (frame.maximum - 1) << 2 | kind | conn.is_server  # the highest ID that may be opened
        conn.emit(Event.STREAM_MAX_STREAM, last.to_bytes(8, byteorder))


def _write_max_streams(conn: Connection, argument: Any, room: int, now: float) -> bytes:
    return codec.write_max_streams(conn.streams.renew_limit(argument), argument == UNI)


def _process_data_blocked(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    """Our limit follows the reader in steps of half a window; a peer that waits gets what there is."""
    window = conn.streams.recv_window
    if window.limit < window.consumed + window.window:
        conn.queue_control(FrameType.MAX_DATA, None)


def _process_stream_data_blocked(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    conn.streams.for_frame(frame.stream_id, FrameType.STREAM_DATA_BLOCKED, receiving=True)


def _write_data_blocked(conn: Connection, argument: Any, room: int, now: float) -> bytes | None:
    credit = conn.streams.send_credit
    return codec.write_data_blocked(credit.limit) if not credit.available else None


def _write_stream_data_blocked(conn: Connection, argument: Any, room: int, now: float) -> bytes | None:
    if argument.send is None or not argument.send.blocked():
        return None
    return codec.write_stream_data_blocked(argument.stream_id, argument.send.credit.limit)


def _write_streams_blocked(conn: Connection, argument: Any, room: int, now: float) -> bytes | None:
    if conn.streams.can_open(argument):
        return None
    return codec.write_streams_blocked(conn.streams.local_limit(argument), argument == UNI)


# --- connection IDs and paths -------------------------------------------------------------------------


def _process_new_connection_id(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    conn.handle_new_connection_id(frame, now)


def _write_new_connection_id(conn: Connection, argument: Any, room: int, now: float) -> bytes | None:
    issued = conn.local_cids.get(argument)
    if issued is None:
        return None
    prior_to = min(conn.local_cids.retire_prior_to, issued.sequence)
    frame = codec.write_new_connection_id(issued.sequence, prior_to, issued.cid, issued.reset_token)
    if len(frame) <= room:
        conn.local_cids.on_sent(issued.sequence)
    return frame


def _process_retire_connection_id(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    conn.handle_retire_connection_id(frame.sequence_number)


def _write_retire_connection_id(conn: Connection, argument: Any, room: int, now: float) -> bytes:
    return codec.write_retire_connection_id(argument)


def _retire_connection_id_acked(conn: Connection, space: PacketNumberSpace, argument: Any) -> None:
    conn.peer_cids.on_retirement_acked(argument)


def _process_path_challenge(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    migration.handle_challenge(conn, frame.data)


def _process_path_response(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    migration.handle_response(conn, frame.data, now)


# --- close --------------------------------------------------------------------------------------------


def _process_close(conn: Connection, space: PacketNumberSpace, frame: Any, now: float) -> None:
    conn.handle_close(frame, now)


def _again(frame_type: int) -> OnLost:
    """Lost: it becomes due again, with its argument; whether it is still needed is decided at writing."""

    def requeue(conn: Connection, space: PacketNumberSpace, argument: Any) -> None:
        conn.queue_control(frame_type, argument)

    return requeue


T: Final = FrameType

FRAME_OPS: Final[dict[int, FrameOp]] = {
    T.PADDING: FrameOp(_nothing, work=0),
    T.PING: FrameOp(_nothing, _write_ping, work=0),
    T.ACK: FrameOp(_process_ack, on_ack=_ack_acked, work=6),
    T.ACK_ECN: FrameOp(_process_ack, on_ack=_ack_acked, work=6),
    T.RESET_STREAM: FrameOp(
        _process_reset_stream, _write_reset_stream, _reset_stream_acked, _again(T.RESET_STREAM), work=20
    ),
    T.STOP_SENDING: FrameOp(
        _process_stop_sending, _write_stop_sending, on_lost=_again(T.STOP_SENDING), work=20
    ),
    T.CRYPTO: FrameOp(_process_crypto, _write_crypto, _crypto_acked, _crypto_lost, work=8),
    T.NEW_TOKEN: FrameOp(_process_new_token, _write_new_token, on_lost=_again(T.NEW_TOKEN)),
    **dict.fromkeys(range(0x08, 0x10), FrameOp(_process_stream, on_ack=_stream_acked, on_lost=_stream_lost)),
    T.MAX_DATA: FrameOp(_process_max_data, _write_max_data, on_lost=_again(T.MAX_DATA)),
    T.MAX_STREAM_DATA: FrameOp(
        _process_max_stream_data, _write_max_stream_data, on_lost=_again(T.MAX_STREAM_DATA)
    ),
    T.MAX_STREAMS_BIDI: FrameOp(_process_max_streams, _write_max_streams, on_lost=_again(T.MAX_STREAMS_BIDI)),
    T.MAX_STREAMS_UNI: FrameOp(_process_max_streams, _write_max_streams, on_lost=_again(T.MAX_STREAMS_UNI)),
    T.DATA_BLOCKED: FrameOp(_process_data_blocked, _write_data_blocked, on_lost=_again(T.DATA_BLOCKED)),
    T.STREAM_DATA_BLOCKED: FrameOp(
        _process_stream_data_blocked, _write_stream_data_blocked, on_lost=_again(T.STREAM_DATA_BLOCKED)
    ),
    T.STREAMS_BLOCKED_BIDI: FrameOp(
        _process_data_blocked, _write_streams_blocked, on_lost=_again(T.STREAMS_BLOCKED_BIDI)
    ),
    T.STREAMS_BLOCKED_UNI: FrameOp(
        _process_data_blocked, _write_streams_blocked, on_lost=_again(T.STREAMS_BLOCKED_UNI)
    ),
    T.NEW_CONNECTION_ID: FrameOp(
        _process_new_connection_id, _write_new_connection_id, on_lost=_again(T.NEW_CONNECTION_ID)
    ),
    T.RETIRE_CONNECTION_ID: FrameOp(
        _process_retire_connection_id,
        _write_retire_connection_id,
        _retire_connection_id_acked,
        _again(T.RETIRE_CONNECTION_ID),
        work=40,
    ),
    T.PATH_CHALLENGE: FrameOp(_process_path_challenge),
    T.PATH_RESPONSE: FrameOp(_process_path_response),
    T.CONNECTION_CLOSE: FrameOp(_process_close),
    T.CONNECTION_CLOSE_APPLICATION: FrameOp(_process_close),
    T.HANDSHAKE_DONE: FrameOp(
        _process_handshake_done, _write_handshake_done, on_lost=_again(T.HANDSHAKE_DONE)
    ),
    T.IMMEDIATE_ACK: FrameOp(_process_immediate_ack, _write_immediate_ack),
    T.DATAGRAM: FrameOp(_process_datagram, work=1),  # RFC 9221 §5.2: never sent again
    T.DATAGRAM_LEN: FrameOp(_process_datagram, work=1),
    T.ACK_FREQUENCY: FrameOp(_process_ack_frequency, _write_ack_frequency, on_lost=_again(T.ACK_FREQUENCY)),
}

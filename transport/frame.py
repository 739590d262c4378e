"""Frames (RFC 9000 §19): how each is parsed and written, and where it may stand.

`parse_x(buf, pos, end)` begins after the one-byte type (which stays readable at `pos - 1`) and returns the
frame and the position after it; `end` is the end of the packet's payload. Whatever is malformed
raises ProtocolViolation(FRAME_ENCODING_ERROR). `write_x(...)` returns the frame with its type. Both are
pure. STREAM and CRYPTO data are views of `buf`, not copies. ACK and DATAGRAM have files of their own,
`frame_ack` and `frame_datagram`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from quicfs.transport import varint
from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.frame_ack import parse_ack, parse_ack_frequency, parse_immediate_ack
from quicfs.transport.frame_datagram import parse_datagram
from quicfs.transport.frame_type import FrameType, malformed
from quicfs.transport.packet import MAX_CID_LENGTH, STATELESS_RESET_TOKEN_LENGTH, PacketType

MAX_STREAMS = 1 << 60  # RFC 9000 §4.6: a stream ID must fit a 62-bit integer
PATH_DATA_LENGTH = 8

STREAM_FIN = 0x01
STREAM_LEN = 0x02
STREAM_OFF = 0x04


# --- PADDING, PING, HANDSHAKE_DONE (§19.1, §19.2, §19.20) --------------------------------------------


class PaddingFrame(NamedTuple):
    length: int


class PingFrame(NamedTuple):
    pass


class HandshakeDoneFrame(NamedTuple):
    pass


_ZEROS = re.compile(rb"\0*")
_PADDING_AND_PING = re.compile(rb"[\x00\x01]*")
_PING = PingFrame()
_HANDSHAKE_DONE = HandshakeDoneFrame()


def parse_padding(buf: memoryview, pos: int, end: int) -> tuple[PaddingFrame, int]:
    """All the PADDING frames in a row as one."""
    stop = end_of_padding(buf, pos, end)
    return PaddingFrame(stop - pos + 1), stop


def end_of_padding(buf: memoryview, pos: int, end: int) -> int:
    """Where the PADDING frames end that begin at `pos`. A probe of the MTU is 64 KiB of them, which no loop in
    Python should walk through; nor should an enemy who alternates them with others cost more than his bytes."""
    zeros = _ZEROS.match(buf, pos, end)
    assert zeros is not None, "any number of zeros matches"
    return zeros.end()


def skip_padding_and_ping(buf: memoryview, pos: int, end: int) -> tuple[bool, int]:
    """Whether there is a PING among the PADDING and PING frames that begin at `pos`, and where they end: frames of one
    byte that say nothing must not cost as much as others do."""
    found = _PADDING_AND_PING.match(buf, pos, end)
    assert found is not None, "any number of bytes matches"
    return b"\x01" in found.group(), found.end()


def write_padding(length: int) -> bytes:
    return bytes(length)


def parse_ping(buf: memoryview, pos: int, end: int) -> tuple[PingFrame, int]:
    return _PING, pos


def write_ping() -> bytes:
    return b"\x01"


def parse_handshake_done(buf: memoryview, pos: int, end: int) -> tuple[HandshakeDoneFrame, int]:
    return _HANDSHAKE_DONE, pos


def write_handshake_done() -> bytes:
    return b"\x1e"


# --- CRYPTO, NEW_TOKEN (§19.6, §19.7) ----------------------------------------------------------------


class CryptoFrame(NamedTuple):
    offset: int
    data: memoryview


def parse_crypto(buf: memoryview, pos: int, end: int) -> tuple[CryptoFrame, int]:
    offset, pos = varint.decode(buf, pos)
    length, pos = varint.decode(buf, pos)
    stop = pos + length
    if stop > end:
        malformed("CRYPTO is cut off")
    if offset + length > varint.MAX:
        malformed("CRYPTO offset beyond 2^62-1")  # §19.6
    return CryptoFrame(offset, buf[pos:stop]), stop


def write_crypto_header(offset: int, length: int) -> bytes:
    """All but the data."""
    return b"\x06" + varint.encode(offset) + varint.encode(length)


class NewTokenFrame(NamedTuple):
    token: bytes


def parse_new_token(buf: memoryview, pos: int, end: int) -> tuple[NewTokenFrame, int]:
    length, pos = varint.decode(buf, pos)
    stop = pos + length
    if stop > end:
        malformed("NEW_TOKEN is cut off")
    if not length:
        malformed("NEW_TOKEN with an empty token")  # §19.7
    return NewTokenFrame(bytes(buf[pos:stop])), stop


def write_new_token(token: bytes) -> bytes:
    return b"\x07" + varint.encode(len(token)) + token


# --- STREAM, RESET_STREAM, STOP_SENDING (§19.8, §19.4, §19.5) ----------------------------------------

StreamFields: TypeAlias = tuple[int, int, memoryview, bool]
"""Stream ID, offset, data, FIN: a plain tuple, since most packets hold one."""


def parse_stream(buf: memoryview, pos: int, end: int) -> tuple[StreamFields, int]:
    decode = varint.decode
    bits = buf[pos - 1]
    stream_id, pos = decode(buf, pos)
    offset = 0
    if bits & STREAM_OFF:
        offset, pos = decode(buf, pos)
    stop = end
    if bits & STREAM_LEN:
        length, pos = decode(buf, pos)
        stop = pos + length
    if stop > end or pos > end:
        malformed("STREAM is cut off")
    if offset + stop - pos > varint.MAX:
        malformed("STREAM offset beyond 2^62-1")  # §19.8
    return (stream_id, offset, buf[pos:stop], bits & STREAM_FIN == STREAM_FIN), stop


def write_stream_header(stream_id: int, offset: int, length: int | None, fin: bool) -> bytes:
    """All but the data. No `length` means that the data end where the packet ends."""
    encode = varint.encode
    bits = FrameType.STREAM | fin
    tail = b""
    if length is not None:
        bits |= STREAM_LEN
        tail = encode(length)
    if offset:
        bits |= STREAM_OFF
        tail = encode(offset) + tail
    return bytes((bits,)) + encode(stream_id) + tail


class ResetStreamFrame(NamedTuple):
    stream_id: int
    error_code: int
    final_size: int


class StopSendingFrame(NamedTuple):
    stream_id: int
    error_code: int


# --- Flow control (§19.9 to §19.14) ------------------------------------------------------------------


class MaxDataFrame(NamedTuple):
    maximum: int


class MaxStreamDataFrame(NamedTuple):
    stream_id: int
    maximum: int


class DataBlockedFrame(NamedTuple):
    limit: int


class StreamDataBlockedFrame(NamedTuple):
    stream_id: int
    limit: int


class MaxStreamsFrame(NamedTuple):
    maximum: int
    unidirectional: bool


class StreamsBlockedFrame(NamedTuple):
    limit: int
    unidirectional: bool


def parse_max_streams(buf: memoryview, pos: int, end: int) -> tuple[MaxStreamsFrame, int]:
    unidirectional = buf[pos - 1] == FrameType.MAX_STREAMS_UNI
    maximum, pos = _parse_stream_count(buf, pos, end)
    return MaxStreamsFrame(maximum, unidirectional), pos


def write_max_streams(maximum: int, unidirectional: bool) -> bytes:
    return (b"\x13" if unidirectional else b"\x12") + varint.encode(maximum)


def parse_streams_blocked(buf: memoryview, pos: int, end: int) -> tuple[StreamsBlockedFrame, int]:
    unidirectional = buf[pos - 1] == FrameType.STREAMS_BLOCKED_UNI
    limit, pos = _parse_stream_count(buf, pos, end)
    return StreamsBlockedFrame(limit, unidirectional), pos


def write_streams_blocked(limit: int, unidirectional: bool) -> bytes:
    return (b"\x17" if unidirectional else b"\x16") + varint.encode(limit)


def _parse_stream_count(buf: memoryview, pos: int, end: int) -> tuple[int, int]:
    count, pos = varint.decode(buf, pos)
    if pos > end:
        malformed("frame is cut off")
    if count > MAX_STREAMS:
        malformed("more than 2^60 streams")  # §19.11, §19.14
    return count, pos


# --- Connection IDs and paths (§19.15 to §19.18) -----------------------------------------------------


class NewConnectionIdFrame(NamedTuple):
    sequence_number: int
    retire_prior_to: int
    connection_id: bytes
    stateless_reset_token: bytes


class RetireConnectionIdFrame(NamedTuple):
    sequence_number: int


class PathChallengeFrame(NamedTuple):
    data: bytes


class PathResponseFrame(NamedTuple):
    data: bytes


def parse_new_connection_id(buf: memoryview, pos: int, end: int) -> tuple[NewConnectionIdFrame, int]:
    sequence_number, pos = varint.decode(buf, pos)
    retire_prior_to, pos = varint.decode(buf, pos)
    if pos >= end:
        malformed("NEW_CONNECTION_ID is cut off")
    if retire_prior_to > sequence_number:
        malformed("Retire Prior To beyond the sequence number")  # §19.15
    length = buf[pos]
    if not 1 <= length <= MAX_CID_LENGTH:
        malformed(f"connection ID of {length} bytes")  # §19.15
    pos += 1
    middle = pos + length
    stop = middle + STATELESS_RESET_TOKEN_LENGTH
    if stop > end:
        malformed("NEW_CONNECTION_ID is cut off")
    cid, token = bytes(buf[pos:middle]), bytes(buf[middle:stop])
    return NewConnectionIdFrame(sequence_number, retire_prior_to, cid, token), stop


def write_new_connection_id(sequence_number: int, retire_prior_to: int, cid: bytes, token: bytes) -> bytes:
    if not 1 <= len(cid) <= MAX_CID_LENGTH or len(token) != STATELESS_RESET_TOKEN_LENGTH:
        raise MisuseError("a connection ID has 1 to 20 bytes and its reset token 16")
    head = b"\x18" + varint.encode(sequence_number) + varint.encode(retire_prior_to)
    return head + bytes((len(cid),)) + cid + token


def _parse_path_data(buf: memoryview, pos: int, end: int) -> tuple[bytes, int]:
    stop = pos + PATH_DATA_LENGTH
    if stop > end:
        malformed("path frame is cut off")
    return bytes(buf[pos:stop]), stop


def parse_path_challenge(buf: memoryview, pos: int, end: int) -> tuple[PathChallengeFrame, int]:
    data, pos = _parse_path_data(buf, pos, end)
    return PathChallengeFrame(data), pos


def write_path_challenge(data: bytes) -> bytes:
    return b"\x1a" + data


def parse_path_response(buf: memoryview, pos: int, end: int) -> tuple[PathResponseFrame, int]:
    data, pos = _parse_path_data(buf, pos, end)
    return PathResponseFrame(data), pos


def write_path_response(data: bytes) -> bytes:
    return b"\x1b" + data


# --- CONNECTION_CLOSE (§19.19) -----------------------------------------------------------------------


class ConnectionCloseFrame(NamedTuple):
    error_code: int
    frame_type: int | None
    """None when the application closed (type 0x1d)."""
    reason: str


def parse_connection_close(buf: memoryview, pos: int, end: int) -> tuple[ConnectionCloseFrame, int]:
    own_type = buf[pos - 1]
    error_code, pos = varint.decode(buf, pos)
    frame_type = None
    if own_type == FrameType.CONNECTION_CLOSE:
        frame_type, pos = varint.decode(buf, pos)
    length, pos = varint.decode(buf, pos)
    stop = pos + length
    if stop > end:
        malformed("CONNECTION_CLOSE is cut off")
    # §19.19: UTF-8, which nobody promises to check
    return ConnectionCloseFrame(error_code, frame_type, str(buf[pos:stop], "utf-8", "replace")), stop


def write_connection_close(error_code: int, frame_type: int | None, reason: str, max_size: int) -> bytes:
    """`frame_type` None makes it the application's. The reason is cut to fit `max_size` (28 at least)."""
    encode = varint.encode
    head = (b"\x1d" if frame_type is None else b"\x1c") + encode(error_code)
    if frame_type is not None:
        head += encode(frame_type)
    text = reason.encode()
    room = max(0, max_size - len(head) - varint.size(len(text)))
    if len(text) > room:
        text = text[:room].decode("utf-8", "ignore").encode()
    return head + encode(len(text)) + text


# --- Frames of integers only -------------------------------------------------------------------------

Parse: TypeAlias = Callable[[memoryview, int, int], tuple[Any, int]]


def _integers(frame: type[Any], name: str, count: int) -> Parse:
    """The parser of a frame that is `count` integers."""

    def parse(buf: memoryview, pos: int, end: int) -> tuple[Any, int]:
        values = []
        for _ in range(count):
            value, pos = varint.decode(buf, pos)
            values.append(value)
        if pos > end:
            malformed(f"{name} is cut off")
        return frame(*values), pos

    return parse


def _write_integers(frame_type: FrameType, *values: int) -> bytes:
    return bytes((frame_type,)) + b"".join(map(varint.encode, values))


parse_reset_stream = _integers(ResetStreamFrame, "RESET_STREAM", 3)
parse_stop_sending = _integers(StopSendingFrame, "STOP_SENDING", 2)
parse_max_data = _integers(MaxDataFrame, "MAX_DATA", 1)
parse_max_stream_data = _integers(MaxStreamDataFrame, "MAX_STREAM_DATA", 2)
parse_data_blocked = _integers(DataBlockedFrame, "DATA_BLOCKED", 1)
parse_stream_data_blocked = _integers(StreamDataBlockedFrame, "STREAM_DATA_BLOCKED", 2)
parse_retire_connection_id = _integers(RetireConnectionIdFrame, "RETIRE_CONNECTION_ID", 1)


def write_reset_stream(stream_id: int, error_code: int, final_size: int) -> bytes:
    return _write_integers(FrameType.RESET_STREAM, stream_id, error_code, final_size)


def write_stop_sending(stream_id: int, error_code: int) -> bytes:
    return _write_integers(FrameType.STOP_SENDING, stream_id, error_code)


def write_max_data(maximum: int) -> bytes:
    return _write_integers(FrameType.MAX_DATA, maximum)


def write_max_stream_data(stream_id: int, maximum: int) -> bytes:
    return _write_integers(FrameType.MAX_STREAM_DATA, stream_id, maximum)


def write_data_blocked(limit: int) -> bytes:
    return _write_integers(FrameType.DATA_BLOCKED, limit)


def write_stream_data_blocked(stream_id: int, limit: int) -> bytes:
    return _write_integers(FrameType.STREAM_DATA_BLOCKED, stream_id, limit)


def write_retire_connection_id(sequence_number: int) -> bytes:
    return _write_integers(FrameType.RETIRE_CONNECTION_ID, sequence_number)


# --- The table (§12.4, table 3) ----------------------------------------------------------------------

_ANY = frozenset((PacketType.INITIAL, PacketType.ZERO_RTT, PacketType.HANDSHAKE, PacketType.ONE_RTT))
_NOT_EARLY = _ANY - {PacketType.ZERO_RTT}
_APPLICATION = frozenset((PacketType.ZERO_RTT, PacketType.ONE_RTT))
_ONE_RTT = frozenset((PacketType.ONE_RTT,))


class FrameCodec(NamedTuple):
    name: str
    parse: Parse
    packets: frozenset[PacketType]
    """Packet types that may carry it; in another -> PROTOCOL_VIOLATION (§12.4)."""
    ack_eliciting: bool = True
    probing: bool = False
    """Whether it may be sent on a path that is only probed (§9.1)."""


FRAME_CODECS: dict[int, FrameCodec] = {
    FrameType.PADDING: FrameCodec("PADDING", parse_padding, _ANY, ack_eliciting=False, probing=True),
    FrameType.PING: FrameCodec("PING", parse_ping, _ANY),
    FrameType.ACK: FrameCodec("ACK", parse_ack, _NOT_EARLY, ack_eliciting=False),
    FrameType.ACK_ECN: FrameCodec("ACK", parse_ack, _NOT_EARLY, ack_eliciting=False),
    FrameType.RESET_STREAM: FrameCodec("RESET_STREAM", parse_reset_stream, _APPLICATION),
    FrameType.STOP_SENDING: FrameCodec("STOP_SENDING", parse_stop_sending, _APPLICATION),
    FrameType.CRYPTO: FrameCodec("CRYPTO", parse_crypto, _NOT_EARLY),
    FrameType.NEW_TOKEN: FrameCodec("NEW_TOKEN", parse_new_token, _ONE_RTT),
    **dict.fromkeys(range(0x08, 0x10), FrameCodec("STREAM", parse_stream, _APPLICATION)),
    FrameType.MAX_DATA: FrameCodec("MAX_DATA", parse_max_data, _APPLICATION),
    FrameType.MAX_STREAM_DATA: FrameCodec("MAX_STREAM_DATA", parse_max_stream_data, _APPLICATION),
    FrameType.MAX_STREAMS_BIDI: FrameCodec("MAX_STREAMS", parse_max_streams, _APPLICATION),
    FrameType.MAX_STREAMS_UNI: FrameCodec("MAX_STREAMS", parse_max_streams, _APPLICATION),
    FrameType.DATA_BLOCKED: FrameCodec("DATA_BLOCKED", parse_data_blocked, _APPLICATION),
    FrameType.STREAM_DATA_BLOCKED: FrameCodec("STREAM_DATA_BLOCKED", parse_stream_data_blocked, _APPLICATION),
    FrameType.STREAMS_BLOCKED_BIDI: FrameCodec("STREAMS_BLOCKED", parse_streams_blocked, _APPLICATION),
    FrameType.STREAMS_BLOCKED_UNI: FrameCodec("STREAMS_BLOCKED", parse_streams_blocked, _APPLICATION),
    FrameType.NEW_CONNECTION_ID: FrameCodec(
        "NEW_CONNECTION_ID", parse_new_connection_id, _APPLICATION, probing=True
    ),
    FrameType.RETIRE_CONNECTION_ID: FrameCodec(
        "RETIRE_CONNECTION_ID", parse_retire_connection_id, _APPLICATION
    ),
    FrameType.PATH_CHALLENGE: FrameCodec("PATH_CHALLENGE", parse_path_challenge, _APPLICATION, probing=True),
    FrameType.PATH_RESPONSE: FrameCodec("PATH_RESPONSE", parse_path_response, _ONE_RTT, probing=True),
    FrameType.CONNECTION_CLOSE: FrameCodec(
        "CONNECTION_CLOSE", parse_connection_close, _ANY, ack_eliciting=False
    ),
    FrameType.CONNECTION_CLOSE_APPLICATION: FrameCodec(
        "CONNECTION_CLOSE", parse_connection_close, _APPLICATION, ack_eliciting=False
    ),
    FrameType.HANDSHAKE_DONE: FrameCodec("HANDSHAKE_DONE", parse_handshake_done, _ONE_RTT),
    FrameType.IMMEDIATE_ACK: FrameCodec("IMMEDIATE_ACK", parse_immediate_ack, _ONE_RTT),
    FrameType.DATAGRAM: FrameCodec("DATAGRAM", parse_datagram, _APPLICATION),
    FrameType.DATAGRAM_LEN: FrameCodec("DATAGRAM", parse_datagram, _APPLICATION),
    FrameType.ACK_FREQUENCY: FrameCodec("ACK_FREQUENCY", parse_ack_frequency, _ONE_RTT),
}


def parse_frame(buf: memoryview, pos: int, end: int, packet_type: PacketType) -> tuple[int, Any, int]:
    """Type, frame and position after it of the frame that begins at `pos` < `end`, checked against the table."""
    frame_type = buf[pos]
    start = pos + 1
    if frame_type >= 0x40:  # a type of more than one byte
        frame_type, start = varint.decode(buf, pos)
        if start > end:
            malformed("frame type is cut off")
        # §12.4: a type not in its shortest form MAY be called a PROTOCOL_VIOLATION
        if frame_type in FRAME_CODECS and start - pos != varint.size(frame_type):
            raise ProtocolViolation(
                TransportErrorCode.PROTOCOL_VIOLATION, "frame type is not in its shortest form", frame_type
            )
    codec = FRAME_CODECS.get(frame_type)
    if codec is None:
        malformed("unknown frame type", frame_type)  # §12.4 -> FRAME_ENCODING_ERROR
    if packet_type not in codec.packets:
        raise ProtocolViolation(
            TransportErrorCode.PROTOCOL_VIOLATION,
            f"{codec.name} in a packet of type {packet_type.name}",
            frame_type,
        )
    try:
        frame, pos = codec.parse(buf, start, end)
    except ProtocolViolation as violation:
        violation.frame_type = frame_type
        raise
    return frame_type, frame, pos

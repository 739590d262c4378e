"""Messages of sendmsg and recvmsg: data with control messages and flags (draft-lxin-quic-socket-apis §5)."""

from __future__ import annotations

import errno
import socket as _socket
from collections.abc import Iterable
from typing import Final, NamedTuple

from quicfs.transport.uapi import (
    SOL_QUIC,
    CmsgType,
    CryptoLevel,
    HandshakeInfo,
    MsgFlags,
    StreamFlags,
    StreamInfo,
)

Ancillary = tuple[int, int, bytes]
"""Level, type and structure of a control message, as in the socket module."""

_STREAM_FLAGS: Final = int(
    StreamFlags.NEW | StreamFlags.FIN | StreamFlags.UNI | StreamFlags.DONTWAIT | StreamFlags.SNDBLOCK
)
_IGNORED: Final = _socket.MSG_NOSIGNAL  # nobody gets a signal here
SEND_FLAGS: Final = _STREAM_FLAGS | MsgFlags.DATAGRAM | _socket.MSG_DONTWAIT | _IGNORED
RECEIVE_FLAGS: Final = _socket.MSG_DONTWAIT | _IGNORED


class Message(NamedTuple):
    """What `recvmsg` returns. `flags` holds NOTIFICATION or DATAGRAM; of a stream the flags are in STREAM_INFO."""

    data: memoryview
    ancdata: list[Ancillary]
    flags: int


class Received(NamedTuple):
    """What `recv` returns: bytes of one stream with the flags of STREAM_INFO, or with `stream_id` -1 a datagram, a
    notification (the event's number, one byte, and its structure) or CRYPTO bytes of `crypto_level`."""

    data: memoryview
    stream_id: int = -1
    flags: StreamFlags = StreamFlags(0)
    msg_flags: MsgFlags = MsgFlags(0)
    crypto_level: CryptoLevel | None = None

    def message(self) -> Message:
        ancdata: list[Ancillary] = []
        if self.stream_id >= 0:
            info = StreamInfo(self.stream_id, self.flags)
            ancdata.append((SOL_QUIC, CmsgType.STREAM_INFO, info.pack()))
        elif self.crypto_level is not None:
            ancdata.append((SOL_QUIC, CmsgType.HANDSHAKE_INFO, HandshakeInfo(self.crypto_level).pack()))
        return Message(self.data, ancdata, int(self.msg_flags))


class Instructions(NamedTuple):
    """What the control messages and flags of a sendmsg say."""

    stream_id: int
    flags: StreamFlags
    datagram: bool
    wait: bool
    crypto_level: CryptoLevel | None


def read_instructions(ancdata: Iterable[Ancillary], flags: int) -> Instructions:
    """Without STREAM_INFO the flags of the message count, and the stream that was sent on last.

    OSError EINVAL for a flag or control message that does not exist or does not fit.
    """
    check_flags(flags, SEND_FLAGS)
    stream_id, stream_flags = -1, flags & _STREAM_FLAGS
    level: CryptoLevel | None = None
    for cmsg_level, cmsg_type, data in ancdata:
        try:
            match (cmsg_level, cmsg_type):
                case (288, CmsgType.STREAM_INFO):
                    info = StreamInfo.unpack(data)
                    check_flags(info.flags, _STREAM_FLAGS)
                    stream_id, stream_flags = info.stream_id, stream_flags | info.flags
                case (288, CmsgType.HANDSHAKE_INFO):
                    level = CryptoLevel(HandshakeInfo.unpack(data).crypto_level)
                case _:
                    raise ValueError(f"there is no control message {cmsg_type} at level {cmsg_level}")
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error)) from error
    if stream_flags & StreamFlags.UNI and not stream_flags & StreamFlags.NEW:
        raise OSError(errno.EINVAL, "UNI goes with NEW")
    datagram = bool(flags & MsgFlags.DATAGRAM)
    if datagram and (stream_flags or stream_id != -1 or level is not None):
        raise OSError(errno.EINVAL, "a datagram belongs to no stream")
    if level is not None and (stream_flags or stream_id != -1):
        raise OSError(errno.EINVAL, "CRYPTO bytes belong to no stream")
    wait = not flags & _socket.MSG_DONTWAIT
    return Instructions(stream_id, StreamFlags(stream_flags), datagram, wait, level)


def check_flags(flags: int, allowed: int) -> None:
    if flags & ~allowed:
        raise OSError(errno.EINVAL, f"flags {flags & ~allowed:#x} mean nothing here")


def join(buffers: Iterable[bytes | bytearray | memoryview]) -> bytes | memoryview:
    """One buffer without a copy where there is one only and it cannot change."""
    parts = [buffer if isinstance(buffer, bytes | memoryview) else bytes(buffer) for buffer in buffers]
    return parts[0] if len(parts) == 1 else b"".join(parts)

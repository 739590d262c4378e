"""The calls that an agent makes on its descriptor, as messages of a SOCK_SEQPACKET pair.

One message is a fixed header and a payload, in native byte order (both ends are on one machine):

    u8 op | u8 level | u16 optname | u32 seq | u32 errno | payload

    op              level  optname  seq   errno  payload          direction
    GETSOCKOPT 1    0      option   n     0      -                agent -> kernel
    SETSOCKOPT 2    0      option   n     0      the value        agent -> kernel
    SENDMSG 3       level  0        n     0      CRYPTO bytes     agent -> kernel
    REPLY 4         0      0        n     errno  the value got    kernel -> agent, answers call n
    RECVMSG 5       level  0        0     0      CRYPTO bytes     kernel -> agent, as they come

Calls are carried out in the order sent; an agent may send several before it reads the replies. `level` is
uapi.CryptoLevel, `optname` uapi.SockOpt; which options may be used is in `GETTABLE` and `SETTABLE`.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

from quicfs.transport.uapi import CryptoLevel, SockOpt

MAX_PAYLOAD: Final = 16384
"""Longer CRYPTO data goes in several messages; option values never come near."""

HEADER: Final = struct.Struct("=BBHII")
MAX_MESSAGE: Final = HEADER.size + MAX_PAYLOAD

GETTABLE: Final = frozenset(
    {SockOpt.CONFIG, SockOpt.TOKEN, SockOpt.ALPN, SockOpt.SESSION_TICKET, SockOpt.TRANSPORT_PARAM_EXT}
)
SETTABLE: Final = frozenset(
    {
        SockOpt.CONNECTION_CLOSE,  # why the handshake failed, before DONE
        SockOpt.ALPN,  # the protocol that was chosen
        SockOpt.SESSION_TICKET,
        SockOpt.CRYPTO_SECRET,
        SockOpt.TRANSPORT_PARAM_EXT,
    }
)


class Op(enum.IntEnum):
    GETSOCKOPT = 1
    SETSOCKOPT = 2
    SENDMSG = 3
    REPLY = 4
    RECVMSG = 5


CALLS: Final = frozenset({Op.GETSOCKOPT, Op.SETSOCKOPT, Op.SENDMSG})


class Message(NamedTuple):
    """One message; fields that its op does not use are 0."""

    op: Op
    level: int = 0
    optname: int = 0
    seq: int = 0
    errno: int = 0
    payload: bytes = b""


def build(message: Message) -> bytes:
    """ValueError when the payload is longer than MAX_PAYLOAD or a number does not fit."""
    op, level, optname, seq, errno, payload = message
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"payload of {len(payload)} bytes, at most {MAX_PAYLOAD} fit")
    try:
        return HEADER.pack(op, level, optname, seq, errno) + payload
    except struct.error as error:
        raise ValueError(f"{message[:5]}: {error}") from None


def parse(data: bytes) -> Message:
    """ValueError, with the reason, for what is not a message of this protocol."""
    size = len(data)
    if not HEADER.size <= size <= MAX_MESSAGE:
        raise ValueError(f"descriptor message of {size} bytes")
    op, level, optname, seq, errno = HEADER.unpack_from(data)
    try:
        known = Op(op)
    except ValueError:
        raise ValueError(f"descriptor operation {op} is not known") from None
    if known in (Op.SENDMSG, Op.RECVMSG) and (level > CryptoLevel.EARLY or size == HEADER.size):
        raise ValueError(f"CRYPTO data of {size - HEADER.size} bytes at level {level}")
    if known is Op.GETSOCKOPT and size != HEADER.size:
        raise ValueError("getsockopt takes no value")
    return Message(known, level, optname, seq, errno, data[HEADER.size :])


def build_crypto(op: Op, level: int, data: bytes, seq: int = 0) -> list[bytes]:
    """CRYPTO bytes as SENDMSG or RECVMSG messages; sequence numbers count up from `seq`."""
    pieces = range(0, len(data), MAX_PAYLOAD)
    return [
        build(Message(op, level, 0, seq and seq + i, 0, data[start : start + MAX_PAYLOAD]))
        for i, start in enumerate(pieces)
    ]

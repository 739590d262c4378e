"""The calls that an agent makes on its descriptor, as messages of a SOCK_SEQPACKET pair.

A message is one or more records; a record is a fixed header and a payload, in native byte order (both ends are
on one machine):

    u8 op | u8 level | u16 optname | u32 seq | u32 errno | u32 length | payload

    op              level  optname  seq   errno  payload          direction
    GETSOCKOPT 1    0      option   n     0      -                agent -> kernel
    SETSOCKOPT 2    0      option   n     0      the value        agent -> kernel
    SENDMSG 3       level  0        n     0      CRYPTO bytes     agent -> kernel
    REPLY 4         0      0        n     errno  the value got    kernel -> agent, answers call n
    RECVMSG 5       level  0        0     0      CRYPTO bytes     kernel -> agent, as they come

Calls are carried out in the order sent; an agent may send several before it reads the replies. `level` is
uapi.CryptoLevel, `optname` uapi.SockOpt; which options may be used is in `GETTABLE` and `SETTABLE`.

SESSION_TICKET is got before a client's handshake (`wire.ticket`; empty: nothing to resume) and set for each ticket that
comes later. A client's agent keeps the descriptor for that after DONE, for CONFIG's receive_session_ticket seconds or
until the other end closes it; only SESSION_TICKET and CONNECTION_CLOSE may be set then, and CRYPTO bytes go on coming.
CRYPTO_SECRET with level EARLY installs the keys of 0-RTT, where CONFIG's early_data allows it; a client's with cipher
type 0 takes them back, since the server refused, and comes before the server's TRANSPORT_PARAM_EXT.
CHANNEL_BINDING (RFC 9266) is set once TLS is complete, and so is PEER_CERTIFICATE where one was verified.
Records that are ready at one time travel together: each message costs a switch of processes.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from quicfs.transport.uapi import CryptoLevel, SockOpt

MAX_PAYLOAD: Final = 16384
"""Longer CRYPTO data goes in several records; option values never come near."""

HEADER: Final = struct.Struct("=BBHIII")
MAX_MESSAGE: Final = 4 * (HEADER.size + MAX_PAYLOAD)
MAX_RECORDS: Final = 64  # of one message

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
        SockOpt.CHANNEL_BINDING,  # these two before DONE
        SockOpt.PEER_CERTIFICATE,
    }
)


class Op(enum.IntEnum):
    GETSOCKOPT = 1
    SETSOCKOPT = 2
    SENDMSG = 3
    REPLY = 4
    RECVMSG = 5


CALLS: Final = frozenset({Op.GETSOCKOPT, Op.SETSOCKOPT, Op.SENDMSG})


class Record(NamedTuple):
    """Fields that its op does not use are 0."""

    op: Op
    level: int = 0
    optname: int = 0
    seq: int = 0
    errno: int = 0
    payload: bytes = b""


def build(record: Record) -> bytes:
    """ValueError when the payload is longer than MAX_PAYLOAD or a number does not fit."""
    op, level, optname, seq, errno, payload = record
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"payload of {len(payload)} bytes, at most {MAX_PAYLOAD} fit")
    try:
        return HEADER.pack(op, level, optname, seq, errno, len(payload)) + payload
    except struct.error as error:
        raise ValueError(f"{record[:5]}: {error}") from None


def build_crypto(op: Op, level: int, data: bytes, seq: int = 0) -> list[bytes]:
    """CRYPTO bytes as SENDMSG or RECVMSG records; sequence numbers count up from `seq` if that is not 0."""
    return [
        build(Record(op, level, 0, seq and seq + i, 0, data[start : start + MAX_PAYLOAD]))
        for i, start in enumerate(range(0, len(data), MAX_PAYLOAD))
    ]


def messages(records: Iterable[bytes]) -> Iterator[bytes]:
    """Join built records into as few messages as may hold them."""
    batch: list[bytes] = []
    size = 0
    for record in records:
        if batch and (size + len(record) > MAX_MESSAGE or len(batch) == MAX_RECORDS):
            yield b"".join(batch)
            batch, size = [], 0
        batch.append(record)
        size += len(record)
    if batch:
        yield b"".join(batch)


def parse(data: bytes) -> list[Record]:
    """The records of one message. ValueError, with the reason, for what is not of this protocol."""
    records: list[Record] = []
    at = 0
    while at < len(data) and len(records) < MAX_RECORDS:
        record = _parse_one(data, at)
        records.append(record)
        at += HEADER.size + len(record.payload)
    if at != len(data) or not records:
        raise ValueError(f"descriptor message of {len(data)} bytes, {len(records)} records")
    return records


def _parse_one(data: bytes, at: int) -> Record:
    start = at + HEADER.size
    if start > len(data):
        raise ValueError(f"descriptor message of {len(data)} bytes")
    op, level, optname, seq, errno, length = HEADER.unpack_from(data, at)
    if length > MAX_PAYLOAD or start + length > len(data):
        raise ValueError(f"payload of {length} bytes")
    try:
        known = Op(op)
    except ValueError:
        raise ValueError(f"descriptor operation {op} is not known") from None
    if known in (Op.SENDMSG, Op.RECVMSG) and (level > CryptoLevel.EARLY or not length):
        raise ValueError(f"CRYPTO data of {length} bytes at level {level}")
    if known is Op.GETSOCKOPT and length:
        raise ValueError("getsockopt takes no value")
    return Record(known, level, optname, seq, errno, data[start : start + length])

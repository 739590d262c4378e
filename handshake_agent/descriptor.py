"""The QUIC socket that an agent was given, as the few calls that a TLS handshake needs.

`QuicDescriptor` is what the handshake uses. On a kernel with QUIC it is a socket whose SO_PROTOCOL is 261,
and an implementation for that belongs into `open_descriptor`; `ModelDescriptor` carries the same calls over a
SOCK_SEQPACKET pair (quicfs.transport.wire.descriptor).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Awaitable
from typing import Final, Protocol

from quicfs.transport.wire import descriptor as wire
from quicfs.transport.wire.channel import Channel
from quicfs.transport.wire.descriptor import Op, Record

MAX_UNREAD: Final = 128 * 1024
"""CRYPTO bytes from the peer that TLS has not taken; a certificate chain is far smaller."""


class QuicDescriptor(Protocol):
    """Errors are OSError. Calls that return None are carried out in order but may be so a little later; what
    became of them is known when `flush` returns, and any later call raises the first of their errors."""

    def getsockopt(self, optname: int) -> Awaitable[bytes]: ...

    def setsockopt(self, optname: int, value: bytes) -> None: ...

    def sendmsg(self, level: int, data: bytes) -> None:
        """CRYPTO bytes for the peer at a uapi.CryptoLevel."""

    async def recvmsg(self) -> tuple[int, bytes]:
        """The peer's next CRYPTO bytes, in order, and their level."""

    async def flush(self) -> None: ...

    def close(self) -> None:
        """Twice is allowed."""


def open_descriptor(fd: int) -> QuicDescriptor:
    """Takes over `fd`. Raises OSError (EPROTONOSUPPORT) when it is no socket that TLS can be run on."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise
    if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_SEQPACKET:
        return ModelDescriptor(sock)
    sock.close()
    raise OSError(errno.EPROTONOSUPPORT, "the descriptor is no QUIC socket")


class ModelDescriptor:
    def __init__(self, sock: socket.socket) -> None:
        self._replies: dict[int, asyncio.Future[bytes] | None] = {}  # None: only an error matters
        self._seq = 0
        self._outgoing: list[bytes] = []
        self._received: deque[tuple[int, bytes]] = deque()
        self._unread = 0
        self._error: OSError | None = None
        self._changed = asyncio.Event()
        self._channel = Channel(sock, self._on_message, self._on_close, max_message=wire.MAX_MESSAGE)

    def getsockopt(self, optname: int) -> Awaitable[bytes]:
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._call(Record(Op.GETSOCKOPT, optname=optname, seq=self._next_seq()), reply)
        return reply

    def setsockopt(self, optname: int, value: bytes) -> None:
        self._call(Record(Op.SETSOCKOPT, optname=optname, seq=self._next_seq(), payload=value), None)

    def sendmsg(self, level: int, data: bytes) -> None:
        for start in range(0, len(data), wire.MAX_PAYLOAD):
            piece = data[start : start + wire.MAX_PAYLOAD]
            self._call(Record(Op.SENDMSG, level=level, seq=self._next_seq(), payload=piece), None)

    async def recvmsg(self) -> tuple[int, bytes]:
        while not self._received:
            await self._wait()
        level, data = self._received.popleft()
        self._unread -= len(data)
        return level, data

    async def flush(self) -> None:
        self._raise_error()
        while self._replies:
            await self._wait()

    def close(self) -> None:
        self._fail(OSError(errno.EBADF, "the descriptor is closed"))

    def _next_seq(self) -> int:
        self._seq = self._seq % 0xFFFFFFFF + 1
        return self._seq

    def _call(self, record: Record, reply: asyncio.Future[bytes] | None) -> None:
        self._raise_error()
        if not self._outgoing:  # what is called before the loop turns travels together
            asyncio.get_running_loop().call_soon(self._send)
        self._outgoing.append(wire.build(record))
        self._replies[record.seq] = reply

    def _send(self) -> None:
        records, self._outgoing = self._outgoing, []
        if self._error is not None:
            return
        try:
            for message in wire.messages(records):
                self._channel.send(message)
        except OSError as error:
            self._fail(error)

    async def _wait(self) -> None:
        self._raise_error()
        self._changed.clear()
        await self._changed.wait()
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _on_message(self, data: bytes, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        for record in wire.parse(data):
            match record.op:
                case Op.REPLY:
                    self._on_reply(record)
                case Op.RECVMSG:
                    self._on_crypto(record)
                case _:
                    raise ValueError(f"{record.op.name} is not for an agent")
        self._changed.set()

    def _on_crypto(self, record: Record) -> None:
        self._unread += len(record.payload)
        if self._unread > MAX_UNREAD:
            raise ValueError("too many CRYPTO bytes from the peer")
        self._received.append((record.level, record.payload))

    def _on_reply(self, record: Record) -> None:
        if record.seq not in self._replies:
            raise ValueError(f"a reply to call {record.seq}, which was not made")
        reply = self._replies.pop(record.seq)
        error = OSError(record.errno, os.strerror(record.errno)) if record.errno else None
        if reply is None:
            self._error = self._error or error
        elif not reply.done():
            if error is None:
                reply.set_result(record.payload)
            else:
                reply.set_exception(error)

    def _on_close(self, error: Exception | None) -> None:
        reason = f": {error}" if error else ""
        self._fail(ConnectionResetError(errno.ECONNRESET, f"the other side closed the descriptor{reason}"))

    def _fail(self, error: OSError) -> None:
        self._channel.close()
        self._error = self._error or error
        for reply in self._replies.values():
            if reply is not None and not reply.done():
                reply.set_exception(self._error)
                reply.exception()  # whoever waited may be gone
        self._replies.clear()
        self._changed.set()

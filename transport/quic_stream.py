"""A stream for an application: a `ByteStream` over a connection's stream."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from quicfs.transport.errors import ClosedError
from quicfs.transport.stream import SEND_DONE, RecvState, SendState, Stream
from quicfs.transport.waiters import Waiters

if TYPE_CHECKING:
    from quicfs.transport.data_socket import DataSocket


class StreamResetError(ConnectionError):
    """The peer reset the stream, or asked us to stop sending on it; `code` is the application's."""

    def __init__(self, stream_id: int, code: int) -> None:
        super().__init__(f"stream {stream_id} was given up by the peer (code {code:#x})")
        self.code = code


class QuicStream:
    """A `bytestream.ByteStream` with any number of writers, whose messages do not mix, and of readers, who share
    what comes."""

    def __init__(self, owner: DataSocket, stream: Stream) -> None:
        self._owner = owner
        self._stream = stream
        self._readers = Waiters()
        self._writers = Waiters()
        self._write_lock = asyncio.Lock()
        self.ended = False  # the reader has heard of the end
        self._abandoned = False  # nobody reads any more

    @property
    def stream_id(self) -> int:
        return self._stream.stream_id

    @property
    def early(self) -> bool:
        """Something of it came in 0-RTT packets (see `QuicSocket.early_data`)."""
        return self._stream.early

    @property
    def peer(self) -> str:
        return self._owner.peer

    @property
    def secured(self) -> bool:
        return True

    # --- reading

    async def recv(self, limit: int = 1 << 20) -> memoryview:
        """See `ByteStream.recv`. StreamResetError if the peer reset the stream."""
        recv = self._stream.recv
        if recv is None:
            raise OSError("the stream is send-only")
        while self._abandoned or not recv.readable:
            if not self._owner.reading:
                return memoryview(b"")
            self._owner.check_open()
            if self._abandoned:
                return memoryview(b"")
            await self._readers.wait()
        if recv.queue.available:
            return self._owner.read(self._stream, limit)
        if recv.state in (RecvState.RESET_RECVD, RecvState.RESET_READ):
            self._owner.reset_read(self._stream)
            raise StreamResetError(self.stream_id, recv.error_code)
        self.ended = True
        return memoryview(b"")

    def stop_sending(self, error_code: int) -> None:
        """Nobody reads this stream any more: the peer is told (RFC 9000 §3.5), and what came and comes is dropped."""
        self._abandoned = True
        self._owner.stop_sending(self._stream, error_code)
        self._owner.discard(self._stream)
        self._readers.wake()

    # --- writing

    async def send(self, *parts: bytes | memoryview) -> None:
        """See `ByteStream.send`. StreamResetError if the peer asked to stop."""
        async with self._write_lock:
            for part in parts:
                self._write(part)
            await self._room()

    @property
    def has_room(self) -> bool:
        """Whether `send` would not have to wait."""
        send = self._stream.send
        if send is None or self._write_lock.locked():
            return send is None
        return send.queue.pending <= self._owner.send_buffer_limit()

    async def send_when_room(self, data: bytes | memoryview) -> None:
        """`send` that waits first: cancelled, it has taken nothing."""
        while not self.has_room:
            send = self._stream.send
            if send is not None and send.stop_code is not None:
                raise StreamResetError(self.stream_id, send.stop_code)
            await self._wait_writable()
        self._write(data)

    def send_now(self, data: bytes | memoryview) -> None:
        """`send` without waiting, to be used while there is room."""
        self._write(data)

    def _write(self, data: bytes | memoryview, *, fin: bool = False) -> None:
        send = self._stream.send
        if send is None:
            raise OSError("the stream is receive-only")
        self._owner.check_open()
        if send.stop_code is not None:
            raise StreamResetError(self.stream_id, send.stop_code)
        self._owner.write(self._stream, data, fin=fin)

    async def _room(self) -> None:
        """Wait until little enough is unacknowledged."""
        send = self._stream.send
        assert send is not None
        limit = self._owner.send_buffer_limit()
        if send.queue.pending <= limit:
            return
        while send.queue.pending > limit // 2 and send.stop_code is None:
            await self._wait_writable()

    async def _wait_writable(self) -> None:
        self._owner.check_open()
        await self._writers.wait()

    async def send_eof(self) -> None:
        """End our direction; what is queued still goes out."""
        send = self._stream.send
        if send is None or send.finished or send.state in SEND_DONE or send.state is SendState.RESET_SENT:
            return
        async with self._write_lock:
            self._write(b"", fin=True)

    async def drained(self) -> None:
        """Wait until everything that was sent, the end included, is acknowledged."""
        send = self._stream.send
        assert send is not None
        while send.queue.pending or (send.finished and not send.fin_acked):
            if send.stop_code is not None:
                raise StreamResetError(self.stream_id, send.stop_code)
            await self._wait_writable()

    def reset(self, error_code: int) -> None:
        """Give the sending direction up at once; what is queued is lost (RFC 9000 §3.1)."""
        self._owner.reset(self._stream, error_code)

    async def aclose(self) -> None:
        """See `ByteStream.aclose`."""
        with contextlib.suppress(ClosedError, StreamResetError):  # that direction is over already
            await self.send_eof()
        if self._stream.recv is not None:
            self.stop_sending(0)

    # --- from the socket

    def on_readable(self) -> None:
        if self._abandoned:
            self._owner.discard(self._stream)
        self._readers.wake()

    def let_go(self) -> None:
        """The connection was closed here: nobody reads what came, and what is queued does not go out any more."""
        self._abandoned = True
        for part in (self._stream.recv, self._stream.send):
            if part is not None:
                part.queue.discard()

    def on_writable(self) -> None:
        self._writers.wake()

"""What an application sends and receives on a socket: streams, messages, datagrams and notifications.

`QuicSocket` adds addresses, listening, the handshake and options. Streams are the convenient face; `sendmsg` and
`recvmsg` are the kernel's, and `send` and `recv` the same with plain arguments. The two ways may be mixed: a
stream that `recv` returned bytes of does not come to `accept_stream` any more.
"""

from __future__ import annotations

import asyncio
import errno
import socket as _socket
from collections.abc import Iterable

from quicfs.transport import limits, messages
from quicfs.transport.conn import Connection
from quicfs.transport.driver import Driver
from quicfs.transport.errors import ClosedError, MisuseError, TransportErrorCode
from quicfs.transport.messages import Ancillary, Message, Received
from quicfs.transport.quic_stream import QuicStream
from quicfs.transport.seal import short_overhead
from quicfs.transport.state import OPEN
from quicfs.transport.stream import RecvState, Stream
from quicfs.transport.streams import BIDI, UNI
from quicfs.transport.uapi import CryptoLevel, MsgFlags, StreamFlags
from quicfs.transport.waiters import Waiters


class DataSocket:
    """The data of one connection. Belongs to the event loop it was made in."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._driver: Driver | None = None
        self._conn: Connection | None = None
        self._streams: dict[Stream, QuicStream] = {}
        self._incoming: dict[Stream, QuicStream] = {}  # not accepted yet
        self._unread: dict[Stream, None] = {}  # something to be received; in the order of their turns
        self._active: Stream | None = None  # that was sent on last
        self._arrived = Waiters()  # accept, accept_stream
        self._received = Waiters()  # recvmsg
        self._sendable = Waiters()  # a stream or a datagram more
        self._reading = True
        self._writing = True
        self.channel_binding = b""
        """tls-exporter (RFC 9266), once the handshake is done: 32 bytes that are the same at both ends of this
        connection and for no other one. Empty if nobody has told."""
        self.peer_certificate = b""
        """The peer's certificate (DER), if TLS has verified one."""

    @property
    def connection(self) -> Connection:
        if self._conn is None:
            raise OSError(errno.ENOTCONN, "the socket is not connected")
        return self._conn

    # --- streams

    def open_stream(self, *, unidirectional: bool = False, report: bool = True) -> QuicStream:
        """A new stream; BlockingIOError (EAGAIN) at the peer's limit (see `wait_open_stream`).

        `report`: tell the peer with STREAMS_BLOCKED that its limit stops us.
        """
        self._check_writing()
        try:
            stream = self.connection.open_stream(unidirectional=unidirectional, report=report)
        except MisuseError as error:
            self._kick()
            raise BlockingIOError(errno.EAGAIN, str(error)) from error
        return self._adopt(stream)

    async def wait_open_stream(self, *, unidirectional: bool = False, report: bool = True) -> QuicStream:
        """A new stream, as soon as the peer allows it."""
        while True:
            try:
                return self.open_stream(unidirectional=unidirectional, report=report)
            except BlockingIOError:
                await self._sendable.wait()

    async def accept_stream(self) -> QuicStream:
        """The next stream that the peer opened."""
        while not self._incoming:
            self.check_open()
            await self._arrived.wait()
        stream = next(iter(self._incoming))
        return self._incoming.pop(stream)

    def _adopt(self, stream: Stream) -> QuicStream:
        adopted = self._streams[stream] = QuicStream(self, stream)
        return adopted

    def _forget(self, stream: Stream) -> None:
        """Both parts are done. Who holds the stream may keep it."""
        self._streams.pop(stream, None)
        self._unread.pop(stream, None)
        if not self._reading:
            self._incoming.pop(stream, None)  # what came was dropped: nothing is left to accept

    def stream(self, stream_id: int) -> Stream:
        """An open stream; OSError EINVAL if there is none of that ID."""
        stream = self.connection.streams.get(stream_id)
        if stream is None:
            raise OSError(errno.EINVAL, f"stream {stream_id} is not open")
        return stream

    def _find(self, stream_id: int) -> QuicStream:
        if stream_id == -1:
            if self._active is None:
                raise OSError(
                    errno.EINVAL, "nothing was sent on a stream yet: name one, or open one with NEW"
                )
            stream_id = self._active.stream_id
        stream = self.stream(stream_id)
        return self._streams.get(stream) or self._adopt(stream)

    # --- sending messages

    async def sendmsg(
        self,
        buffers: Iterable[bytes | bytearray | memoryview],
        ancdata: Iterable[Ancillary] = (),
        flags: int = 0,
    ) -> int:
        """Send one message as Linux does it; returns its bytes, which are all taken.

        STREAM_INFO names the stream (-1: the one that was sent on last, or with NEW the next one) and its
        StreamFlags: NEW opens it (UNI: unidirectional), FIN ends it, DONTWAIT gives EAGAIN at the limit of
        streams, SNDBLOCK tells the peer of that. HANDSHAKE_INFO makes it CRYPTO bytes of a level.
        `flags` may hold stream flags as well, DATAGRAM, and MSG_DONTWAIT: EAGAIN instead of waiting for room.
        """
        what = messages.read_instructions(ancdata, flags)
        data = messages.join(buffers)
        if what.datagram:
            await self._send_datagram(data, wait=what.wait)
        elif what.crypto_level is not None:
            self.send_crypto(what.crypto_level, bytes(data))
        else:
            await self._send_on_stream(data, what.stream_id, what.flags, wait=what.wait)
        return len(data)

    async def send(self, data: bytes | memoryview, stream_id: int = -1, flags: int = 0) -> tuple[int, int]:
        """`sendmsg` with plain arguments: `(bytes taken, stream ID)`; the ID is -1 for a datagram."""
        what = messages.read_instructions((), flags)
        if what.datagram:
            await self._send_datagram(data, wait=what.wait)
            return len(data), -1
        return len(data), await self._send_on_stream(data, stream_id, what.flags, wait=what.wait)

    async def _send_on_stream(
        self, data: bytes | memoryview, stream_id: int, flags: StreamFlags, *, wait: bool
    ) -> int:
        self._check_writing()
        if flags & StreamFlags.NEW:
            unidirectional = bool(flags & StreamFlags.UNI)
            report = bool(flags & StreamFlags.SNDBLOCK)
            following = self.connection.streams.next_id(UNI if unidirectional else BIDI)
            if stream_id not in (-1, following):
                raise OSError(errno.EINVAL, f"the next stream is {following}")
            if flags & StreamFlags.DONTWAIT or not wait:
                stream = self.open_stream(unidirectional=unidirectional, report=report)
            else:
                stream = await self.wait_open_stream(unidirectional=unidirectional, report=report)
        else:
            stream = self._find(stream_id)
            if not wait and not stream.has_room:
                raise BlockingIOError(errno.EAGAIN, f"stream {stream.stream_id} is full")
        self._active = self.stream(stream.stream_id)
        if wait:
            await stream.send_when_room(data)
        else:
            stream.send_now(data)
        if flags & StreamFlags.FIN:
            await stream.send_eof()
        return stream.stream_id

    async def _send_datagram(self, data: bytes | memoryview, *, wait: bool) -> None:
        while True:
            self._check_writing()
            conn = self.connection
            if not conn.datagrams.limit:
                raise OSError(errno.EOPNOTSUPP, "the peer takes no datagrams")
            most = conn.datagrams.largest(conn.path.pmtud.current - short_overhead(conn, 4))
            if len(data) > most:
                raise OSError(errno.EMSGSIZE, f"a datagram of {len(data)} bytes, at most {most} fit now")
            if not conn.datagrams.full:
                break
            if not wait:
                raise BlockingIOError(errno.EAGAIN, "too many datagrams wait to be sent")
            await self._sendable.wait()
        conn.datagrams.send(bytes(data), self.loop.time())
        self._kick()

    def _check_writing(self) -> None:
        self.check_open()
        if not self._writing:
            raise BrokenPipeError(errno.EPIPE, "the socket is shut down for sending")

    # --- receiving messages

    async def recvmsg(self, bufsize: int = 1 << 20, flags: int = 0) -> Message:
        """The next message as Linux gives it: a notification, a datagram, or bytes of whichever stream has some, in
        turn, with STREAM_INFO and FIN in it with the last ones; CRYPTO bytes with HANDSHAKE_INFO while no agent
        does the handshake. MSG_DONTWAIT: EAGAIN if there is none. Empty without control messages after
        shutdown.

        Of a stream that the peer reset nothing more comes; the event STREAM_UPDATE tells of it.
        """
        return (await self.recv(bufsize, flags)).message()

    async def recv(self, limit: int = 1 << 20, flags: int = 0) -> Received:
        """`recvmsg` with a plain result."""
        messages.check_flags(flags, messages.RECEIVE_FLAGS)
        while True:
            found = self._next(limit)
            if found is not None:
                return found
            if not self._reading:
                return Received(memoryview(b""))
            self.check_open()
            if flags & _socket.MSG_DONTWAIT:
                raise BlockingIOError(errno.EAGAIN, "nothing has come")
            await self._received.wait()

    def _next(self, limit: int) -> Received | None:
        conn = self.connection
        if conn.events:
            event, payload = conn.events.popleft()
            return Received(memoryview(bytes((event,)) + payload), msg_flags=MsgFlags.NOTIFICATION)
        if conn.datagrams.received:
            return Received(memoryview(conn.datagrams.take())[:limit], msg_flags=MsgFlags.DATAGRAM)
        if self._delivers_crypto and conn.crypto_received:
            level, data = conn.crypto_received.popleft()
            return Received(memoryview(data), crypto_level=CryptoLevel(level))
        while self._unread:
            stream = next(iter(self._unread))
            del self._unread[stream]
            self._incoming.pop(stream, None)
            recv, adopted = stream.recv, self._streams.get(stream)
            if recv is None or adopted is None or adopted.ended:
                continue
            if recv.state is RecvState.RESET_RECVD:
                self.reset_read(stream)
                continue
            piece = self.read(stream, limit)
            adopted.ended = recv.queue.read == recv.final_size
            if recv.queue.available:
                self._unread[stream] = None  # its turn is over
            if piece or adopted.ended:
                flags = StreamFlags.FIN if adopted.ended else StreamFlags(0)
                return Received(piece, stream.stream_id, flags)
        return None

    @property
    def _delivers_crypto(self) -> bool:
        """Whether the application does the handshake itself, through messages."""
        return False

    # --- what streams call

    def check_open(self) -> None:
        if self.connection.state not in OPEN:
            raise self._end()

    def _end(self) -> ClosedError:
        """Why the connection is over."""
        closed = self.connection.closed
        return closed or ClosedError(TransportErrorCode.NO_ERROR, False, "closed", remote=False)

    @property
    def peer(self) -> str:
        host, port = self.connection.path.remote[:2]
        host = host.removeprefix("::ffff:")
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def reading(self) -> bool:
        """False after shutdown of the receiving direction."""
        return self._reading

    def read(self, stream: Stream, limit: int) -> memoryview:
        conn = self.connection
        piece = conn.read_stream(stream, limit, self.loop.time())
        if stream.closed:
            self._forget(stream)
        elif stream.recv is not None and not stream.recv.readable:
            self._unread.pop(stream, None)
        if conn.control:
            self._kick()
        return piece

    def write(self, stream: Stream, data: bytes | memoryview, *, fin: bool = False) -> None:
        self._check_writing()
        self.connection.write_stream(stream, data, fin=fin)
        self._kick()

    def send_buffer_limit(self) -> int:
        """Bytes that a stream may hold unacknowledged: two windows, so that the next one is there in time."""
        window = 2 * self.connection.recovery.cong.cwnd
        return max(limits.SEND_BUFFER_MIN, min(window, limits.SEND_BUFFER_MAX))

    def reset(self, stream: Stream, error_code: int) -> None:
        self.connection.reset_stream(stream, error_code)
        self._kick()

    def reset_read(self, stream: Stream) -> None:
        self.connection.reset_read(stream)
        self._unread.pop(stream, None)
        if stream.closed:
            self._forget(stream)
        self._kick()

    def discard(self, stream: Stream) -> None:
        """Drop what came on a stream that nobody reads; the peer gets its credit back."""
        recv = stream.recv
        if recv is None:
            return
        if recv.state is RecvState.RESET_RECVD:
            self.reset_read(stream)
        while self.read(stream, 1 << 20):
            pass

    def stop_sending(self, stream: Stream, error_code: int) -> None:
        self.connection.stop_sending(stream, error_code)
        self._kick()

    def send_crypto(self, level: int, data: bytes) -> None:
        """CRYPTO bytes of an encryption level, after those sent at it before."""
        self.connection.send_crypto(level, data)
        self._kick()

    def _kick(self) -> None:
        if self._driver is not None and self._conn is not None:
            self._driver.kick(self._conn)

    # --- something happened to the connection

    def _note_data(self, conn: Connection) -> None:
        streams = conn.streams
        if streams.incoming:
            while streams.incoming:
                stream = streams.incoming.popleft()
                self._incoming[stream] = self._adopt(stream)
                if not self._reading:
                    self._refuse(stream)
            self._arrived.wake()
        if conn.readable:
            for stream in conn.readable:
                self._unread[stream] = None
                adopted = self._streams.get(stream)
                if adopted is not None:
                    adopted.on_readable()
            conn.readable.clear()
            if not self._reading:
                self._discard_unread()
            self._received.wake()
        if conn.events or conn.datagrams.received or (conn.crypto_received and self._delivers_crypto):
            self._received.wake()
        if conn.writable:
            for stream in conn.writable:
                adopted = self._streams.get(stream)
                if adopted is not None:
                    adopted.on_writable()
                    if stream.closed:
                        self._forget(stream)
            conn.writable.clear()
        if streams.can_open(BIDI) or streams.can_open(UNI) or not conn.datagrams.full:
            self._sendable.wake()

    def _note_end(self) -> None:
        """The connection is over: everybody who waits gets to hear of it."""
        for adopted in list(self._streams.values()):
            adopted.on_readable()
            adopted.on_writable()
        for waiters in (self._arrived, self._received, self._sendable):
            waiters.wake()

    def _let_go(self) -> None:
        """We have closed the connection: nothing is read or sent any more."""
        for adopted in self._streams.values():
            adopted.let_go()
        self._note_end()

    # --- shutdown

    async def shutdown(self, how: int = _socket.SHUT_WR) -> None:
        """SHUT_WR: end the sending direction of every stream, and open no more. SHUT_RD: ask the peer to stop
        sending on every stream, drop what came, and read no more."""
        if how not in (_socket.SHUT_RD, _socket.SHUT_WR, _socket.SHUT_RDWR):
            raise OSError(errno.EINVAL, "how is SHUT_RD, SHUT_WR or SHUT_RDWR")
        self.check_open()
        if how != _socket.SHUT_RD and self._writing:
            for adopted in list(self._streams.values()):
                await adopted.send_eof()
            self._writing = False
        if how != _socket.SHUT_WR and self._reading:
            self._reading = False
            for stream, adopted in list(self._streams.items()):
                self._refuse(stream)
                adopted.on_readable()
            self._unread |= dict.fromkeys(self._streams)
            self._discard_unread()
            self._received.wake()

    def _refuse(self, stream: Stream) -> None:
        if stream.recv is not None:
            self.stop_sending(stream, 0)

    def _discard_unread(self) -> None:
        """Nobody reads: what the peer sent before it heard of that is dropped, and its credit given back."""
        for stream in list(self._unread):
            self.discard(stream)
        self._unread.clear()

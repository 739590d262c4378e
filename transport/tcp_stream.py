"""TCP as a `ByteStream`, on non-blocking sockets: no task, queue or copy for each piece."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Final

__all__ = ["TcpListener", "TcpStream", "connect_tcp", "listen_tcp"]

_log = logging.getLogger("quicfs.transport")

_SLAB: Final = 256 * 1024  # what is received goes into slabs of this size, cut into views
_SLAB_TAIL: Final = 32 * 1024  # a slab with less room than this is left to its views
_FAIR_TURNS: Final = 16  # receives without waiting before other tasks get a turn
_IOV: Final = 256  # parts for one sendmsg; Linux takes 1,024
HIGH_WATER: Final = 4 << 20
"""Bytes that may wait in one stream's queue before `send` suspends."""
CLOSE_TIMEOUT_S: Final = 5.0
"""How long `aclose` lets queued bytes go out."""
_BACKLOG: Final = 128


def format_address(address: object) -> str:
    """A socket address for a person: `203.0.113.7:445`, `[2001:db8::1]:445`."""
    if not isinstance(address, tuple) or len(address) < 2:
        return str(address)
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Slab:
    """Where received bytes go: one piece of memory for all streams of a thread, cut into views. A stream that waits
    holds none of it."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(_SLAB))
        self.used = 0

    def room(self, limit: int) -> memoryview:
        """Not taken until `used` is raised."""
        if _SLAB - self.used < _SLAB_TAIL:
            self._memory = memoryview(bytearray(_SLAB))
            self.used = 0
        return self._memory[self.used : self.used + limit]


class _Slabs(threading.local):
    def __init__(self) -> None:
        self.here = _Slab()


_slabs = _Slabs()


class TcpStream:
    """A connected TCP socket. Satisfies `ByteStream`; one task may receive at a time, any may send."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # not TCP (a socket pair in a test), or already reset
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        try:
            self._peer = format_address(sock.getpeername())
        except OSError:
            self._peer = "a peer that is gone"
        self._slab = _slabs.here
        self._turns = 0
        self._drained = False  # the last receive got less than it had room for: nothing more is there
        self._read_armed = False
        self._reader: asyncio.Future[None] | None = None
        self._queue: deque[memoryview] = deque()
        self._unsent = 0
        self._senders: list[asyncio.Future[None]] = []
        self._sent: asyncio.Future[None] | None = None
        self._error: ConnectionError | None = None
        self._closing = False

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def secured(self) -> bool:
        return False

    # Receiving

    async def recv(self, limit: int = 1 << 20) -> memoryview:
        slab = self._slab
        while True:
            if self._drained or self._turns >= _FAIR_TURNS:
                await self._wait()
            buffer = slab.room(limit)
            count = self._receive(buffer)
            if count is not None:
                slab.used += count
                return buffer[:count]

    async def recv_into(self, buffer: memoryview) -> int:
        """Receive into `buffer`; the count of bytes, 0 at the end of the stream."""
        while True:
            if self._drained or self._turns >= _FAIR_TURNS:
                await self._wait()
            count = self._receive(buffer)
            if count is not None:
                return count

    async def _wait(self) -> None:
        """Until there may be something to receive; or just for the others' turn."""
        if self._error is None and not self._closing:
            if self._drained:
                self._drained = False
                await self._readable()
            else:
                await asyncio.sleep(0)
        self._turns = 0

    def _receive(self, buffer: memoryview) -> int | None:
        """None: nothing is there."""
        if self._error is not None:
            raise self._error
        if self._closing:
            raise ConnectionError(f"the connection to {self._peer} was closed here")
        try:
            count = self._sock.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            self._drained = True
            return None
        except OSError as error:
            raise self._broken(error) from error
        self._turns += 1
        self._drained = 0 < count < len(buffer)
        return count

    async def _readable(self) -> None:
        if self._reader is not None:
            raise RuntimeError("two tasks receive from one stream")
        if not self._read_armed:
            self._loop.add_reader(self._sock.fileno(), self._on_readable)
            self._read_armed = True
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _on_readable(self) -> None:
        # Stays registered while somebody waits each time, so that question and answer cost no epoll_ctl.
        if self._reader is None:
            self._loop.remove_reader(self._sock.fileno())
            self._read_armed = False
        elif not self._reader.done():
            self._reader.set_result(None)

    # Sending

    async def send(self, *parts: bytes | memoryview) -> None:
        if self._error is not None:
            raise self._error
        if self._closing:
            raise ConnectionError(f"the connection to {self._peer} was closed here")
        views = [memoryview(part) for part in parts if len(part)]
        if self._queue:
            self._queue.extend(views)
            self._unsent += sum(map(len, views))
        else:
            self._queue.extend(views)
            self._unsent = sum(map(len, views))
            self._flush()
            if self._error is not None:
                raise self._error
            if self._queue:
                self._loop.add_writer(self._sock.fileno(), self._on_writable)
        while self._unsent > HIGH_WATER:
            waiter = self._loop.create_future()
            self._senders.append(waiter)
            await waiter
            if self._error is not None:
                raise self._error

    def _flush(self) -> None:
        """Send what the socket takes now."""
        queue = self._queue
        while queue:
            try:
                sent = self._sock.sendmsg(islice(queue, _IOV))
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._broken(error)
                return
            self._unsent -= sent
            while sent:
                first = queue[0]
                if sent < len(first):
                    queue[0] = first[sent:]
                    break
                sent -= len(first)
                queue.popleft()

    def _on_writable(self) -> None:
        self._flush()
        if not self._queue:
            self._loop.remove_writer(self._sock.fileno())
            if self._sent is not None and not self._sent.done():
                self._sent.set_result(None)
        if self._unsent <= HIGH_WATER or self._error is not None:
            self._wake_senders()

    def _wake_senders(self) -> None:
        waiters, self._senders = self._senders, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _broken(self, error: OSError) -> ConnectionError:
        """Remember that the connection is gone, and wake everybody who waits for it."""
        if self._error is None:
            text = os.strerror(error.errno) if error.errno else str(error)
            self._error = ConnectionError(f"the connection to {self._peer} broke: {text}")
            self._queue.clear()
            self._unsent = 0
            self._wake_senders()
            if self._sent is not None and not self._sent.done():
                self._sent.set_result(None)
            if self._reader is not None and not self._reader.done():
                self._reader.set_result(None)
        return self._error

    # Closing

    async def send_eof(self) -> None:
        """End our direction once everything has gone out; the other one goes on. ConnectionError as for `send`."""
        await self._all_sent()
        if self._error is not None:
            raise self._error
        if not self._closing:
            with contextlib.suppress(OSError):  # the peer may be gone already
                self._sock.shutdown(socket.SHUT_WR)

    async def _all_sent(self) -> None:
        if self._queue and self._error is None:
            if self._sent is None or self._sent.done():
                self._sent = self._loop.create_future()
            await asyncio.shield(self._sent)

    def abort(self) -> None:
        """Give the connection up at once: the peer sees it reset."""
        if not self._closing:
            self._closing = True
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._give_back(reset=True)

    async def aclose(self) -> None:
        if self._closing:
            return
        self._closing = True
        try:
            with contextlib.suppress(TimeoutError):  # a peer that does not read gets no more of our time
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._all_sent()
        finally:
            self._give_back()

    def _give_back(self, *, reset: bool = False) -> None:
        fd = self._sock.fileno()
        if fd < 0:
            return
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        if not reset:
            with contextlib.suppress(OSError):  # the peer may be gone already
                self._sock.shutdown(socket.SHUT_WR)
        self._sock.close()
        self._queue.clear()
        self._unsent = 0
        self._wake_senders()
        if self._sent is not None and not self._sent.done():
            self._sent.set_result(None)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


async def connect_tcp(host: str, port: int, *, timeout: float = 10.0) -> TcpStream:
    """Connect to `host`, trying its addresses in the resolver's order, each for `timeout` seconds at most.

    Raises ConnectionError with a sentence naming the host.
    """
    loop = asyncio.get_running_loop()
    where = format_address((host, port))
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectionError(f"the name {host} cannot be resolved: {error.strerror}") from error
    reason: OSError | None = None
    for family, kind, proto, _, address in found:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, proto)
        try:
            async with asyncio.timeout(timeout):
                await loop.sock_connect(sock, address)
        except OSError as error:  # TimeoutError is one
            sock.close()
            reason = error
        except BaseException:
            sock.close()
            raise
        else:
            return TcpStream(sock)
    if isinstance(reason, TimeoutError):
        raise ConnectionError(f"{where} does not answer") from reason
    if reason is not None and reason.errno == errno.ECONNREFUSED:
        raise ConnectionError(f"{where} refuses connections: is a server running there?") from reason
    raise ConnectionError(f"{where} cannot be reached: {reason}") from reason


class TcpListener:
    """Listening sockets; each accepted connection runs `on_stream` in a task of its own."""

    def __init__(
        self, sockets: list[socket.socket], on_stream: Callable[[TcpStream], Awaitable[None]]
    ) -> None:
        self._sockets = sockets
        self._on_stream = on_stream
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        for sock in sockets:
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each listening socket."""
        return [sock.getsockname()[:2] for sock in self._sockets]

    @property
    def port(self) -> int:
        port: int = self._sockets[0].getsockname()[1]
        return port

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors or memory. A pause keeps the level-triggered loop from spinning.
                _log.warning("cannot accept a TCP connection: %s", error)
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(1.0, self._resume, listener)
                return
            task = self._loop.create_task(self._serve(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    async def _serve(self, sock: socket.socket) -> None:
        stream = TcpStream(sock)
        try:
            await self._on_stream(stream)
        except ConnectionError as error:
            _log.info("%s: %s", stream.peer, error)
        except Exception:
            _log.exception("%s: serving the connection failed", stream.peer)
        finally:
            await stream.aclose()

    async def aclose(self) -> None:
        """Stop listening and end the connections that are being served."""
        for sock in self._sockets:
            if sock.fileno() >= 0:
                self._loop.remove_reader(sock.fileno())
                sock.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def listen_tcp(
    host: str | None, port: int, on_stream: Callable[[TcpStream], Awaitable[None]]
) -> TcpListener:
    """Listen on every address of `host` (None: all addresses of this machine). Port 0 takes a free one.

    Raises OSError whose text names the address.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, proto, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, proto)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if len(found) > 1 else 0)
            if port == 0 and len(sockets) > 1:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])  # noqa: PLW2901
            try:
                sock.bind(address)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"cannot listen on {format_address(address)}: {os.strerror(error.errno or 0)}",
                ) from error
            sock.listen(_BACKLOG)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return TcpListener(sockets, on_stream)

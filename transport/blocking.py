"""The socket interface for threads: the same calls, which block.

    with BlockingNet(agent_path="/run/quicfs/agent.sock") as net, net.socket() as sock:
        sock.setsockopt(SockOpt.ALPN, b"echo")
        sock.connect(("files.example.org", 4433))
        sock.handshake(HandshakeRequest(peername="files.example.org"))
        with sock.open_stream() as stream:
            stream.send(b"hello")

A net runs an event loop on a thread of its own, with the UDP sockets, timers and handshakes of all its sockets. Any
number of threads may use one socket. A call that is not done within the socket's timeout raises TimeoutError
and has had no effect: nothing was taken to be sent, nothing that came is lost. (A handshake that is given up takes
its connection with it.)
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import errno
import socket as _socket
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from quicfs.transport import limits, uapi
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.handshake import HandshakeNet, HandshakeRequest, HandshakeResult
from quicfs.transport.messages import Ancillary, Message, Received
from quicfs.transport.path import Address
from quicfs.transport.quic_stream import QuicStream
from quicfs.transport.socket import QuicSocket

_T = TypeVar("_T")
_CLOSE_S: Final = 2.0  # until last words are sent


class BlockingNet:
    """Where blocking sockets live. See `HandshakeNet` for `agent_path` and `revive`, which runs on the net's thread.

    Close it when its sockets are not needed any more; the interpreter's exit does so too.
    """

    def __init__(
        self, agent_path: str | Path | None = None, revive: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._sockets: set[QuicSocket] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run_loop, args=(self._loop,), name="quicfs", daemon=True)
        self._thread.start()
        self._handshakes = self.run(lambda: HandshakeNet(agent_path, revive))
        _OPEN.add(self)

    def socket(self, *, config: ConnectionConfig | None = None) -> BlockingSocket:
        return BlockingSocket(self, self.run(lambda: QuicSocket(self._handshakes, config=config)))

    def attach(self, sock: _socket.socket) -> None:
        """Add the handshake agent at the other end of `sock`; see `HandshakeNet.attach`."""
        self.run(lambda: self._handshakes.attach(sock))

    def close(self) -> None:
        """Close all sockets and end the thread. Calls that other threads wait in end with OSError EBADF."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            closing = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        try:
            closing.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _close(self) -> None:
        sockets = list(self._sockets)
        for sock in sockets:
            await sock.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                for sock in sockets:
                    await sock.wait_closed()
        self._handshakes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- for sockets and streams

    def run(self, function: Callable[[], _T]) -> _T:
        """The result of `function`, which does not wait, on the net's thread."""

        async def call() -> _T:
            return function()

        return self.wait(call(), None)

    def wait(self, coroutine: Coroutine[Any, Any, _T], timeout: float | None) -> _T:
        """The result of the coroutine, which runs on the net's thread. TimeoutError after `timeout` seconds;
        BlockingIOError if that is 0 and it would have to wait."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a call that blocks, on the thread that it would wait for")
        with self._lock:
            if self._closed:
                coroutine.close()
                raise OSError(errno.EBADF, "the net is closed")
            future = asyncio.run_coroutine_threadsafe(_limited(coroutine, timeout), self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise OSError(errno.EBADF, "the net was closed meanwhile") from None
        except BaseException:  # this thread was interrupted
            future.cancel()
            raise

    def note(self, sock: QuicSocket) -> None:
        self._sockets.add(sock)

    def forget(self, sock: QuicSocket) -> None:
        self._sockets.discard(sock)


async def _limited(coroutine: Coroutine[Any, Any, _T], timeout: float | None) -> _T:
    # The limit is kept on the loop: there, a call is either done or not begun, and not both as seen from outside.
    try:
        async with asyncio.timeout(timeout) as limit:
            return await coroutine
    except TimeoutError:
        if timeout == 0 and limit.expired():
            raise BlockingIOError(errno.EAGAIN, "it would have to wait") from None
        raise


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


_OPEN: weakref.WeakSet[BlockingNet] = weakref.WeakSet()


def _close_all() -> None:
    for net in list(_OPEN):
        net.close()


atexit.register(_close_all)  # peers hear that we are gone; a daemon thread alone would just vanish


class BlockingSocket:
    """`QuicSocket` for threads: see there what the calls do."""

    def __init__(self, net: BlockingNet, sock: QuicSocket, timeout: float | None = None) -> None:
        self._net = net
        self._sock = sock
        self._timeout = timeout
        net.note(sock)

    def settimeout(self, seconds: float | None) -> None:
        """How long a call may take: None for ever, 0 not at all. Streams and accepted sockets begin with it."""
        if seconds is not None and seconds < 0:
            raise ValueError("a timeout is not negative")
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        return self._timeout

    # --- addresses, connections

    def bind(self, address: tuple[str, int]) -> None:
        self._net.run(lambda: self._sock.bind(address))

    def getsockname(self) -> Address:
        return self._net.run(self._sock.getsockname)

    def getpeername(self) -> Address:
        return self._net.run(self._sock.getpeername)

    def listen(self, backlog: int = limits.ACCEPT_BACKLOG) -> None:
        self._net.run(lambda: self._sock.listen(backlog))

    def accept(self) -> BlockingSocket:
        return BlockingSocket(self._net, self._wait(self._sock.accept()), self._timeout)

    def connect(self, address: tuple[str, int]) -> None:
        self._wait(self._sock.connect(address))

    def handshake(self, request: HandshakeRequest) -> HandshakeResult:
        return self._wait(self._sock.handshake(request))

    # --- options

    def getsockopt(self, optname: int, value: bytes = b"") -> bytes:
        return self._net.run(lambda: self._sock.getsockopt(optname, value))

    def setsockopt(self, optname: int, value: bytes) -> None:
        self._net.run(lambda: self._sock.setsockopt(optname, value))

    def subscribe(self, event: uapi.Event, *, on: bool) -> None:
        self._net.run(lambda: self._sock.subscribe(event, on=on))

    # --- data

    def sendmsg(
        self,
        buffers: Iterable[bytes | bytearray | memoryview],
        ancdata: Iterable[Ancillary] = (),
        flags: int = 0,
    ) -> int:
        return self._wait(self._sock.sendmsg(buffers, ancdata, flags))

    def recvmsg(self, bufsize: int = 1 << 20, flags: int = 0) -> Message:
        return self._wait(self._sock.recvmsg(bufsize, flags))

    def send(self, data: bytes | memoryview, stream_id: int = -1, flags: int = 0) -> tuple[int, int]:
        return self._wait(self._sock.send(data, stream_id, flags))

    def recv(self, limit: int = 1 << 20, flags: int = 0) -> Received:
        return self._wait(self._sock.recv(limit, flags))

    def open_stream(self, *, unidirectional: bool = False) -> BlockingStream:
        """A new stream, as soon as the peer allows it."""
        opening = self._sock.wait_open_stream(unidirectional=unidirectional)
        return BlockingStream(self._net, self._wait(opening), self._timeout)

    def accept_stream(self) -> BlockingStream:
        return BlockingStream(self._net, self._wait(self._sock.accept_stream()), self._timeout)

    # --- the end

    def shutdown(self, how: int = _socket.SHUT_WR) -> None:
        self._wait(self._sock.shutdown(how))

    def close(self, code: int | None = None, phrase: str | None = None) -> None:
        """Close at once; twice is allowed. Who waits in another call on this socket gets ClosedError or EBADF."""
        try:
            self._net.wait(self._sock.close(code, phrase), None)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise  # else the net is closed, and this socket with it
        self._net.forget(self._sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _wait(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return self._net.wait(coroutine, self._timeout)


class BlockingStream:
    """`QuicStream` for threads: see there what the calls do."""

    def __init__(self, net: BlockingNet, stream: QuicStream, timeout: float | None) -> None:
        self._net = net
        self._stream = stream
        self._timeout = timeout

    @property
    def stream_id(self) -> int:
        return self._stream.stream_id

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def recv(self, limit: int = 1 << 20) -> memoryview:
        """The next bytes, at most `limit`; empty at the end."""
        return self._wait(self._stream.recv(limit))

    def send(self, data: bytes | memoryview) -> None:
        """Take all of `data`, which must not change until it is acknowledged, as soon as there is room."""
        self._wait(self._stream.send_when_room(data))

    def send_eof(self) -> None:
        self._wait(self._stream.send_eof())

    def drained(self) -> None:
        """Wait until the peer has acknowledged all that was sent."""
        self._wait(self._stream.drained())

    def reset(self, error_code: int) -> None:
        self._net.run(lambda: self._stream.reset(error_code))

    def stop_sending(self, error_code: int) -> None:
        self._net.run(lambda: self._stream.stop_sending(error_code))

    def close(self) -> None:
        """End our direction, and have the peer stop sending."""
        self._wait(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _wait(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return self._net.wait(coroutine, self._timeout)

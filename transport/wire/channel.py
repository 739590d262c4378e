"""A nonblocking SOCK_SEQPACKET socket of the event loop: whole messages, with descriptors, bounded."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_QUEUED: Final = 256 * 1024
"""Bytes that wait for a reader that does not read."""

_MAX_FDS: Final = 4
_MESSAGES_PER_TURN: Final = 64
_INT_SIZE: Final = array.array("i").itemsize


class Channel:
    """Owns the socket and every descriptor that comes with a message.

    `on_message(data, fds)` takes over `fds`; when it raises ValueError the channel is closed (the other end
    does not speak the protocol). `on_close(error)` comes exactly once unless `close` was called first: None
    at the end of the stream, else why. Truncated messages are an error of the other end.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[bytes, list[int]], None],
        on_close: Callable[[Exception | None], None],
        *,
        max_message: int,
    ) -> None:
        self._sock = sock
        self._on_message = on_message
        self._on_close = on_close
        self._max_message = max_message
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._queued = 0
        self._closed = False
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._fd = sock.fileno()
        self._loop.add_reader(self._fd, self.read_ready)

    @property
    def closed(self) -> bool:
        return self._closed

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Send one message, or queue it; `fds` are duplicated and remain the caller's.

        Raises OSError: ENOBUFS when more than MAX_QUEUED would wait, EPIPE when the other end is gone.
        """
        if self._closed:
            raise BrokenPipeError(errno.EPIPE, "the channel is closed")
        if not self._queue:
            try:
                self._sendmsg(data, fds)
                return
            except BlockingIOError:
                self._loop.add_writer(self._fd, self._write_ready)
        if self._queued + len(data) > MAX_QUEUED:
            raise OSError(errno.ENOBUFS, "the other end does not read")
        self._queue.append((data, tuple(os.dup(fd) for fd in fds)))
        self._queued += len(data)

    def close(self) -> None:
        """Close without telling `on_close`. Twice is allowed."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._sock.close()
        for _, fds in self._queue:
            _close_all(fds)
        self._queue.clear()

    def read_ready(self) -> None:
        """Deliver what has come. The event loop calls this; so may an owner who wants to know now."""
        for _ in range(_MESSAGES_PER_TURN):
            if self._closed:
                return
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    self._max_message + 1, socket.CMSG_SPACE(_MAX_FDS * _INT_SIZE), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except ConnectionResetError:
                # Said once, before what came earlier, when the other end closed with messages unread.
                continue
            except OSError as error:
                self._fail(error)
                return
            fds = _received(ancillary)
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(data) > self._max_message:
                _close_all(fds)
                self._fail(ValueError("the message is too long"))
                return
            if not data:  # the end; an empty message looks the same and is not part of any protocol here
                _close_all(fds)
                self._fail(None)
                return
            try:
                self._on_message(data, fds)
            except ValueError as error:
                self._fail(error)
                return

    def _sendmsg(self, data: bytes, fds: tuple[int, ...]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)

    def _write_ready(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            try:
                self._sendmsg(data, fds)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(error)
                return
            self._queue.popleft()
            self._queued -= len(data)
            _close_all(fds)
        self._loop.remove_writer(self._fd)

    def _fail(self, error: Exception | None) -> None:
        if not self._closed:
            self.close()
            self._on_close(error)


def _received(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _INT_SIZE])
    return list(fds)


def _close_all(fds: tuple[int, ...] | list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)

"""A file descriptor that pool threads may still be using when its owner closes it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from quicfs.vfs.status import FsError, Status

T = TypeVar("T")


class Descriptor:
    """Closed exactly once: by its owner, or by the last call in the pool that outlives a cancelled task."""

    __slots__ = ("_closing", "_fd", "_lock", "_users")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._users = 0
        self._closing = False
        self._lock = threading.Lock()

    @property
    def fd(self) -> int:
        """For calls in the owner's thread that do not suspend. BAD_FILE once closed."""
        if self._closing:
            raise FsError(Status.BAD_FILE, "the file was closed")
        return self._fd

    async def run(self, pool: Executor, call: Callable[..., T], *args: Any) -> T:
        """`call(fd, *args)` in the pool. Cancelling abandons the call, not the descriptor."""
        fd = self.fd
        with self._lock:
            self._users += 1
        work = pool.submit(call, fd, *args)
        work.add_done_callback(self._landed)
        return await asyncio.wrap_future(work)

    async def run_with(self, pool: Executor, other: Descriptor, call: Callable[..., T], *args: Any) -> T:
        """`call(fd, other's fd, *args)`; both descriptors last until it is done."""
        other_fd = other.fd
        with other._lock:
            other._users += 1
        try:
            fd = self.fd
            with self._lock:
                self._users += 1
            work = pool.submit(call, fd, other_fd, *args)
        except BaseException:
            other._landed()
            raise
        work.add_done_callback(other._landed)
        work.add_done_callback(self._landed)
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """Close now, or when the last call in the pool is done. Twice is allowed. OSError of close(2)."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            if self._users:
                return
        os.close(self._fd)

    def _landed(self, _: Future[Any] | None = None) -> None:
        with self._lock:
            self._users -= 1
            if self._users or not self._closing:
                return
        os.close(self._fd)

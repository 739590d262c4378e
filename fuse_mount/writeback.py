"""Writing behind: small consecutive writes become large ones, several of which are under way at once.

A write that fails later is reported once, by the next write, fsync or close of the same open file, as Linux
does it. Writes that overlap reach the file system in the order in which they were made.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from quicfs.fuse_mount.buffers import Buffers
from quicfs.fuse_mount.crossing import Crossing, Pending
from quicfs.fuse_mount.options import MAX_IO
from quicfs.vfs import FsError, OpenFile

Range = tuple[int, int]


class WriteBehind:
    """For one open file. Called from several threads; `completed` is called after each write that ended."""

    def __init__(
        self,
        crossing: Crossing,
        file: OpenFile,
        buffers: Buffers,
        limit: int,
        completed: Callable[[WriteBehind], None],
    ) -> None:
        self._crossing = crossing
        self._file = file
        self._buffers = buffers
        self._limit = limit
        self._completed = completed
        self._parts: list[bytes] = []
        self._start = 0
        self._length = 0
        self._written_at = 0.0
        self._under_way: dict[Pending[int], Range] = {}
        self._bytes_under_way = 0
        self._error: FsError | None = None
        # Held for short stretches only, never while something is waited for. Reentrant, because a call
        # that cannot even start is done before `submit` returns.
        self._lock = threading.RLock()

    @property
    def dirty(self) -> bool:
        return bool(self._parts or self._under_way)

    @property
    def end(self) -> int:
        """The end of the furthest write that is not known to be done."""
        with self._lock:
            ends = [end for _, end in self._under_way.values()]
            return max([*ends, self._start + self._length if self._parts else 0])

    def overlaps(self, start: int, end: int) -> bool:
        with self._lock:
            if self._parts and self._start < end and start < self._start + self._length:
                return True
            return any(first < end and start < last for first, last in self._under_way.values())

    def write(self, offset: int, data: bytes, *, stable: bool = False) -> None:
        """Take `data`. With `stable` it is on stable storage when this returns."""
        with self._lock:
            self._raise_error()
            size = len(data)
            if self._parts and (
                offset != self._start + self._length or self._length + size > MAX_IO or stable
            ):
                self._send()
            if not self._parts:
                self._start = offset
            self._parts.append(data)
            self._length += size
            self._written_at = time.monotonic()
            roomy = self._buffers.take_anyway(size)
            if self._length >= MAX_IO or stable:
                self._send(stable)
            crowded = self._bytes_under_way > self._limit
        if stable or not roomy or not self._limit:
            self.flush()
        elif crowded:
            self._make_room()

    def flush(self) -> None:
        """Everything taken so far has reached the file system when this returns; raises what went wrong."""
        self.drain()
        with self._lock:
            self._raise_error()

    def drain(self) -> None:
        """The same for somebody else than the writer, to whom an error does not belong."""
        with self._lock:
            self._send()
            pending = list(self._under_way)
        self._wait_for(pending)

    def send_if_idle(self, since: float) -> None:
        """In the loop: start writing what was taken before `since` (monotonic clock)."""
        if self._parts and self._written_at < since and self._lock.acquire(blocking=False):
            try:
                self._send()
            finally:
                self._lock.release()

    def _make_room(self) -> None:
        while self._bytes_under_way > self._limit:
            with self._lock:
                oldest = next(iter(self._under_way), None)
            if oldest is None:
                return
            self._wait_for([oldest])

    def _wait_for(self, pending: list[Pending[int]]) -> None:
        for each in pending:
            try:
                self._crossing.wait(each, keep=True)
            except FsError as error:
                if not each.done:  # a missed deadline; anything else `_done` has noted
                    self._finish(each, error)
                    break

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _send(self, stable: bool = False) -> None:
        """With the lock held."""
        if not self._parts:
            return
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        start, end = self._start, self._start + self._length
        earlier = [p for p, (first, last) in self._under_way.items() if first < end and start < last]
        self._parts = []
        self._length = 0
        pending: Pending[int] = self._crossing.prepare(self._write, earlier, start, data, stable)
        pending.on_done = self._done
        self._under_way[pending] = (start, end)
        self._bytes_under_way += end - start
        self._crossing.start(pending)

    async def _write(self, earlier: list[Pending[int]], offset: int, data: bytes, stable: bool) -> int:
        tasks = [p.task for p in earlier if p.task is not None and not p.task.done()]
        if tasks:
            await asyncio.wait(tasks)
        return await self._file.write(offset, data, stable=stable)

    def _done(self, pending: Pending[int]) -> None:
        """In the loop."""
        self._finish(pending, pending.failure())

    def _finish(self, pending: Pending[int], error: FsError | None) -> None:
        with self._lock:
            if pending not in self._under_way:
                return  # given up before
            start, end = self._under_way.pop(pending)
            self._bytes_under_way -= end - start
            self._error = self._error or error
        self._buffers.give(end - start)
        self._completed(self)

"""Reading ahead of a sequential reader: several large reads under way, in pieces on a fixed grid.

The kernel asks for several pieces at a time, and its requests are answered by several threads, not always in order; so
"sequential" allows for some pieces of the grid either way. A small file comes whole with its first read.
"""

from __future__ import annotations

import threading
from typing import Final

from quicfs.fuse_mount.buffers import Buffers
from quicfs.fuse_mount.crossing import CallAbandoned, Crossing, Pending
from quicfs.fuse_mount.options import MAX_IO
from quicfs.vfs import FsError, OpenFile

PIECE: Final = MAX_IO
NEAR: Final = 4
"""Pieces out of order that still are a sequence, for requests as large as the kernel's own reading ahead."""

_LARGE: Final = 128 * 1024


class ReadAhead:
    """For one open file. Called from several threads."""

    def __init__(self, crossing: Crossing, file: OpenFile, buffers: Buffers, window: int) -> None:
        self._crossing = crossing
        self._file = file
        self._buffers = buffers
        self._window = window // PIECE
        self._depth = 0  # pieces to have under way beyond the one in use; grows with each piece used
        self._next = 0  # where a sequential reader would go on
        self._run = 0  # reads in sequence so far
        self._pieces: dict[int, Pending[bytes | memoryview]] = {}
        self._lock = threading.Lock()

    def read(self, offset: int, size: int, file_size: int) -> bytes | memoryview:
        """As `OpenFile.read`. `file_size` is the size known last; nothing beyond it is fetched ahead."""
        first, last = offset // PIECE, (offset + size - 1) // PIECE
        with self._lock:
            if self._window:
                self._follow(offset, size, first, last, file_size)
            wanted = [(index, self._pieces.get(index)) for index in range(first, last + 1)]
        parts: list[bytes | memoryview] = []
        for index, pending in wanted:
            data = self._piece(index, pending) if pending is not None else None
            if data is None:
                return self._crossing.call(self._file.read, offset, size)
            begin = max(offset - index * PIECE, 0)
            end = min(offset + size - index * PIECE, PIECE)
            if len(data) < end and index * PIECE + len(data) < file_size:
                return self._crossing.call(self._file.read, offset, size)  # it has grown since
            parts.append(memoryview(data)[begin:end])
            if len(data) < PIECE:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _follow(self, offset: int, size: int, first: int, last: int, file_size: int) -> None:
        near = NEAR if size >= _LARGE else 1
        if abs(offset - self._next) > near * PIECE:
            self._next = offset + size
            self._run = self._depth = 0
            self._drop_all()
            return
        self._run += 1
        self._next = max(self._next, offset + size)
        if self._run < 2 and file_size > PIECE:
            return  # perhaps only its head is wanted
        if last + 1 not in self._pieces:
            self._depth = min(self._depth * 2 or 1, self._window)
        for index in [i for i in self._pieces if i < first - near]:
            self._drop(index)
        for index in range(first, last + self._depth + 1):
            if index * PIECE >= file_size:
                break
            if index not in self._pieces:
                if not self._buffers.take(PIECE):
                    break
                self._pieces[index] = self._crossing.submit(self._file.read, index * PIECE, PIECE)

    def _piece(self, index: int, pending: Pending[bytes | memoryview]) -> bytes | memoryview | None:
        """The data of a piece; None if it failed, and then the read is done again for its own error."""
        try:
            return self._crossing.wait(pending, keep=True)
        except CallAbandoned:
            raise
        except FsError:
            with self._lock:
                if self._pieces.get(index) is pending:
                    self._drop(index)
            if not pending.done:
                raise  # the deadline was missed: do not wait for it twice
            return None

    def _drop(self, index: int) -> None:
        pending = self._pieces.pop(index)
        if not pending.done:
            self._crossing.cancel(pending)
        self._buffers.give(PIECE)

    def _drop_all(self) -> None:
        for index in list(self._pieces):
            self._drop(index)

    def drop(self) -> None:
        """The file changed, or is closed: forget what was fetched."""
        if self._pieces:
            with self._lock:
                self._drop_all()

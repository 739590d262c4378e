"""What is open: one `Handle` for each open(2), one `SharedFile` for each object that is open at all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from quicfs.fuse_mount.buffers import Buffers
from quicfs.fuse_mount.crossing import Crossing
from quicfs.fuse_mount.options import MountOptions
from quicfs.fuse_mount.readahead import ReadAhead
from quicfs.fuse_mount.writeback import WriteBehind
from quicfs.vfs import Attr, FsError, OpenFile, Status

_MAX_BURIED: Final = 1024
"""Hidden names that are remembered after the last close; the kernel may use one for a second or so."""


class SharedFile:
    """The object behind one or more handles."""

    __slots__ = ("change", "fileid", "handles", "lock_homes", "size", "writers", "written_ns")

    def __init__(self, attr: Attr) -> None:
        self.fileid = attr.fileid
        self.size = attr.size  # known last, our own writes included
        self.change = attr.change
        self.handles: set[Handle] = set()
        self.writers: set[WriteBehind] = set()  # those with something to write
        self.written_ns = 0  # our last write
        self.lock_homes: dict[int, Handle] = {}  # through which handle a lock owner holds its locks

    def flush(self, start: int = 0, end: int = 1 << 63) -> None:
        """Bring what was written to the range to the file system, through whatever handle it came.

        Errors stay with the handle that wrote."""
        for writer in list(self.writers):
            if writer.overlaps(start, end):
                writer.drain()

    @property
    def end(self) -> int:
        """The end of the furthest write that the server may not know of yet."""
        return max((writer.end for writer in list(self.writers)), default=0)

    def see(self, attr: Attr, end: int) -> Attr:
        """Take news from the server; returns them as this mount shows them, with our own writes up to `end`.

        `end` was taken before the server was asked: its answer may be older than what was written since."""
        if end:
            attr = replace(attr, size=max(attr.size, end), mtime_ns=max(attr.mtime_ns, self.written_ns))
        elif attr.change != self.change:
            self.change = attr.change
            self.forget_data()
        self.size = attr.size
        return attr

    def forget_data(self) -> None:
        for handle in list(self.handles):
            if handle.reader is not None:
                handle.reader.drop()


class Handle:
    """One open file. `path` follows renames that we make."""

    __slots__ = ("access", "fh", "file", "hidden", "path", "reader", "shared", "synchronous", "writer")

    def __init__(self, fh: int, file: OpenFile, path: bytes, shared: SharedFile, access: int) -> None:
        self.fh = fh
        self.access = access  # O_RDONLY, O_WRONLY or O_RDWR
        self.file = file
        self.path = path
        self.shared = shared
        self.hidden = False  # unlinked; `path` is the name that libfuse invented
        self.synchronous = False
        self.reader: ReadAhead | None = None
        self.writer: WriteBehind | None = None


class HandleTable:
    """All open files of a mount. `on_written` is called, in the loop, after each write that ended."""

    def __init__(
        self, crossing: Crossing, options: MountOptions, on_written: Callable[[SharedFile], None]
    ) -> None:
        self.on_written = on_written
        self._crossing = crossing
        self._options = options
        self._buffers = Buffers(options.total_buffers)
        self._handles: dict[int, Handle] = {}
        self._shared: dict[int, SharedFile] = {}
        self._hidden: dict[bytes, Handle] = {}
        self._buried: dict[bytes, None] = {}
        self._next_fh = 1
        self._lock = threading.Lock()
        self.dirty: dict[int, SharedFile] = {}  # by file id: those with something to write

    def add(self, file: OpenFile, path: bytes, attr: Attr, flags: int) -> Handle:
        access = flags & os.O_ACCMODE
        with self._lock:
            shared = self._shared.get(attr.fileid)
            if shared is None:
                shared = self._shared[attr.fileid] = SharedFile(attr)
            handle = Handle(self._next_fh, file, path, shared, access)
            self._next_fh += 1
            self._handles[handle.fh] = handle
            shared.handles.add(handle)
        shared.see(attr, shared.end)
        if access != os.O_WRONLY:
            handle.reader = ReadAhead(self._crossing, file, self._buffers, self._options.readahead)
        if access != os.O_RDONLY:
            handle.writer = WriteBehind(
                self._crossing, file, self._buffers, self._options.writeback, _Completed(self, shared)
            )
        handle.synchronous = bool(flags & (os.O_SYNC | os.O_DSYNC))
        return handle

    def get(self, fh: int) -> Handle:
        try:
            return self._handles[fh]
        except KeyError:
            raise FsError(Status.BAD_FILE) from None

    def open_hidden(self, path: bytes, flags: int) -> Handle | None:
        """Another handle of an unlinked file, through an open file that it has; for /proc/PID/fd/N."""
        access = flags & os.O_ACCMODE
        first = self._hidden[path]
        for other in list(first.shared.handles):
            if other.hidden and other.path == path and other.access in (access, os.O_RDWR):
                attr = self._crossing.call(other.file.getattr)
                handle = self.add(other.file, path, attr, flags)
                handle.hidden = True
                return handle
        return None

    def remove(self, handle: Handle) -> bool:
        """True when nobody else uses its open file."""
        with self._lock:
            self._handles.pop(handle.fh, None)
            shared = handle.shared
            shared.handles.discard(handle)
            for owner in [o for o, home in shared.lock_homes.items() if home is handle]:
                del shared.lock_homes[owner]
            if handle.hidden and self._hidden.get(handle.path) is handle:
                del self._hidden[handle.path]
                self._bury(handle.path)
                for other in shared.handles:
                    if other.path == handle.path:
                        self._hidden[handle.path] = other
                        break
            if not shared.handles and self._shared.get(shared.fileid) is shared:
                del self._shared[shared.fileid]
        if handle.reader is not None:
            handle.reader.drop()
        return not any(other.file is handle.file for other in list(shared.handles))

    def shared_file(self, fileid: int) -> SharedFile | None:
        return self._shared.get(fileid)

    def note_write(self, shared: SharedFile, writer: WriteBehind) -> None:
        """Something was given to `writer`, and may be done already."""
        shared.written_ns = time.time_ns()
        shared.forget_data()
        with self._lock:
            if writer.dirty:
                shared.writers.add(writer)
                self.dirty[shared.fileid] = shared

    def note_completed(self, shared: SharedFile, writer: WriteBehind) -> None:
        """A write ended. What was fetched ahead may be older than it."""
        shared.forget_data()
        with self._lock:
            if not writer.dirty:
                shared.writers.discard(writer)
                if not shared.writers:
                    self.dirty.pop(shared.fileid, None)
        self.on_written(shared)

    def ends(self) -> dict[int, int]:
        """By file id: how far our writes reach that the server may not know of yet."""
        return {fileid: shared.end for fileid, shared in list(self.dirty.items())} if self.dirty else {}

    def hide(self, path: bytes, hidden: bytes) -> None:
        """The file was unlinked; libfuse addresses it as `hidden` from now on."""
        for handle in self.all():
            if handle.path == path and not handle.hidden:
                handle.path = hidden
                handle.hidden = True
                self._hidden[hidden] = handle
        if hidden not in self._hidden:
            with self._lock:
                self._bury(hidden)  # closed a moment ago, and libfuse does not know yet

    def _bury(self, hidden: bytes) -> None:
        self._buried[hidden] = None
        while len(self._buried) > _MAX_BURIED:
            del self._buried[next(iter(self._buried))]

    def buried(self, path: bytes) -> bool:
        """Whether this was the hidden name of a file whose last handle is closed."""
        return path in self._buried

    def hidden(self, path: bytes) -> Handle | None:
        """A handle of the unlinked file that libfuse calls `path`."""
        return self._hidden.get(path) if self._hidden else None

    def all(self) -> Iterator[Handle]:
        return iter(list(self._handles.values()))

    def renamed(self, old: bytes, new: bytes) -> None:
        """An object, perhaps a directory, has another path."""
        below = old + b"/"
        for handle in self.all():
            if handle.path == old:
                handle.path = new
            elif handle.path.startswith(below):
                handle.path = new + handle.path[len(old) :]


class _Completed:
    """Tells the table which file a writer wrote to."""

    __slots__ = ("_shared", "_table")

    def __init__(self, table: HandleTable, shared: SharedFile) -> None:
        self._table = table
        self._shared = shared

    def __call__(self, writer: WriteBehind) -> None:
        self._table.note_completed(self._shared, writer)

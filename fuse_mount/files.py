"""Open files: open, create, read, write, flush, fsync, release, and what only an open file can."""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from typing import Final

from quicfs.fuse_mount.cache import drop_oldest
from quicfs.fuse_mount.context import Context
from quicfs.fuse_mount.crossing import Pending
from quicfs.fuse_mount.handles import Handle, SharedFile
from quicfs.vfs import Attr, FsError, OpenFile, OpenFlags, SetAttr, Status

_log = logging.getLogger("quicfs.fuse_mount")

_ACCESS: Final[dict[int, OpenFlags]] = {
    os.O_RDONLY: OpenFlags.READ,
    os.O_WRONLY: OpenFlags.WRITE,
    os.O_RDWR: OpenFlags.READ | OpenFlags.WRITE,
}

FALLOC_FL_KEEP_SIZE: Final = 1  # fallocate(2)
FALLOC_FL_PUNCH_HOLE: Final = 2

_MAX_CLOSING: Final = 256
"""Closes under way that nobody waits for."""

_MAX_VERSIONS: Final = 65_536
"""Files whose pages the kernel may keep from one open to the next."""


class Files:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._closing: deque[Pending[None]] = deque()
        self._versions: dict[bytes, tuple[int, int, int, int]] = {}

    def open(self, path: bytes, flags: int) -> tuple[int, bool]:
        """The handle, and whether the kernel may keep what it has of the file's data."""
        context = self._context
        wanted = _ACCESS[flags & os.O_ACCMODE] | OpenFlags.NOFOLLOW
        if flags & os.O_TRUNC:
            wanted |= OpenFlags.TRUNCATE
        if context.handles.hidden(path) is not None:
            again = context.handles.open_hidden(path, flags)
            if again is None:
                raise FsError(Status.STALE)
            return again.fh, True
        if context.handles.buried(path):
            raise FsError(Status.STALE)  # the kernel still knew it by its old name; it will look again
        shared = self._dirty(path)
        if shared is not None:
            shared.flush()  # before the attributes that come with the open
        ticket = context.cache.ticket()
        file, attr, _ = context.by_name(context.fs.open, path, wanted)
        if flags & os.O_TRUNC:
            context.changed(path, attr)
        else:
            context.cache.put(path, attr, file.node, ticket)
        handle = context.handles.add(file, path, attr, flags)
        return handle.fh, self._unchanged(path, attr)

    def _dirty(self, path: bytes) -> SharedFile | None:
        context = self._context
        if not context.handles.dirty:
            return None
        entry = context.cache.get(path)
        if entry is None or entry.attr is None:
            return None
        return context.handles.dirty.get(entry.attr.fileid)

    def create(self, path: bytes, flags: int, mode: int) -> int:
        context = self._context
        wanted = _ACCESS[flags & os.O_ACCMODE] | OpenFlags.NOFOLLOW | OpenFlags.CREATE
        if flags & os.O_EXCL:
            wanted |= OpenFlags.EXCLUSIVE
        if flags & os.O_TRUNC:
            wanted |= OpenFlags.TRUNCATE
        file, attr, _ = context.child(context.fs.open, path, wanted, mode & 0o7777)
        context.changed(path, attr, file.node)
        return context.handles.add(file, path, attr, flags).fh

    def _unchanged(self, path: bytes, attr: Attr) -> bool:
        """Whether this is what the kernel saw when the file was open last: its pages are good then."""
        version = (attr.fileid, attr.change, attr.mtime_ns, attr.size)
        versions = self._versions
        same = versions.pop(path, None) == version
        versions[path] = version
        if len(versions) > _MAX_VERSIONS:
            drop_oldest(versions, _MAX_VERSIONS // 8)
        return same

    def read(self, fh: int, size: int, offset: int) -> bytes | memoryview:
        handle = self._context.handles.get(fh)
        reader = handle.reader
        if reader is None:
            raise FsError(Status.BAD_FILE)
        shared = handle.shared
        if shared.writers:
            shared.flush(offset, offset + size)
        data = reader.read(offset, size, shared.size)
        if len(data) < size and shared.writers:  # a hole before something not yet written is not the end
            shared.flush()
            data = self._context.crossing.call(handle.file.read, offset, size)
        return data

    def write(self, fh: int, data: bytes, offset: int) -> int:
        handles = self._context.handles
        handle = handles.get(fh)
        writer = handle.writer
        if writer is None:
            raise FsError(Status.BAD_FILE)
        shared = handle.shared
        end = offset + len(data)
        for other in list(shared.writers):
            if other is not writer and other.overlaps(offset, end):
                other.drain()
        try:
            writer.write(offset, data, stable=handle.synchronous)
        finally:
            handles.note_write(shared, writer)
        shared.size = max(shared.size, end)
        return len(data)

    def flush(self, fh: int) -> None:
        """At each close(2): what was written is at the server, so that the next open anywhere sees it."""
        handle = self._context.handles.get(fh)
        if handle.writer is not None:
            handle.writer.flush()
            if type(handle.file).flush is not OpenFile.flush:
                self._context.crossing.call(handle.file.flush)

    def fsync(self, fh: int, data_only: bool) -> None:
        handle = self._context.handles.get(fh)
        handle.shared.flush()
        if handle.writer is not None:
            handle.writer.flush()
        self._context.crossing.call(handle.file.fsync, data_only=data_only)

    def release(self, fh: int) -> None:
        """After the last close(2). Nobody can be told of errors any more, so nobody waits."""
        context = self._context
        handle = context.handles.get(fh)
        try:
            if handle.writer is not None:
                handle.writer.drain()
        finally:
            if handle.writer is not None:
                self._versions.pop(handle.path, None)
            closing = self._closing
            if context.handles.remove(handle):
                closing.append(context.crossing.submit(self._close, handle.file, handle.path))
            while closing and closing[0].done:
                closing.popleft()
            if len(closing) > _MAX_CLOSING:
                context.crossing.wait(closing.popleft(), keep=True)

    async def _close(self, file: OpenFile, path: bytes) -> None:
        try:
            await file.close()
        except FsError as error:
            if error.status is not Status.DISCONNECTED:
                _log.warning("closing %s: %s", os.fsdecode(path), error)

    def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        context = self._context
        handle = context.handles.get(fh)
        if mode not in (0, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE):
            raise FsError(Status.NOT_SUPPORTED)
        handle.shared.flush()
        punch = bool(mode)
        context.crossing.call(handle.file.allocate, offset, length, punch_hole=punch)
        if not punch:
            attr = context.crossing.call(handle.file.getattr)
            if attr.size < offset + length:
                context.crossing.call(handle.file.setattr, SetAttr(size=offset + length))
        self._content_changed(handle)

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        context = self._context
        handle = context.handles.get(fh)
        handle.shared.flush()
        try:
            return context.crossing.call(handle.file.seek_data, offset, hole=whence == os.SEEK_HOLE)
        except FsError as error:
            if error.status is Status.NO_DATA:
                raise OSError(errno.ENXIO, "no data there") from None  # lseek(2), not an xattr's ENODATA
            if error.status is Status.NOT_SUPPORTED:
                return self._lseek_without_holes(handle, offset, whence)
            raise

    def _lseek_without_holes(self, handle: Handle, offset: int, whence: int) -> int:
        """lseek(2): a file system may see a file as all data with a hole at its end."""
        size = self._context.crossing.call(handle.file.getattr).size
        if offset >= size:
            raise OSError(errno.ENXIO, "no data there")
        return size if whence == os.SEEK_HOLE else offset

    def copy_file_range(self, source_fh: int, offset: int, fh: int, target_offset: int, length: int) -> int:
        context = self._context
        source, target = context.handles.get(source_fh), context.handles.get(fh)
        source.shared.flush()
        target.shared.flush()
        copied = context.crossing.call(
            context.fs.copy_range, source.file, offset, target.file, target_offset, length
        )
        self._content_changed(target)
        target.shared.size = max(target.shared.size, target_offset + copied)
        return copied

    def _content_changed(self, handle: Handle) -> None:
        handle.shared.forget_data()
        self._context.changed(handle.path)

    async def close_all(self) -> None:
        """In the loop, when no thread is left: the kernel has sent its last release, or will never."""
        for handle in list(self._context.handles.all()):
            if self._context.handles.remove(handle):
                await self._close(handle.file, handle.path)

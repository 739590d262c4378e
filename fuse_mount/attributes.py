"""Attributes: stat, chmod, chown, truncate, utimens, statfs, readlink, extended attributes."""

from __future__ import annotations

import os
import time
from typing import Final

from quicfs.fuse_mount.context import Context
from quicfs.fuse_mount.handles import Handle
from quicfs.vfs import NOW, Attr, FileKind, FsError, SetAttr, StatFs, Status

UTIME_NOW: Final = (1 << 30) - 1  # utimensat(2), in tv_nsec
UTIME_OMIT: Final = (1 << 30) - 2
_NANO: Final = 1_000_000_000

SERVED_XATTRS: Final = b"user."
"""The only name space that is passed on. The others are the kernel's own: it asks for security.capability before
every write, and ls asks for ACLs. What they say about a remote file has no meaning here."""


class Attributes:
    """`path` is None where libfuse knows only the handle."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._statfs: tuple[float, StatFs] | None = None

    def stat(self, path: bytes | None, fh: int | None) -> bytes:
        """A packed `struct stat`. Raises NOT_FOUND."""
        context = self._context
        handle = self._handle(path, fh)
        if handle is not None:
            return context.layout.pack(self._of_handle(handle))
        assert path is not None
        entry = context.entry(path)
        attr = entry.attr
        if attr is None:
            raise FsError(Status.NOT_FOUND)
        dirty = context.handles.dirty
        if dirty:
            shared = dirty.get(attr.fileid)
            if shared is not None:
                return context.layout.pack(shared.see(attr, shared.end))
        packed = entry.packed
        if packed is None:
            packed = entry.packed = context.layout.pack(attr)
        return packed

    def _handle(self, path: bytes | None, fh: int | None) -> Handle | None:
        """The handle to go through: when there is no path, or none that the server knows."""
        handles = self._context.handles
        if path is None:
            return handles.get(fh or 0)
        return handles.hidden(path)

    def _of_handle(self, handle: Handle) -> Attr:
        context = self._context
        if not handle.hidden:
            entry = context.cache.get(handle.path)
            if entry is not None and entry.attr is not None and entry.attr.fileid == handle.shared.fileid:
                return handle.shared.see(entry.attr, handle.shared.end)
        ends = context.handles.ends()
        return context.seen(context.crossing.call(handle.file.getattr), ends)

    def change(self, path: bytes | None, fh: int | None, changes: SetAttr) -> None:
        """setattr, after what was written before it."""
        context = self._context
        handle = self._handle(path, fh)
        if handle is not None:
            handle.shared.flush()
            self._keep(handle.path, context.crossing.call(handle.file.setattr, changes))
            return
        assert path is not None
        if context.handles.dirty:
            attr = context.entry(path).attr
            shared = context.handles.dirty.get(attr.fileid) if attr is not None else None
            if shared is not None:
                shared.flush()
        try:
            attr = context.on_node(path, context.fs.setattr, changes)
        except FsError:
            context.changed(path)
            raise
        self._keep(path, attr)

    def _keep(self, path: bytes, attr: Attr) -> None:
        self._context.changed(path, self._context.seen(attr, {}))

    def chmod(self, path: bytes | None, mode: int, fh: int | None) -> None:
        self.change(path, fh, SetAttr(mode=mode & 0o7777))

    def chown(self, path: bytes | None, uid: int | None, gid: int | None, fh: int | None) -> None:
        if uid is not None or gid is not None:
            self.change(path, fh, SetAttr(uid=uid, gid=gid))

    def truncate(self, path: bytes | None, size: int, fh: int | None) -> None:
        if size < 0:
            raise FsError(Status.INVALID)
        self.change(path, fh, SetAttr(size=size))

    def utimens(
        self, path: bytes | None, atime: tuple[int, int], mtime: tuple[int, int], fh: int | None
    ) -> None:
        """Times are (seconds, nanoseconds) of utimensat(2)."""
        changes = SetAttr(atime_ns=_time(atime), mtime_ns=_time(mtime))
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            self.change(path, fh, changes)

    def statfs(self) -> StatFs:
        context = self._context
        if self._statfs is None or self._statfs[0] < time.monotonic():
            figures = context.crossing.call(context.fs.statfs)
            self._statfs = (time.monotonic() + context.options.attr_timeout, figures)
        return self._statfs[1]

    def readlink(self, path: bytes) -> bytes:
        context = self._context
        attr = context.entry(path).attr
        if attr is not None and attr.kind is not FileKind.SYMLINK:
            raise FsError(Status.INVALID)
        return os.fsencode(context.on_node(path, context.fs.readlink))

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        return self._context.on_node(path, self._context.fs.getxattr, os.fsdecode(name))

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None:
        context = self._context
        if not name.startswith(SERVED_XATTRS):
            raise FsError(Status.NOT_SUPPORTED)
        try:
            context.on_node(
                path,
                context.fs.setxattr,
                os.fsdecode(name),
                value,
                create=bool(flags & os.XATTR_CREATE),
                replace=bool(flags & os.XATTR_REPLACE),
            )
        finally:
            context.changed(path)

    def listxattr(self, path: bytes) -> bytes:
        """The names, each with a NUL after it."""
        context = self._context
        names = context.on_node(path, context.fs.listxattr)
        served = filter(lambda name: name.startswith(SERVED_XATTRS), map(os.fsencode, names))
        return b"".join(name + b"\0" for name in served)

    def removexattr(self, path: bytes, name: bytes) -> None:
        context = self._context
        if not name.startswith(SERVED_XATTRS):
            raise FsError(Status.NO_DATA)
        try:
            context.on_node(path, context.fs.removexattr, os.fsdecode(name))
        finally:
            context.changed(path)


def _time(value: tuple[int, int]) -> int | None:
    seconds, nanoseconds = value
    if nanoseconds == UTIME_NOW:
        return NOW
    if nanoseconds == UTIME_OMIT:
        return None
    return seconds * _NANO + nanoseconds

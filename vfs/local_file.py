"""An open regular file of the local tree.

What does not block is done in the event loop's thread: reads of cached pages (preadv2 with RWF_NOWAIT)
and writes into the page cache. What waits for a disk goes to the tree's thread pool.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from quicfs.vfs import local_change, syscalls
from quicfs.vfs.api import Attr, FileKind, LockKind, OpenFile, SetAttr
from quicfs.vfs.descriptor import Descriptor
from quicfs.vfs.errno_table import fs_error
from quicfs.vfs.local_attr import StatReader
from quicfs.vfs.local_change import MAX_OFFSET
from quicfs.vfs.local_lock import FileLocks, Wakeups
from quicfs.vfs.local_node import LocalNode
from quicfs.vfs.local_rights import OWN, Rights
from quicfs.vfs.status import FsError, Status

T = TypeVar("T")

BIG_READ: Final = 64 * 1024
"""From here on a read first looks at the file's size, so that no buffer is made for what is not there."""

MAX_READ: Final = 64 << 20
COPY_PIECE: Final = 16 << 20
"""Bytes that one call in the pool copies; between pieces the caller can be cancelled."""

BIG_TRUNCATION: Final = 64 << 20
"""Giving back more than this takes the disk long enough for the thread pool."""

_MEMORY: Final = frozenset((0x01021994, 0x858458F6))  # TMPFS_MAGIC, RAMFS_MAGIC of statfs(2)


@dataclass(slots=True)
class FileContext:
    """What the open files of one tree share."""

    stat: StatReader
    pool: Executor
    read_only: bool
    wakeups: Wakeups = field(default_factory=Wakeups)
    no_nowait: dict[int, bool] = field(default_factory=dict)
    """Devices whose file system knows no RWF_NOWAIT, and whether it lives in memory, so that reads never wait."""


class LocalFile(OpenFile):
    """Made by `LocalTree.open`. `flags` are the access mode that it was opened with (O_RDONLY, ...).

    Reading was allowed when it was opened. Changes are made with `rights`, whose they are: set-ID bits fall when
    others than root write, quotas count.
    """

    def __init__(
        self, context: FileContext, node: LocalNode, fd: int, flags: int, rights: Rights = OWN
    ) -> None:
        self._context = context
        self._node = node
        self._rights = rights
        self._content_rights = rights.for_content()
        self._descriptor = Descriptor(fd)
        self._writable = flags & os.O_ACCMODE != os.O_RDONLY
        self._readable = flags & os.O_ACCMODE != os.O_WRONLY
        self._locks = FileLocks(fd, flags & os.O_ACCMODE, node.key, context.wakeups)

    @property
    def node(self) -> LocalNode:
        return self._node

    @property
    def descriptor(self) -> Descriptor:
        return self._descriptor

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        fd = self._descriptor.fd
        if not 0 <= offset <= MAX_OFFSET or length < 0:
            raise FsError(Status.INVALID, "read range")
        if not self._readable:
            raise FsError(Status.BAD_FILE, "not open for reading")
        if length > BIG_READ or offset + length > MAX_OFFSET:
            length = min(length, os.lseek(fd, 0, os.SEEK_END) - offset, MAX_READ)
        if length <= 0:
            return b""
        buffer = bytearray(length)
        done = 0
        try:
            in_memory = self._context.no_nowait.get(self._node.key.device)
            if in_memory is None:
                done = self._read_cached(fd, buffer, offset)
            elif in_memory:
                return memoryview(buffer)[: _read_fully(fd, memoryview(buffer), offset)]
            if done < length:
                rest = memoryview(buffer)[done:]
                done += await self._descriptor.run(self._context.pool, _read_fully, rest, offset + done)
        except OSError as error:
            raise self._error(error) from None
        return memoryview(buffer)[:done]

    def _read_cached(self, fd: int, buffer: bytearray, offset: int) -> int:
        """Bytes that were in the page cache."""
        try:
            return os.preadv(fd, (buffer,), offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            self._context.no_nowait[self._node.key.device] = syscalls.statfs_type(fd) in _MEMORY
            return 0

    async def write(self, offset: int, data: bytes | memoryview, *, stable: bool = False) -> int:
        fd = self._descriptor.fd
        length = len(data)
        if offset < 0:
            raise FsError(Status.INVALID, "write range")
        if not self._writable:
            raise FsError(Status.BAD_FILE, "not open for writing")
        if offset + length > MAX_OFFSET:
            raise FsError(Status.TOO_BIG)
        try:
            if stable:
                await self._run(_write_stable, data, offset)
            else:
                with self._content_rights:
                    done = os.pwrite(fd, data, offset)
                    if done < length:
                        _write_fully(fd, memoryview(data)[done:], offset + done)
        except OSError as error:
            raise self._error(error) from None
        self._context.stat.changed(self._node.key)
        return length

    async def getattr(self) -> Attr:
        return self._attr()

    async def setattr(self, changes: SetAttr) -> Attr:
        self._descriptor.fd  # noqa: B018 - BAD_FILE comes first
        if self._context.read_only:
            raise FsError(Status.READ_ONLY)
        local_change.check(changes, FileKind.REGULAR)
        try:
            if changes.size is not None:
                if not self._writable:
                    raise FsError(Status.BAD_FILE, "not open for writing")
                await truncate(self._descriptor, self._context.pool, changes.size, self._content_rights)
            with self._rights:
                local_change.apply(self._descriptor.fd, self._descriptor.fd, changes)
        except OSError as error:
            raise self._error(error) from None
        self._context.stat.changed(self._node.key)
        return self._attr()

    async def fsync(self, *, data_only: bool = False) -> None:
        try:
            await self._descriptor.run(self._context.pool, os.fdatasync if data_only else os.fsync)
        except OSError as error:
            raise self._error(error) from None

    async def close(self) -> None:
        self._locks.close()
        try:
            self._descriptor.close()
        except OSError as error:
            raise self._error(error) from None

    async def lock(self, offset: int, length: int, kind: LockKind, *, owner: int, wait: bool = False) -> None:
        await self._locks.lock(offset, length, kind, owner, wait)

    async def seek_data(self, offset: int, *, hole: bool = False) -> int:
        if not 0 <= offset <= MAX_OFFSET:
            raise FsError(Status.INVALID, "offset")
        try:
            return os.lseek(self._descriptor.fd, offset, os.SEEK_HOLE if hole else os.SEEK_DATA)
        except OSError as error:
            raise self._error(error) from None

    async def allocate(self, offset: int, length: int, *, punch_hole: bool = False) -> None:
        if offset < 0 or length <= 0:
            raise FsError(Status.INVALID, "range")
        if not self._writable:
            raise FsError(Status.BAD_FILE, "not open for writing")
        if offset + length > MAX_OFFSET:
            raise FsError(Status.TOO_BIG)
        mode = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE if punch_hole else 0
        try:
            await self._run(syscalls.fallocate, mode, offset, length)
        except OSError as error:
            raise self._error(error) from None
        self._context.stat.changed(self._node.key)

    async def copy_to(self, offset: int, target: LocalFile, target_offset: int, length: int) -> int:
        """The tree's `copy_range`. The server's disk may share the blocks of both files."""
        if min(offset, target_offset, length) < 0 or offset > MAX_OFFSET:
            raise FsError(Status.INVALID, "range")
        if not self._readable or not target._writable:
            raise FsError(Status.BAD_FILE, "copy")
        length = min(length, max(os.lseek(self._descriptor.fd, 0, os.SEEK_END) - offset, 0))
        if target_offset + length > MAX_OFFSET:
            raise FsError(Status.TOO_BIG)
        if self._node is target._node and abs(offset - target_offset) < length:
            raise FsError(Status.INVALID, "the ranges overlap")
        done = 0
        try:
            while done < length:
                piece = min(length - done, COPY_PIECE)
                count = await self._descriptor.run_with(
                    self._context.pool,
                    target._descriptor,
                    target._content_rights.bound(_copy),
                    offset + done,
                    target_offset + done,
                    piece,
                )
                if not count:
                    break
                done += count
        except OSError as error:
            raise self._error(error) from None
        self._context.stat.changed(target._node.key)
        return done

    async def clone_to(self, offset: int, target: LocalFile, target_offset: int, length: int) -> None:
        """The tree's `clone_range`."""
        if min(offset, target_offset, length) < 0:
            raise FsError(Status.INVALID, "range")
        if not self._readable or not target._writable:
            raise FsError(Status.BAD_FILE, "clone")
        if max(offset, target_offset) + length > MAX_OFFSET:
            raise FsError(Status.TOO_BIG)
        try:
            await self._descriptor.run_with(
                self._context.pool,
                target._descriptor,
                target._content_rights.bound(_clone),
                offset,
                target_offset,
                length,
            )
        except OSError as error:
            raise self._error(error) from None
        self._context.stat.changed(target._node.key)

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        """A change, in the pool."""
        return await self._descriptor.run(self._context.pool, self._content_rights.bound(call), *args)

    def _attr(self) -> Attr:
        try:
            return self._context.stat.of_descriptor(self._descriptor.fd)[1]
        except OSError as error:
            raise self._error(error) from None

    def _error(self, error: OSError) -> FsError:
        return fs_error(error, os.fsdecode(self._node.path))


async def truncate(file: Descriptor, pool: Executor, size: int, rights: Rights) -> None:
    """ftruncate(2), in the pool when much is given back. OSError."""
    if os.lseek(file.fd, 0, os.SEEK_END) - size > BIG_TRUNCATION:
        await file.run(pool, rights.bound(os.ftruncate), size)
    else:
        with rights:
            os.ftruncate(file.fd, size)


def _read_fully(fd: int, buffer: memoryview, offset: int) -> int:
    done = 0
    while done < len(buffer):
        count = os.preadv(fd, (buffer[done:],), offset + done)
        if not count:
            break
        done += count
    return done


def _write_fully(fd: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


def _write_stable(fd: int, data: bytes | memoryview, offset: int) -> None:
    _write_fully(fd, memoryview(data), offset)
    os.fdatasync(fd)


def _copy(source: int, target: int, offset: int, target_offset: int, length: int) -> int:
    try:
        return os.copy_file_range(source, target, length, offset, target_offset)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    data = os.pread(source, min(length, 1 << 20), offset)
    _write_fully(target, memoryview(data), target_offset)
    return len(data)


def _clone(source: int, target: int, offset: int, target_offset: int, length: int) -> None:
    syscalls.clone_range(target, source, offset, length, target_offset)

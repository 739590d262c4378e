"""Byte-range locks of one open file, with open-file-description locks (fcntl(2), F_OFD_SETLK).

Such a lock belongs to an open file description, so each owner gets a description of its own: the first
uses the file's, others reopen the same inode. Locks of one owner merge and split, locks of different
owners conflict, whether they come through this open file, another one or another program.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
from typing import Final

from quicfs.vfs.api import LockKind
from quicfs.vfs.errno_table import fs_error
from quicfs.vfs.local_attr import ObjectKey
from quicfs.vfs.status import FsError, Status

MAX_OWNERS: Final = 256
MAX_RANGES: Final = 4096
"""Per open file; per owner."""

_FLOCK: Final = struct.Struct("@hhqqi0q")  # struct flock: type, whence, start, length, pid (0)
_TYPES: Final = {
    LockKind.SHARED: fcntl.F_RDLCK,
    LockKind.EXCLUSIVE: fcntl.F_WRLCK,
    LockKind.UNLOCK: fcntl.F_UNLCK,
}
_END: Final = 1 << 63  # one past the last offset that exists
_FIRST_POLL_S: Final = 0.001
_LAST_POLL_S: Final = 0.1


class Wakeups:
    """Tells those who wait for a lock on an object that some lock on it was given back."""

    def __init__(self) -> None:
        self._waiting: dict[ObjectKey, set[asyncio.Future[None]]] = {}

    def wake(self, key: ObjectKey) -> None:
        for future in self._waiting.pop(key, ()):
            if not future.done():
                future.set_result(None)

    async def wait(self, key: ObjectKey, timeout: float) -> None:
        """Until the next `wake`, at most `timeout` seconds (other programs do not wake us)."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(future)
        try:
            await asyncio.wait((future,), timeout=timeout)
        finally:
            waiting = self._waiting.get(key)
            if waiting is not None:
                waiting.discard(future)
                if not waiting:
                    del self._waiting[key]


class _Owner:
    """An open file description and the ranges locked on it."""

    __slots__ = ("fd", "ranges", "shared")

    def __init__(self, fd: int, shared: bool) -> None:
        self.fd = fd
        self.shared = shared  # it is the open file's own descriptor
        self.ranges: list[tuple[int, int]] = []

    def remember(self, start: int, end: int, locked: bool) -> None:
        rest = []
        for first, last in self.ranges:
            if first < start:
                rest.append((first, min(last, start)))
            if last > end:
                rest.append((max(first, end), last))
        self.ranges = [r for r in rest if r[0] < r[1]]
        if locked:
            self.ranges.append((start, end))


class FileLocks:
    """The locks of one open file. `fd` is its descriptor, `flags` how it was opened (O_RDONLY, ...)."""

    def __init__(self, fd: int, flags: int, key: ObjectKey, wakeups: Wakeups) -> None:
        self._fd = fd
        self._flags = flags
        self._key = key
        self._wakeups = wakeups
        self._owners: dict[int, _Owner] = {}
        self._closed = False

    async def lock(self, offset: int, length: int, kind: LockKind, owner: int, wait: bool) -> None:
        if not 0 <= offset < _END or length < 0:
            raise FsError(Status.INVALID, "lock range")
        end = min(offset + length, _END) if length else _END
        if kind is LockKind.UNLOCK:
            self._unlock(offset, end, owner)
            return
        delay = _FIRST_POLL_S
        while not self._try(offset, end, kind, owner):
            if not wait:
                raise FsError(Status.LOCKED)
            await self._wakeups.wait(self._key, delay)
            delay = min(delay * 2, _LAST_POLL_S)

    def close(self) -> None:
        """Every lock is gone; to be called before the file's own descriptor is closed."""
        self._closed = True
        if not self._owners:
            return
        for held in self._owners.values():
            if held.shared:
                self._set(held.fd, 0, _END, LockKind.UNLOCK)
            else:
                os.close(held.fd)
        self._owners.clear()
        self._wakeups.wake(self._key)

    def _try(self, start: int, end: int, kind: LockKind, owner: int) -> bool:
        if self._closed:
            raise FsError(Status.BAD_FILE, "the file was closed")
        held = self._owners.get(owner) or self._admit(owner)
        if len(held.ranges) >= MAX_RANGES:
            raise FsError(Status.NO_RESOURCES, "too many locks of one owner")
        try:
            self._set(held.fd, start, end, kind)
        except OSError as error:
            self._dismiss_if_idle(owner, held)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise fs_error(error, "lock") from None
        held.remember(start, end, locked=True)
        return True

    def _unlock(self, start: int, end: int, owner: int) -> None:
        held = self._owners.get(owner)
        if held is None:
            return
        self._set(held.fd, start, end, LockKind.UNLOCK)
        held.remember(start, end, locked=False)
        self._dismiss_if_idle(owner, held)
        self._wakeups.wake(self._key)

    def _admit(self, owner: int) -> _Owner:
        if len(self._owners) >= MAX_OWNERS:
            raise FsError(Status.NO_RESOURCES, "too many owners of locks")
        if any(held.shared for held in self._owners.values()):
            try:
                fd = os.open(f"/proc/self/fd/{self._fd}", self._flags | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                raise fs_error(error, "lock") from None
            held = _Owner(fd, shared=False)
        else:
            held = _Owner(self._fd, shared=True)
        self._owners[owner] = held
        return held

    def _dismiss_if_idle(self, owner: int, held: _Owner) -> None:
        if held.ranges:
            return
        del self._owners[owner]
        if not held.shared:
            os.close(held.fd)

    @staticmethod
    def _set(fd: int, start: int, end: int, kind: LockKind) -> None:
        length = 0 if end == _END else end - start
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(_TYPES[kind], os.SEEK_SET, start, length, 0))

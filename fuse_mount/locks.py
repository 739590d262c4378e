"""fcntl(2) and flock(2) locks: through the file system where it has them, among the users of this mount where not.

libfuse gives back all locks of an owner at every close(2); so who holds locks is known here, and a close
without locks asks nobody. All locks of one owner on one object go through the handle that took the first,
because on the server locks of two opens may conflict even if the owner is the same.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from typing import Final

from quicfs.fuse_mount.context import Context
from quicfs.fuse_mount.crossing import CallAbandoned
from quicfs.fuse_mount.handles import Handle
from quicfs.vfs import FsError, LockKind, Status

MAX_RANGES: Final = 65_536
"""Locked ranges of one mount, where the file system has no locks."""

_END: Final = 1 << 63
_TICK_S: Final = 0.1

_KIND_OF_FCNTL: Final = {
    fcntl.F_RDLCK: LockKind.SHARED,
    fcntl.F_WRLCK: LockKind.EXCLUSIVE,
    fcntl.F_UNLCK: LockKind.UNLOCK,
}
_KIND_OF_FLOCK: Final = {
    fcntl.LOCK_SH: LockKind.SHARED,
    fcntl.LOCK_EX: LockKind.EXCLUSIVE,
    fcntl.LOCK_UN: LockKind.UNLOCK,
}


class Locks:
    """`interrupted()` says whether the caller got a signal, which ends the wait for a lock."""

    def __init__(self, context: Context, interrupted: Callable[[], bool]) -> None:
        self._context = context
        self._interrupted = interrupted
        self._remote = True  # until the file system says that it has no locks
        self._held = LocalLocks()  # ours, also where the file system has the last word

    def fcntl(self, fh: int, owner: int, lock_type: int, start: int, length: int, *, wait: bool) -> None:
        """F_SETLK, or with `wait` F_SETLKW. `length` 0 is up to the end."""
        self._lock(fh, owner, _KIND_OF_FCNTL[lock_type], start, length, wait=wait)

    def flock(self, fh: int, owner: int, operation: int) -> None:
        kind = _KIND_OF_FLOCK[operation & ~fcntl.LOCK_NB]
        self._lock(fh, owner, kind, 0, 0, wait=not operation & fcntl.LOCK_NB)

    def test(self, fh: int, owner: int, lock_type: int, start: int, length: int) -> bool:
        """F_GETLK: whether the lock could be had. Asks the file system by taking it for a moment."""
        shared = self._context.handles.get(fh).shared
        kind, end = _KIND_OF_FCNTL[lock_type], _end(start, length)
        if self._held.conflicts(shared.fileid, owner, kind, start, end):
            return False
        if self._remote and not self._held.holds(shared.fileid, owner, start, end):
            try:
                self._lock(fh, owner, kind, start, length, wait=False)
            except FsError as error:
                if error.status is Status.LOCKED:
                    return False
                raise
            self._lock(fh, owner, LockKind.UNLOCK, start, length, wait=False)
        return True

    def released(self, handle: Handle) -> None:
        """The handle closes; on the server its locks go with it."""
        shared = handle.shared
        for owner, home in list(shared.lock_homes.items()):
            if home is handle:
                self._held.lock(shared.fileid, owner, LockKind.UNLOCK, 0, _END)

    def _lock(self, fh: int, owner: int, kind: LockKind, start: int, length: int, *, wait: bool) -> None:
        context = self._context
        handle = context.handles.get(fh)
        shared = handle.shared
        if kind is not LockKind.UNLOCK:
            shared.forget_data()  # who takes a lock wants to see what others wrote under it
            context.cache.touch(handle.path)
        elif owner in shared.lock_homes:
            shared.flush()  # and the next one what we wrote
        else:
            return
        end = _end(start, length)
        if self._remote:
            home = shared.lock_homes.get(owner, handle)
            pending = context.crossing.submit(home.file.lock, start, length, kind, owner=owner, wait=wait)
            try:
                context.crossing.wait(pending, forever=wait)
            except FsError as error:
                if error.status is not Status.NOT_SUPPORTED:
                    raise
                self._remote = False
        while not self._held.lock(shared.fileid, owner, kind, start, end, force=self._remote):
            if not wait:
                raise FsError(Status.LOCKED)
            if self._interrupted():
                raise CallAbandoned
            self._held.wait(_TICK_S)
        if kind is not LockKind.UNLOCK:
            shared.lock_homes.setdefault(owner, handle)
        elif not self._held.holds(shared.fileid, owner, 0, _END):
            shared.lock_homes.pop(owner, None)


def _end(start: int, length: int) -> int:
    return start + length if length else _END


class LocalLocks:
    """POSIX byte-range locks by (file id, owner): ranges of one owner merge and split, others conflict."""

    def __init__(self) -> None:
        self._ranges: dict[int, list[tuple[int, int, int, LockKind]]] = {}  # start, end, owner, kind
        self._count = 0
        self._changed = threading.Condition()

    def conflicts(self, fileid: int, owner: int, kind: LockKind, start: int, end: int) -> bool:
        return kind is not LockKind.UNLOCK and any(
            holder != owner and first < end and start < last and LockKind.EXCLUSIVE in (kind, held)
            for first, last, holder, held in self._ranges.get(fileid, ())
        )

    def holds(self, fileid: int, owner: int, start: int, end: int) -> bool:
        """Whether `owner` has any lock in [start, end)."""
        return any(
            holder == owner and first < end and start < last
            for first, last, holder, _ in self._ranges.get(fileid, ())
        )

    def lock(
        self, fileid: int, owner: int, kind: LockKind, start: int, end: int, *, force: bool = False
    ) -> bool:
        """Take, change or give back [start, end). False when another owner is in the way, save with `force`."""
        with self._changed:
            if not force and self.conflicts(fileid, owner, kind, start, end):
                return False
            old = self._ranges.get(fileid, [])
            new = []
            for first, last, holder, held in old:
                if holder != owner or last <= start or end <= first:
                    new.append((first, last, holder, held))
                    continue
                if first < start:
                    new.append((first, start, holder, held))
                if end < last:
                    new.append((end, last, holder, held))
            if kind is not LockKind.UNLOCK:
                new.append((start, end, owner, kind))
            grown = len(new) - len(old)
            if grown > 0 and self._count + grown > MAX_RANGES:
                raise FsError(Status.NO_RESOURCES, "too many locks")
            self._count += grown
            if new:
                self._ranges[fileid] = new
            else:
                self._ranges.pop(fileid, None)
            self._changed.notify_all()
            return True

    def wait(self, seconds: float) -> None:
        """Until some lock changes, or for `seconds`."""
        with self._changed:
            self._changed.wait(seconds)

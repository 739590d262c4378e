"""Byte-range locks as SMB has them: they bind reads and writes of other opens ([MS-FSA] §2.1.4.10)."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from quicfs.smb.errors import SmbError
from quicfs.smb.limits import MAX_LOCKS_PER_OPEN
from quicfs.smb.ntstatus import NtStatus

__all__ = ["ByteLocks", "HeldLock"]


class HeldLock(NamedTuple):
    owner: int
    offset: int
    end: int
    exclusive: bool


class ByteLocks:
    """The locks of one file. An owner is the number of an open."""

    __slots__ = ("_held", "_waiters")

    def __init__(self) -> None:
        self._held: list[HeldLock] = []
        self._waiters: list[asyncio.Future[None]] = []

    def __bool__(self) -> bool:
        return bool(self._held)

    def conflict(self, owner: int, offset: int, length: int, *, write: bool) -> bool:
        """Whether a read (or write) must be refused: shared locks stop all writes, also their owner's."""
        end = offset + length
        return any(
            lock.offset < end and offset < lock.end and (lock.owner != owner or not lock.exclusive)
            for lock in self._held
            if write or lock.exclusive
        )

    def try_add(self, owner: int, offset: int, length: int, *, exclusive: bool) -> HeldLock | None:
        """The new lock, or None when one that overlaps forbids it."""
        end = offset + length
        mine = 0
        for lock in self._held:
            mine += lock.owner == owner
            # A lock of no bytes conflicts with nothing that has bytes around it only.
            if lock.offset < end and offset < lock.end and (exclusive or lock.exclusive):
                return None
        if mine >= MAX_LOCKS_PER_OPEN:
            raise SmbError(NtStatus.INSUFFICIENT_RESOURCES)
        lock = HeldLock(owner, offset, end, exclusive)
        self._held.append(lock)
        return lock

    def remove(self, owner: int, offset: int, length: int) -> HeldLock:
        """§3.3.5.14.1: a lock goes exactly as it came."""
        end = offset + length
        for lock in self._held:
            if lock.owner == owner and lock.offset == offset and lock.end == end:
                self.discard(lock)
                return lock
        raise SmbError(NtStatus.RANGE_NOT_LOCKED)

    def discard(self, lock: HeldLock) -> None:
        self._held.remove(lock)
        self._wake()

    def remove_all(self, owner: int) -> None:
        kept = [lock for lock in self._held if lock.owner != owner]
        if len(kept) != len(self._held):
            self._held = kept
            self._wake()

    async def changed(self) -> None:
        """Returns when some lock went away."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

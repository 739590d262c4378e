"""Byte-range locks of one open file (RFC 8881 §9). Each owner has a lock stateid of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from quicfs.nfs import limits
from quicfs.nfs.v4.const import UINT64_MAX, LockType
from quicfs.nfs.v4.types import StateId
from quicfs.vfs.api import LockKind
from quicfs.vfs.status import FsError, Status

__all__ = ["END", "LockOwnerState", "LockTable", "length_of"]

END: Final = UINT64_MAX
"""One past the last byte of a lock up to the end."""

_FOREVER: Final = 1 << 63

LOCK_TYPES: Final = {LockKind.SHARED: LockType.READ, LockKind.EXCLUSIVE: LockType.WRITE}
WAITING_TYPES: Final = {LockKind.SHARED: LockType.READW, LockKind.EXCLUSIVE: LockType.WRITEW}


@dataclass(slots=True)
class LockOwnerState:
    """`ranges`: (start, end, kind), disjoint. `lost`: the server gave them up, and others may have had them since."""

    name: bytes
    stateid: StateId | None = None
    ranges: list[tuple[int, int, LockKind]] = field(default_factory=list)
    lost: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def remember(self, start: int, end: int, kind: LockKind) -> None:
        rest: list[tuple[int, int, LockKind]] = []
        for first, last, held in self.ranges:
            if first < start:
                rest.append((first, min(last, start), held))
            if last > end:
                rest.append((max(first, end), last, held))
        if kind is not LockKind.UNLOCK:
            rest.append((start, end, kind))
        self.ranges = rest


class LockTable:
    """What one open file holds, by owner."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._owners: dict[int, LockOwnerState] = {}

    def owner(self, number: int) -> LockOwnerState:
        state = self._owners.get(number)
        if state is None:
            if len(self._owners) >= limits.LOCK_OWNERS:
                idle = next(
                    (n for n, each in self._owners.items() if not each.ranges and not each.turn.locked()),
                    None,
                )
                if idle is None:
                    raise FsError(Status.NO_RESOURCES, "too many owners of locks on one file")
                del self._owners[idle]
            name = self._name + b".%d" % number
            state = self._owners[number] = LockOwnerState(name)
        return state

    def known(self, number: int) -> LockOwnerState | None:
        return self._owners.get(number)

    @property
    def owners(self) -> list[LockOwnerState]:
        return list(self._owners.values())

    @property
    def held(self) -> list[LockOwnerState]:
        return [each for each in self._owners.values() if each.ranges]

    @property
    def lost(self) -> bool:
        return any(each.lost for each in self._owners.values())

    def lose(self) -> None:
        """The server holds none of them any more."""
        for each in self._owners.values():
            each.stateid = None
            if each.ranges:
                each.lost = True
                each.ranges = []


def length_of(start: int, end: int) -> int:
    """On the wire, a lock to the end has the largest length (§18.10.3)."""
    return UINT64_MAX if end >= _FOREVER else end - start


def check_range(offset: int, length: int) -> int:
    """The end of it. INVALID for ranges that no file has."""
    if offset < 0 or length < 0 or offset >= _FOREVER:
        raise FsError(Status.INVALID, "a lock beyond the largest offset")
    end = offset + length if length else END
    return END if end >= _FOREVER else end

"""Byte-range locks of one file, with the semantics of POSIX (RFC 8881 §9.2, §18.10).

Locks of one owner never conflict with each other: a new one replaces what it overlaps, so that a range can be upgraded,
downgraded, split and merged. What is unlocked may be any part of what was locked, or nothing of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable
from typing import Final, NamedTuple

__all__ = ["END", "Conflict", "LockRange", "LockTable"]

END: Final = 1 << 64
"""One past the last offset: where a lock "to the end of the file" ends."""


class LockRange(NamedTuple):
    start: int
    end: int  # exclusive
    exclusive: bool


class Conflict(NamedTuple):
    owner: Hashable
    range: LockRange


class LockTable:
    """An owner is any value that is told apart from others. Ranges of an owner are sorted, disjoint, and as few as
    possible."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[Hashable, list[LockRange]] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def ranges(self, owner: Hashable) -> list[LockRange]:
        """A copy."""
        return list(self._held.get(owner, ()))

    def count(self, owner: Hashable) -> int:
        return len(self._held.get(owner, ()))

    def conflict(self, owner: Hashable, start: int, end: int, *, exclusive: bool) -> Conflict | None:
        """The first lock of another owner that forbids this one."""
        for other, ranges in self._held.items():
            if other == owner:
                continue
            for held in _overlapping(ranges, start, end):
                if exclusive or held.exclusive:
                    return Conflict(other, held)
        return None

    def overlaps(self, owner: Hashable, start: int, end: int) -> bool:
        """Whether the owner has a lock on some of this."""
        return bool(_overlapping(self._held.get(owner, []), start, end))

    def lock(self, owner: Hashable, start: int, end: int, *, exclusive: bool) -> None:
        """To be called when `conflict` says that there is none."""
        self._replace(owner, start, end, [LockRange(start, end, exclusive)])

    def unlock(self, owner: Hashable, start: int, end: int) -> bool:
        """Whether something was locked there."""
        if not self.overlaps(owner, start, end):
            return False
        self._replace(owner, start, end, [])
        return True

    def remove(self, owner: Hashable) -> bool:
        """All that the owner holds; whether that was something."""
        return self._held.pop(owner, None) is not None

    def _replace(self, owner: Hashable, start: int, end: int, new: list[LockRange]) -> None:
        ranges = self._held.get(owner, [])
        # One more on either side, for those that only touch: they merge.
        first = bisect_left(ranges, start, key=_end_of)
        last = first
        while last < len(ranges) and ranges[last].start <= end:
            last += 1
        pieces: list[LockRange] = []
        for held in ranges[first:last]:
            if held.start < start:
                pieces.append(held._replace(end=min(held.end, start)))
        pieces += new
        for held in ranges[first:last]:
            if held.end > end:
                pieces.append(held._replace(start=max(held.start, end)))
        ranges[first:last] = _merged(pieces)
        if ranges:
            self._held[owner] = ranges
        else:
            self._held.pop(owner, None)


def _end_of(held: LockRange) -> int:
    return held.end


def _overlapping(ranges: list[LockRange], start: int, end: int) -> list[LockRange]:
    first = bisect_left(ranges, start + 1, key=_end_of)
    last = first
    while last < len(ranges) and ranges[last].start < end:
        last += 1
    return ranges[first:last]


def _merged(pieces: list[LockRange]) -> list[LockRange]:
    merged: list[LockRange] = []
    for piece in pieces:
        if merged and merged[-1].end == piece.start and merged[-1].exclusive == piece.exclusive:
            merged[-1] = merged[-1]._replace(end=piece.end)
        else:
            merged.append(piece)
    return merged

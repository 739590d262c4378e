"""Reading and writing: large ones in pieces, several of which are under way at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quicfs.nfs.client.session import Session

__all__ = ["AT_ONCE", "LARGEST_AROUND", "PIECE", "Pace", "in_turns", "read_limit", "write_limit"]

PIECE: Final = 1 << 20
"""What a transfer larger than one request is cut into."""
AT_ONCE: Final = 8
"""Pieces of one transfer that are under way together."""
_AROUND: Final = 1024
"""Bytes of a call or a reply around its data."""
_LITTLE: Final = 4096
_LEAST_AROUND, _MOST_AROUND = 16 << 10, 128 << 10

LARGEST_AROUND: Final = 256 << 10
"""Bytes that are fetched with a small READ of a file that has been read often."""


def read_limit(session: Session | None, by_server: int) -> int:
    """Bytes of one READ."""
    room = session.limits.maxresponsesize - _AROUND if session is not None else PIECE
    return max(512, min(PIECE, by_server or PIECE, room))


def write_limit(session: Session | None, by_server: int) -> int:
    """Bytes of one WRITE."""
    room = session.limits.maxrequestsize - _AROUND if session is not None else PIECE
    return max(512, min(PIECE, by_server or PIECE, room))


class Pace:
    """How long calls take: those with little in them, and by how much longer for each byte."""

    __slots__ = ("_per_byte", "_trip")

    def __init__(self) -> None:
        self._trip = 0.0
        self._per_byte = 0.0

    def note(self, seconds: float, size: int) -> None:
        """A call took so long, with so many bytes in it and its answer."""
        if size < _LITTLE:
            self._trip += (seconds - self._trip) / (8 if self._trip else 1)
        elif self._trip:
            sample = max(0.0, seconds - self._trip) / size
            self._per_byte += (sample - self._per_byte) / (8 if self._per_byte else 1)

    def around(self, reads: int) -> int:
        """Bytes that may come along with a small READ of a file, after so many `reads`: a power of two.

        They make it take half as long again; and the oftener the file was read, the more it will be: they may take
        half as long as all these reads took, so that what is fetched in vain costs no more than what was waited for.
        """
        room = _LEAST_AROUND
        if self._trip and self._per_byte:
            room = max(_LEAST_AROUND, min(int(self._trip / 2 / self._per_byte), _MOST_AROUND))
        return 1 << min(room * max(1, reads), LARGEST_AROUND).bit_length() - 1


async def in_turns(length: int, size: int, work: Callable[[int], Awaitable[None]]) -> None:
    """`work` for each multiple of `size` below `length`, some at once; the first failure ends all."""
    places = iter(range(0, length, size))

    async def worker() -> None:
        for at in places:
            await work(at)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, -(-length // size))):
                group.create_task(worker())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None

"""Reading and writing: large ones in pieces, several of which are under way at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from quicfs.nfs.client.session import Session

__all__ = ["AT_ONCE", "PIECE", "in_turns", "read_limit", "write_limit"]

PIECE: Final = 1 << 20
"""What a transfer larger than one request is cut into."""
AT_ONCE: Final = 8
"""Pieces of one transfer that are under way together."""
_AROUND: Final = 1024
"""Bytes of a call or a reply around its data."""


def read_limit(session: Session | None, by_server: int) -> int:
    """Bytes of one READ."""
    room = session.limits.maxresponsesize - _AROUND if session is not None else PIECE
    return max(512, min(PIECE, by_server or PIECE, room))


def write_limit(session: Session | None, by_server: int) -> int:
    """Bytes of one WRITE."""
    room = session.limits.maxrequestsize - _AROUND if session is not None else PIECE
    return max(512, min(PIECE, by_server or PIECE, room))


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

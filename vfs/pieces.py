"""Transfers that are larger than one request of a protocol: in pieces, several of which are under way at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

__all__ = ["PIECE", "in_turns", "read_pieces"]

PIECE: Final = 1 << 20
"""Bytes that a transfer is cut into, if one request takes as many."""

_AT_ONCE: Final = 8


async def in_turns(length: int, size: int, work: Callable[[int], Awaitable[None]]) -> None:
    """`work` for each multiple of `size` below `length`, some at once; the first failure ends all."""
    places = iter(range(0, length, size))

    async def worker() -> None:
        for at in places:
            await work(at)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, -(-length // size))):
                group.create_task(worker())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def read_pieces(
    read: Callable[[int, int], Awaitable[bytes | memoryview]], offset: int, length: int, size: int
) -> memoryview:
    """`length` bytes at `offset`, put together in one buffer. `read(offset, length)` gives less only at the end."""
    buffer = memoryview(bytearray(length))
    ends: list[int] = []  # of pieces that were shorter than asked for

    async def piece(at: int) -> None:
        wanted = min(size, length - at)
        data = await read(offset + at, wanted)
        buffer[at : at + len(data)] = data
        if len(data) < wanted:
            ends.append(at + len(data))

    await in_turns(length, size, piece)
    return buffer[: min(ends)] if ends else buffer

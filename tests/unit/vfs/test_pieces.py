"""Large transfers in pieces."""

from __future__ import annotations

import asyncio

import pytest

from quicfs.vfs.pieces import in_turns, read_pieces

CONTENT = bytes(range(256)) * 40


@pytest.mark.parametrize(
    ("offset", "length", "size"),
    [(0, 10_240, 1_000), (0, 20_000, 1_000), (100, 999, 1_000), (5, 10, 3), (9_999, 500, 7)],
)
def test_pieces_are_put_together(offset: int, length: int, size: int) -> None:
    async def read(at: int, count: int) -> bytes:
        await asyncio.sleep((at * 7919 % 13) / 10_000)  # in any order
        return CONTENT[at : at + count]

    async def main() -> bytes:
        return bytes(await read_pieces(read, offset, length, size))

    assert asyncio.run(main()) == CONTENT[offset : offset + length]


def test_the_first_failure_ends_all() -> None:
    begun: list[int] = []

    async def work(at: int) -> None:
        begun.append(at)
        await asyncio.sleep(0)
        if at == 3:
            raise OSError("the third")
        await asyncio.sleep(3600)

    with pytest.raises(OSError, match="the third"):
        asyncio.run(in_turns(1_000_000, 1, work))
    assert 3 < len(begun) < 20

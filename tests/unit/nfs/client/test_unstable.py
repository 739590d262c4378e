"""What is kept until COMMIT (RFC 8881 §18.3, §18.32), against a server made of a dictionary."""

from __future__ import annotations

import asyncio
import random

import pytest

from quicfs.nfs.client.nodes import NfsNode
from quicfs.nfs.client.unstable import Piece, UnstableData
from quicfs.vfs.status import FsError, Status

NODE = b"handle"


class Disk:
    """A server: `memory` is what it would lose, `disk` what not."""

    def __init__(self) -> None:
        self.memory = bytearray(1000)
        self.disk = bytearray(1000)
        self.boots = 0
        self.broken = False
        self.node = NfsNode(NODE, 1, None)
        self.data = UnstableData(self.write_again, self.commit)

    @property
    def verifier(self) -> bytes:
        return self.boots.to_bytes(8, "big")

    async def write(self, offset: int, data: bytes) -> None:
        gate = self.data.of(self.node)
        await gate.begin_write()
        try:
            self.memory[offset : offset + len(data)] = data
            self.data.keep(self.node, offset, memoryview(data), self.verifier)
        finally:
            gate.end_write()

    async def write_again(self, node: NfsNode, piece: Piece) -> bytes:
        await asyncio.sleep(0)
        offset, data, _ = piece
        self.memory[offset : offset + len(data)] = data
        return self.verifier

    async def commit(self, node: NfsNode) -> bytes:
        await asyncio.sleep(0)
        if self.broken:
            raise FsError(Status.NO_SPACE, "full")
        self.disk[:] = self.memory
        return self.verifier

    def restart(self) -> None:
        self.memory[:] = self.disk
        self.boots += 1


def test_committed_data_is_forgotten() -> None:
    async def main() -> None:
        server = Disk()
        await server.write(0, b"abc")
        await server.write(3, b"def")
        assert server.data.total == 6
        await server.data.commit(server.node)
        assert server.data.total == 0 and server.disk[:6] == b"abcdef"
        await server.data.commit(server.node)
        await server.data.aclose()

    asyncio.run(main())


def test_what_a_restart_lost_is_written_again_in_order() -> None:
    async def main() -> None:
        server = Disk()
        await server.write(0, b"aaaa")
        await server.write(2, b"bb")
        await server.data.commit(server.node)
        await server.write(1, b"cccc")
        server.restart()
        await server.write(3, b"dd")
        server.restart()
        await server.data.commit(server.node)
        assert server.disk[:6] == b"accdd\0" and server.data.total == 0
        await server.data.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(20))
def test_restarts_at_random(seed: int) -> None:
    async def main() -> None:
        dice = random.Random(seed)
        server = Disk()
        expected = bytearray(1000)
        for turn in range(300):
            match dice.randrange(10):
                case 0:
                    server.restart()
                case 1:
                    await server.data.commit(server.node)
                    assert server.disk == expected
                case 2:
                    start = dice.randrange(900)
                    server.data.cut(server.node, start, start + 50)
                    for content in (server.memory, server.disk, expected):
                        content[start : start + 50] = bytes(50)
                case _:
                    start, size = dice.randrange(900), dice.randrange(1, 100)
                    piece = bytes([turn % 255 + 1]) * size
                    await server.write(start, piece)
                    expected[start : start + size] = piece
        await server.data.commit(server.node)
        assert server.disk == expected and server.data.total == 0
        await server.data.aclose()

    asyncio.run(main())


def test_a_server_that_never_keeps_anything_is_an_error() -> None:
    async def main() -> None:
        server = Disk()
        await server.write(0, b"abc")
        commit = server.commit

        async def restarting(node: NfsNode) -> bytes:
            server.restart()
            return await commit(node)

        server.data._commit = restarting  # type: ignore[method-assign]
        with pytest.raises(FsError) as caught:
            await server.data.commit(server.node)
        assert caught.value.status is Status.IO
        await server.data.aclose()

    asyncio.run(main())


def test_a_failed_commit_keeps_the_data() -> None:
    async def main() -> None:
        server = Disk()
        await server.write(0, b"abc")
        server.broken = True
        with pytest.raises(FsError):
            await server.data.commit(server.node)
        assert server.data.total == 3
        server.broken = False
        await server.data.commit(server.node)
        assert server.disk[:3] == b"abc"
        await server.data.aclose()

    asyncio.run(main())

"""A folder served by a `LocalTree`, for the tests of this directory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from quicfs.vfs import DirEntry, FileSystem, FsError, LocalTree, Node, Status

Scenario = Callable[[LocalTree], Awaitable[None]]


class Share:
    """`path` is what is served, `outside` the folder around it."""

    def __init__(self, outside: Path) -> None:
        self.outside = outside
        self.path = outside / "share"
        self.path.mkdir()

    def run(self, scenario: Scenario, *, read_only: bool = False) -> None:
        """One tree, one loop, and no descriptor left over."""

        async def main() -> None:
            tree = LocalTree(self.path, read_only=read_only)
            try:
                await scenario(tree)
            finally:
                await tree.close()

        before = len(os.listdir("/proc/self/fd"))
        asyncio.run(main())
        assert len(os.listdir("/proc/self/fd")) == before

    @staticmethod
    async def fails(status: Status, call: Awaitable[object]) -> None:
        with pytest.raises(FsError) as caught:
            await call
        assert caught.value.status is status, caught.value

    @staticmethod
    async def listing(tree: FileSystem, node: Node, limit: int = 1024) -> list[DirEntry]:
        entries: list[DirEntry] = []
        cookie = 0
        while True:
            page = await tree.readdir(node, cookie, limit)
            entries += page.entries
            if page.eof:
                return entries
            cookie = page.entries[-1].cookie


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    yield Share(tmp_path)

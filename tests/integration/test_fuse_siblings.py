"""Directories that are walked through one after the other are fetched a few at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from quicfs.fuse_mount.mount import FuseMount
from quicfs.fuse_mount.options import MountOptions
from quicfs.vfs import DirPage, LocalTree, Node

pytestmark = pytest.mark.fuse

COUNT = 20
NAMES = [f"d{number:02}" for number in range(COUNT)]


class FarTree(LocalTree):
    """Takes its time for a listing, and counts those that are under way."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.listings = self.now = self.most = 0

    async def readdir(self, directory: Node, cookie: int = 0, limit: int = 1024) -> DirPage:
        self.listings += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.03)
        try:
            return await super().readdir(directory, cookie, limit)
        finally:
            self.now -= 1


def on_mount(tmp_path: Path, work: Callable[[Path], None], options: MountOptions) -> FarTree:
    source, mnt = tmp_path / "source", tmp_path / "mnt"
    mnt.mkdir()
    for name in NAMES:
        (source / name).mkdir(parents=True)
        for number in range(5):
            (source / name / str(number)).touch()

    async def main() -> FarTree:
        tree = FarTree(os.fspath(source))
        mount = FuseMount(tree, os.fspath(mnt), options)
        await mount.mount()
        try:
            await asyncio.to_thread(work, mnt)
        finally:
            await mount.unmount()
            await tree.close()
        return tree

    return asyncio.run(main())


REMEMBERED = MountOptions(attr_timeout=60, negative_timeout=60)


@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "as listed"])
def test_a_walk(tmp_path: Path, require: Callable[..., None], by_name: bool) -> None:
    require("fuse")

    def work(mnt: Path) -> None:
        names = os.listdir(mnt)
        for name in sorted(names) if by_name else names:
            assert sorted(os.listdir(mnt / name)) == ["0", "1", "2", "3", "4"]

    tree = on_mount(tmp_path, work, REMEMBERED)
    assert tree.listings == COUNT + 1  # none twice
    assert tree.most >= 3


def test_here_and_there(tmp_path: Path, require: Callable[..., None]) -> None:
    """No walk: nothing is fetched that nobody wants."""
    require("fuse")
    some = [NAMES[place] for place in (7, 2, 15, 4, 11, 9)]

    def work(mnt: Path) -> None:
        os.listdir(mnt)
        for name in some:
            assert len(os.listdir(mnt / name)) == 5

    tree = on_mount(tmp_path, work, REMEMBERED)
    assert (
        tree.listings <= len(some) + 1 + 3
    )  # the order of the entries is the tree's: two may follow each other


def test_what_changes_after_it_was_fetched_is_seen(tmp_path: Path, require: Callable[..., None]) -> None:
    require("fuse")

    def work(mnt: Path) -> None:
        os.listdir(mnt)
        for place, name in enumerate(NAMES):
            expected = 5 if place < 2 else 6
            with os.scandir(mnt / name) as entries:
                sizes = {entry.name: entry.stat().st_size for entry in entries}
            assert len(sizes) == expected
            if place >= 2:
                assert sizes["new"] == 7 and sizes["0"] == 3
            for later in NAMES[place + 2 : place + 3]:
                (mnt / later / "new").write_bytes(b"content")
                (mnt / later / "0").write_bytes(b"now")

    on_mount(tmp_path, work, REMEMBERED)


def test_nothing_is_remembered(tmp_path: Path, require: Callable[..., None]) -> None:
    """... nor fetched before its time, if the user does not want it."""
    require("fuse")

    def work(mnt: Path) -> None:
        for name in sorted(os.listdir(mnt)):
            assert len(os.listdir(mnt / name)) == 5

    tree = on_mount(tmp_path, work, MountOptions(attr_timeout=0, entry_timeout=0, negative_timeout=0))
    assert tree.most == 1

"""Names that are asked for one by one, fetched together."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from quicfs.fuse_mount.mount import FuseMount
from quicfs.fuse_mount.options import MountOptions
from quicfs.vfs import Attr, DirPage, LocalTree, Node

pytestmark = pytest.mark.fuse

FILES = 100


class CountingTree(LocalTree):
    """Counts what it is asked."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.asked: Counter[str] = Counter()

    async def lookup(self, directory: Node, path: str, *, follow: bool = False) -> tuple[Node, Attr]:
        self.asked["lookup"] += 1
        return await super().lookup(directory, path, follow=follow)

    async def readdir(self, directory: Node, cookie: int = 0, limit: int = 1024) -> DirPage:
        self.asked["readdir"] += 1
        return await super().readdir(directory, cookie, limit)


def on_mount(source: Path, mountpoint: Path, work: Callable[[], None]) -> Counter[str]:
    """What the tree was asked while `work` used it in another thread."""

    async def main() -> Counter[str]:
        tree = CountingTree(os.fspath(source))
        mount = FuseMount(tree, os.fspath(mountpoint), MountOptions(attr_timeout=60, negative_timeout=60))
        await mount.mount()
        try:
            await asyncio.to_thread(work)
        finally:
            await mount.unmount()
            await tree.close()
        return tree.asked

    return asyncio.run(main())


@pytest.fixture
def places(tmp_path: Path, require: Callable[..., None]) -> tuple[Path, Path]:
    require("fuse")
    source, mnt = tmp_path / "source", tmp_path / "mnt"
    (source / "d").mkdir(parents=True)
    mnt.mkdir()
    for number in range(FILES):
        (source / "d" / f"f{number}").write_text(str(number))
    return source, mnt


def test_many_names_cost_one_listing(places: tuple[Path, Path]) -> None:
    source, mnt = places

    def work() -> None:
        for number in range(FILES):
            assert (mnt / "d" / f"f{number}").stat().st_size == len(str(number))
            assert not (mnt / "d" / f"g{number}").exists()

    asked = on_mount(source, mnt, work)
    assert asked["readdir"] == 1
    assert asked["lookup"] <= 8


def test_one_name_costs_no_listing(places: tuple[Path, Path]) -> None:
    source, mnt = places
    asked = on_mount(source, mnt, lambda: (mnt / "d" / "f7").stat() and None)
    assert asked["readdir"] == 0


def test_a_new_directory_is_known_to_be_empty(places: tuple[Path, Path]) -> None:
    source, mnt = places

    def work() -> None:
        (mnt / "new").mkdir()
        for number in range(FILES):
            (mnt / "new" / str(number)).write_text("x")
            assert not (mnt / "new" / f"{number}.tmp").exists()
        assert len(os.listdir(mnt / "new")) == FILES

    asked = on_mount(source, mnt, work)
    assert asked["lookup"] <= 8
    assert len(os.listdir(source / "new")) == FILES

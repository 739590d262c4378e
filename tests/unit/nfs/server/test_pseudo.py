"""Exports and the pseudo file system that joins them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from quicfs.nfs.server.exports import Export
from quicfs.nfs.server.pseudo import PseudoNode, PseudoTree
from quicfs.vfs import LocalTree
from quicfs.vfs.api import Access, Caller, FileKind, FsError, OpenFlags, SetAttr, Status

_opened: list[LocalTree] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while _opened:
        asyncio.run(_opened.pop().close())


def exports(tmp_path: Path, *paths: str) -> list[Export]:
    _opened.append(LocalTree(tmp_path))
    return [Export(path, _opened[-1]) for path in paths]


def test_the_way_to_an_export_is_made_of_directories(tmp_path: Path) -> None:
    async def go() -> None:
        home, music = exports(tmp_path, "/data/home", "/data/more/music")
        tree = PseudoTree([home, music], now_ns=5)
        data, attr = await tree.lookup(tree.root, "data")
        assert attr.kind is FileKind.DIRECTORY and attr.mode == 0o555 and attr.mtime_ns == 5
        assert isinstance(data, PseudoNode) and data.export is None
        found, _ = await tree.lookup(tree.root, "data/more/music")
        assert found.export is music and tree.place_of(music) is found
        page = await tree.readdir(data)
        assert [entry.name for entry in page.entries] == ["home", "more"] and page.eof
        up, _ = await tree.parent(data)
        assert up is tree.root
        for call in (tree.parent(tree.root), tree.lookup(data, "nothing")):
            with pytest.raises(FsError) as refused:
                await call
            assert refused.value.status is Status.NOT_FOUND

    asyncio.run(go())


def test_listing_goes_on_where_it_stopped(tmp_path: Path) -> None:
    async def go() -> None:
        tree = PseudoTree(exports(tmp_path, *(f"/e{number}" for number in range(7))))
        names: list[str] = []
        cookie, eof = 0, False
        while not eof:
            page = await tree.readdir(tree.root, cookie, 3)
            names += [entry.name for entry in page.entries]
            cookie, eof = page.entries[-1].cookie, page.eof
        assert names == [f"e{number}" for number in range(7)]

    asyncio.run(go())


def test_handles_hold_over_a_restart_and_objects_differ(tmp_path: Path) -> None:
    async def go() -> None:
        first = PseudoTree(exports(tmp_path, "/a/b", "/a/c"))
        second = PseudoTree(exports(tmp_path, "/z", "/a/c", "/a/b"))
        node, attr = await first.lookup(first.root, "a")
        again, later = await second.from_handle(await first.handle(node))
        assert again.path == "/a" and later.fileid == attr.fileid and later.change == attr.change
        assert (await first.getattr(first.root)).change != (await second.getattr(second.root)).change
        assert first.export_of(first.exports[0].id) is first.exports[0]
        with pytest.raises(FsError) as refused:
            await first.from_handle(b"x" * 16)
        assert refused.value.status is Status.STALE

    asyncio.run(go())


def test_nothing_there_can_be_changed(tmp_path: Path) -> None:
    async def go() -> None:
        tree = PseudoTree(exports(tmp_path, "/a"))
        root = tree.root
        for call in (
            tree.mkdir(root, "x"),
            tree.symlink(root, "x", "y"),
            tree.unlink(root, "a"),
            tree.rmdir(root, "a"),
            tree.rename(root, "a", root, "b"),
            tree.link(root, root, "b"),
            tree.setattr(root, SetAttr(mode=0)),
            tree.mknod(root, "x", FileKind.FIFO),
            tree.open(root, "x", OpenFlags.WRITE | OpenFlags.CREATE),
        ):
            with pytest.raises(FsError) as refused:
                await call
            assert refused.value.status is Status.READ_ONLY
        assert Access.WRITE not in await tree.access(root, Access.READ | Access.WRITE)

    asyncio.run(go())


def test_one_export_may_be_the_root(tmp_path: Path) -> None:
    (only,) = exports(tmp_path, "/")
    assert PseudoTree([only]).root.export is only


@pytest.mark.parametrize("paths", [("/", "/a"), ("/a", "/a/b"), ("/a", "/a"), ("/x/y/z", "/x")])
def test_an_export_that_hides_another_is_refused(tmp_path: Path, paths: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="hidden"):
        PseudoTree(exports(tmp_path, *paths))


@pytest.mark.parametrize("path", ["a", "", "/a//b", "/a/", "/../x", "/.", "/a\0b", "/" + "x" * 256])
def test_a_path_that_nobody_could_ask_for_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="export"):
        exports(tmp_path, path)


def test_exports_are_told_apart_by_their_path(tmp_path: Path) -> None:
    one, other, again = exports(tmp_path, "/a", "/b", "/a")
    assert one.id == again.id and one.fsid == again.fsid
    assert one.id != other.id and one.fsid not in (other.fsid, (0, 0))


def test_a_view_is_made_once_for_each_caller(tmp_path: Path) -> None:
    (export,) = exports(tmp_path, "/a")
    assert export.view(Caller(1, 2)) is export.view(Caller(1, 2))

"""LocalTree: handles that name an object for as long as it exists, and nothing else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quicfs.vfs import HANDLE_MAX, FileKind, FileSystem, FsError, LocalTree, OpenFlags, Status

NEW = OpenFlags.READ | OpenFlags.WRITE | OpenFlags.CREATE
Check = Callable[[FileSystem, dict[str, bytes]], Awaitable[None]]


@pytest.fixture(params=["with the right to open by handle", "without"])
def tree_of(request, monkeypatch) -> Callable[[Path], LocalTree]:
    """Trees whose process has the right, and trees that must do without."""
    if request.param == "without":
        # What a process without CAP_DAC_READ_SEARCH, or a file system without handles, meets.
        monkeypatch.setattr("quicfs.vfs.kernel_handle._open_by_handle_at", lambda *_: _refused())
    elif os.geteuid():
        pytest.skip("needs CAP_DAC_READ_SEARCH")
    return LocalTree


def _refused() -> int:
    import ctypes
    import errno

    ctypes.set_errno(errno.EPERM)
    return -1


def _populate(path: Path) -> None:
    (path / "dir" / "below").mkdir(parents=True)
    (path / "dir" / "file").write_text("content")
    (path / "dir" / "below" / "deep").write_text("deep")
    (path / "link").symlink_to("dir/file")
    os.mkfifo(path / "fifo")


NAMES = ("", "dir", "dir/below", "dir/file", "dir/below/deep", "link", "fifo")


def _restarted(
    tree_of: Callable[[Path], LocalTree], path: Path, between: Callable[[], None], check: Check
) -> None:
    """Handles of `NAMES` from one tree; then `between`; then `check` with another tree on the same folder."""

    async def main() -> None:
        tree = tree_of(path)
        handles = {}
        for name in NAMES:
            node, _ = await tree.lookup(tree.root, name)
            handles[name] = await tree.handle(node)
            assert await tree.handle(node) == handles[name]
            assert len(handles[name]) <= HANDLE_MAX
            assert (await tree.from_handle(handles[name]))[0] is node
        assert len(set(handles.values())) == len(NAMES)
        between()
        await check(tree, handles)  # the same tree must know it, too
        await tree.close()
        again = tree_of(path)
        try:
            await check(again, handles)
        finally:
            await again.close()

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) == before


async def _stale(tree: FileSystem, handle: bytes) -> None:
    with pytest.raises(FsError) as caught:
        await tree.from_handle(handle)
    assert caught.value.status is Status.STALE


def test_a_handle_survives_a_restart(share, tree_of) -> None:
    _populate(share.path)

    async def check(tree: FileSystem, handles: dict[str, bytes]) -> None:
        for name, handle in handles.items():
            node, attr = await tree.from_handle(handle)
            assert (await tree.lookup(tree.root, name))[0] is node
            assert attr.fileid == os.lstat(share.path / name).st_ino
            assert await tree.handle(node) == handle

    _restarted(tree_of, share.path, lambda: None, check)


def test_a_handle_follows_its_object(share, tree_of) -> None:
    _populate(share.path)

    def move() -> None:  # another program, behind the tree's back
        os.rename(share.path / "dir" / "file", share.path / "moved")
        os.rename(share.path / "dir", share.path / "other")
        (share.path / "dir").mkdir()
        (share.path / "dir" / "file").write_text("another")

    async def check(tree: FileSystem, handles: dict[str, bytes]) -> None:
        for name, where in (("dir/file", "moved"), ("dir", "other"), ("dir/below/deep", "other/below/deep")):
            node, attr = await tree.from_handle(handles[name])
            assert attr.fileid == os.stat(share.path / where).st_ino
            assert (await tree.getattr(node)).fileid == attr.fileid
            assert (await tree.lookup(tree.root, where))[0] is node
        file, _, _ = await tree.open((await tree.from_handle(handles["dir/file"]))[0], "", OpenFlags.READ)
        assert bytes(await file.read(0, 99)) == b"content"
        await file.close()

    _restarted(tree_of, share.path, move, check)


def test_what_is_gone_is_stale_and_stays_it(share, tree_of) -> None:
    _populate(share.path)
    kept = os.open(share.path / "dir" / "file", os.O_RDONLY)  # its inode lives on, without a name

    def remove() -> None:
        os.unlink(share.path / "dir" / "file")
        os.unlink(share.path / "dir" / "below" / "deep")
        os.rmdir(share.path / "dir" / "below")
        for number in range(50):  # they get the numbers of the removed
            (share.path / f"new{number}").write_text("")

    async def check(tree: FileSystem, handles: dict[str, bytes]) -> None:
        for name in ("dir/file", "dir/below/deep", "dir/below"):
            await _stale(tree, handles[name])
        await tree.from_handle(handles["dir"])

    try:
        _restarted(tree_of, share.path, remove, check)
    finally:
        os.close(kept)


def test_what_was_moved_out_of_the_tree_is_stale(share, tree_of) -> None:
    _populate(share.path)

    def move() -> None:
        os.rename(share.path / "dir" / "below", share.outside / "below")
        os.rename(share.path / "dir" / "file", share.outside / "file")

    async def check(tree: FileSystem, handles: dict[str, bytes]) -> None:
        for name in ("dir/file", "dir/below", "dir/below/deep"):
            await _stale(tree, handles[name])

    _restarted(tree_of, share.path, move, check)


def test_a_file_with_a_name_outside_is_found_by_its_name_inside(share, tree_of) -> None:
    _populate(share.path)

    def rename() -> None:
        os.link(share.path / "dir" / "file", share.outside / "outside")
        os.rename(share.path / "dir" / "file", share.path / "dir" / "below" / "renamed")
        os.stat(share.outside / "outside")

    async def check(tree: FileSystem, handles: dict[str, bytes]) -> None:
        node, attr = await tree.from_handle(handles["dir/file"])
        assert attr.nlink == 2
        assert (await tree.lookup(tree.root, "dir/below/renamed"))[0] is node

    _restarted(tree_of, share.path, rename, check)


def test_a_handle_of_another_tree_on_the_same_disk_is_stale(share, tree_of) -> None:
    _populate(share.outside)

    async def main() -> None:
        outer, inner = tree_of(share.outside), tree_of(share.path)
        try:
            for name in NAMES:
                handle = await outer.handle((await outer.lookup(outer.root, name))[0])
                await _stale(inner, handle)
            served = await outer.handle((await outer.lookup(outer.root, "share"))[0])
            assert (await inner.from_handle(await inner.handle(inner.root)))[0] is inner.root
            assert (await outer.from_handle(served))[1].kind is FileKind.DIRECTORY
        finally:
            await inner.close()
            await outer.close()

    asyncio.run(main())


def test_a_directory_swapped_for_a_link_leads_nowhere(share, tree_of) -> None:
    _populate(share.path)
    (share.outside / "secret").mkdir()
    (share.outside / "secret" / "file").write_text("secret")

    def swap() -> None:
        os.rename(share.path / "dir", share.outside / "dir")
        (share.path / "dir").symlink_to(share.outside / "secret")

    async def check(tree: FileSystem, handles: dict[str, bytes]) -> None:
        for name in ("dir", "dir/file", "dir/below/deep"):
            await _stale(tree, handles[name])

    _restarted(tree_of, share.path, swap, check)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    garbage=st.one_of(
        st.binary(max_size=64),
        st.builds(lambda kind, rest: bytes((kind,)) + rest, st.sampled_from([1, 2]), st.binary(max_size=150)),
        st.builds(lambda kind, rest: bytes((1, kind)) + rest, st.integers(0, 255), st.binary(max_size=40)),
    ),
    flipped=st.tuples(st.integers(0, 39), st.integers(1, 255)),
)
def test_garbage_is_stale(tree_of, share, garbage, flipped) -> None:
    async def main() -> None:
        tree = tree_of(share.path)
        try:
            file, _, _ = await tree.open(tree.root, "file", NEW)
            handle = await tree.handle(file.node)
            await file.close()
            if garbage not in (handle, await tree.handle(tree.root)):
                await _stale(tree, garbage)
            place, mask = flipped
            if place < len(handle):
                changed = bytearray(handle)
                changed[place] ^= mask
                try:  # a type of handle that the kernel does not mind may still name the very object
                    assert (await tree.from_handle(bytes(changed)))[0] is file.node
                except FsError as error:
                    assert error.status is Status.STALE
        finally:
            await tree.close()

    asyncio.run(main())

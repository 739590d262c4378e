"""LocalTree: every call of the contract."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from quicfs.vfs import (
    NOW,
    FileKind,
    FsError,
    LocalTree,
    OpenFlags,
    SetAttr,
    Status,
)

READ, WRITE, CREATE = OpenFlags.READ, OpenFlags.WRITE, OpenFlags.CREATE
NEW = READ | WRITE | CREATE


def test_write_read_back(share) -> None:
    async def scenario(tree: LocalTree) -> None:
        file, attr, created = await tree.open(tree.root, "a", NEW, 0o640)
        assert created and attr.size == 0 and attr.kind is FileKind.REGULAR and attr.mode == 0o640
        assert await file.write(3, b"hello") == 5
        assert bytes(await file.read(0, 100)) == b"\0\0\0hello"
        assert bytes(await file.read(4, 2)) == b"el"
        assert bytes(await file.read(8, 2)) == b""
        assert bytes(await file.read(1 << 62, 1 << 20)) == b""
        assert await file.write(0, memoryview(b"x" * 300_000), stable=True) == 300_000
        assert bytes(await file.read(299_999, 1 << 20)) == b"x"
        await file.fsync()
        await file.fsync(data_only=True)
        assert (await file.getattr()).size == 300_000
        assert file.node == (await tree.lookup(tree.root, "a"))[0]
        await file.close()
        await file.close()
        await share.fails(Status.BAD_FILE, file.read(0, 1))
        await share.fails(Status.BAD_FILE, file.fsync())

    share.run(scenario)
    assert (share.path / "a").read_bytes() == b"x" * 300_000


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_mode_is_exact_whatever_the_umask(share, umask) -> None:
    async def scenario(tree: LocalTree) -> None:
        file, attr, _ = await tree.open(tree.root, "f", NEW, 0o4751)
        await file.close()
        assert attr.mode == 0o4751
        assert (await tree.mkdir(tree.root, "d", 0o1777))[1].mode == 0o1777

    old = os.umask(umask)
    try:
        share.run(scenario)
    finally:
        os.umask(old)
    assert stat.S_IMODE((share.path / "f").stat().st_mode) == 0o4751


def test_open_flags(share) -> None:
    (share.path / "f").write_bytes(b"content")
    (share.path / "d").mkdir()
    (share.path / "link").symlink_to("f")
    (share.path / "dangling").symlink_to("made")

    async def scenario(tree: LocalTree) -> None:
        root = tree.root
        file, attr, created = await tree.open(root, "f", NEW)
        assert not created and attr.size == 7
        await file.close()
        await share.fails(Status.EXISTS, tree.open(root, "f", NEW | OpenFlags.EXCLUSIVE))
        file, attr, created = await tree.open(root, "f", WRITE | OpenFlags.TRUNCATE)
        assert not created and attr.size == 0
        await share.fails(Status.BAD_FILE, file.read(0, 1))
        await file.close()
        file, _, _ = await tree.open(root, "f", READ)
        await share.fails(Status.BAD_FILE, file.write(0, b"x"))
        await share.fails(Status.BAD_FILE, file.setattr(SetAttr(size=1)))
        await share.fails(Status.BAD_FILE, file.allocate(0, 1))
        await file.close()
        file, _, _ = await tree.open(root, "link", READ)
        assert file.node == (await tree.lookup(root, "f"))[0]
        await file.close()
        await share.fails(Status.LOOP, tree.open(root, "link", READ | OpenFlags.NOFOLLOW))
        await share.fails(Status.LOOP, tree.open(root, "dangling", NEW | OpenFlags.NOFOLLOW))
        await share.fails(Status.NOT_FOUND, tree.open(root, "dangling", READ))
        file, _, created = await tree.open(root, "dangling", NEW)
        assert created and file.node == (await tree.lookup(root, "made"))[0]
        await file.close()
        await share.fails(Status.IS_DIR, tree.open(root, "d", READ))
        await share.fails(Status.IS_DIR, tree.open(root, "d", NEW))
        await share.fails(Status.IS_DIR, tree.open(root, "", READ))
        await share.fails(Status.EXISTS, tree.open(root, "d", NEW | OpenFlags.EXCLUSIVE))
        await share.fails(Status.NOT_FOUND, tree.open(root, "none", READ))
        await share.fails(Status.NOT_FOUND, tree.open(root, "none/f", NEW))
        await share.fails(Status.NOT_DIR, tree.open(root, "f/f", NEW))
        await share.fails(Status.INVALID, tree.open(root, "f", OpenFlags.CREATE))
        await share.fails(Status.INVALID, tree.open(root, "f", READ | OpenFlags.TRUNCATE))
        node = (await tree.lookup(root, "f"))[0]
        file, _, _ = await tree.open(node, "", READ | WRITE)
        await file.close()

    share.run(scenario)


def test_lookup_and_links_on_the_way(share) -> None:
    (share.path / "d/e").mkdir(parents=True)
    (share.path / "d/e/f").write_bytes(b"1")
    (share.path / "s").symlink_to("d/e")
    (share.path / "loop").symlink_to("loop")

    async def scenario(tree: LocalTree) -> None:
        root = tree.root
        direct, attr = await tree.lookup(root, "d/e/f")
        through, _ = await tree.lookup(root, "s/f")
        assert direct == through and hash(direct) == hash(through) and attr.size == 1
        link, attr = await tree.lookup(root, "s")
        assert attr.kind is FileKind.SYMLINK and await tree.readlink(link) == "d/e"
        target, attr = await tree.lookup(root, "s", follow=True)
        assert attr.kind is FileKind.DIRECTORY and target == (await tree.lookup(root, "d/e"))[0]
        assert (await tree.lookup(target, "f"))[0] == direct
        assert (await tree.lookup(direct, ""))[0] == direct
        assert (await tree.getattr(direct)).size == 1
        assert (await tree.getattr(link)).kind is FileKind.SYMLINK
        await share.fails(Status.LOOP, tree.lookup(root, "loop", follow=True))
        await share.fails(Status.LOOP, tree.lookup(root, "loop/x"))
        await share.fails(Status.INVALID, tree.readlink(direct))
        await share.fails(Status.NOT_DIR, tree.readdir(direct))

    share.run(scenario)


def test_names_change(share) -> None:
    async def scenario(tree: LocalTree) -> None:
        root = tree.root
        d, attr = await tree.mkdir(root, "d", 0o700)
        assert attr.kind is FileKind.DIRECTORY and attr.mode == 0o700
        await share.fails(Status.EXISTS, tree.mkdir(root, "d"))
        sub, _ = await tree.mkdir(root, "d/sub")
        file, _, _ = await tree.open(sub, "f", NEW)
        await file.write(0, b"data")
        node = file.node
        await share.fails(Status.NOT_EMPTY, tree.rmdir(root, "d"))
        await tree.rename(root, "d", root, "moved")
        assert (await tree.getattr(node)).size == 4
        assert (await tree.getattr(sub)).kind is FileKind.DIRECTORY
        assert (await tree.lookup(sub, "f"))[0] == node
        link, attr = await tree.symlink(d, "s", "sub/f")
        assert attr.kind is FileKind.SYMLINK and await tree.readlink(link) == "sub/f"
        assert (await tree.link(node, root, "hard")).nlink == 2
        assert (await tree.link(link, root, "hardlink")).kind is FileKind.SYMLINK
        await share.fails(Status.EXISTS, tree.link(node, root, "hard"))
        await share.fails(Status.IS_DIR, tree.link(sub, root, "hd"))
        await share.fails(Status.EXISTS, tree.rename(root, "hardlink", root, "hard", replace=False))
        await tree.rename(root, "hardlink", root, "free", replace=False)
        await tree.rename(root, "hard", d, "s")
        assert (await tree.lookup(d, "s"))[0] == node
        assert await tree.readlink(link) == "sub/f"  # it is called "free" now
        await share.fails(Status.IS_DIR, tree.unlink(root, "moved"))
        await share.fails(Status.NOT_DIR, tree.rmdir(d, "s"))
        await tree.unlink(d, "s")
        await tree.unlink(root, "moved/sub/f")
        assert bytes(await file.read(0, 9)) == b"data"  # still usable without a name
        assert (await file.getattr()).nlink == 0
        await share.fails(Status.STALE, tree.getattr(node))
        await file.close()
        await tree.rmdir(root, "moved/sub")
        await share.fails(Status.STALE, tree.getattr(sub))
        await share.fails(Status.NOT_FOUND, tree.unlink(root, "none"))
        await share.fails(Status.NOT_FOUND, tree.rename(root, "none", root, "other"))
        await tree.fsync(d)
        await tree.fsync(root)

    share.run(scenario)


def test_setattr(share) -> None:
    (share.path / "f").write_bytes(b"x" * 100)
    (share.path / "s").symlink_to("f")

    async def scenario(tree: LocalTree) -> None:
        node = (await tree.lookup(tree.root, "f"))[0]
        attr = await tree.setattr(
            node, SetAttr(mode=0o600, size=10, atime_ns=-5, mtime_ns=1_234_567_890_123_456_789)
        )
        assert (attr.mode, attr.size, attr.mtime_ns) == (0o600, 10, 1_234_567_890_123_456_789)
        attr = await tree.setattr(node, SetAttr(mtime_ns=NOW))
        assert attr.mtime_ns > 1_700_000_000_000_000_000 and attr.atime_ns == -5
        attr = await tree.setattr(node, SetAttr(uid=os.getuid(), gid=os.getgid()))
        assert (attr.uid, attr.gid) == (os.getuid(), os.getgid())
        link = (await tree.lookup(tree.root, "s"))[0]
        attr = await tree.setattr(link, SetAttr(mtime_ns=7))
        assert attr.mtime_ns == 7 and (await tree.getattr(node)).mtime_ns != 7
        await share.fails(Status.NOT_SUPPORTED, tree.setattr(link, SetAttr(mode=0o600)))
        await share.fails(Status.INVALID, tree.setattr(link, SetAttr(size=0)))
        await share.fails(Status.IS_DIR, tree.setattr(tree.root, SetAttr(size=0)))
        assert (await tree.setattr(tree.root, SetAttr(mode=0o755))).mode == 0o755
        file, before, _ = await tree.open(tree.root, "f", READ | WRITE)
        after = await file.setattr(SetAttr(size=5, mode=0o644, mtime_ns=1))
        assert (after.size, after.mode, after.mtime_ns) == (5, 0o644, 1) and after.change != before.change
        await file.close()
        for bad in (
            SetAttr(mode=0o10000), SetAttr(mode=-1), SetAttr(uid=-1), SetAttr(gid=1 << 40), SetAttr(size=-1),
            SetAttr(mtime_ns=1 << 100),
        ):  # fmt: skip
            await share.fails(Status.INVALID, tree.setattr(node, bad))
        await share.fails(Status.TOO_BIG, tree.setattr(node, SetAttr(size=1 << 63)))

    share.run(scenario)


def test_ten_thousand_entries_while_others_come_and_go(share) -> None:
    stay = {f"stay-{i:05}" for i in range(10_000)}
    for name in stay:
        (share.path / name).touch()
    for i in range(500):
        (share.path / f"go-{i}").touch()

    async def scenario(tree: LocalTree) -> None:
        seen: list[str] = []
        cookie, turn = 0, 0
        while True:
            page = await tree.readdir(tree.root, cookie, 700)
            seen += [entry.name for entry in page.entries]
            if page.eof:
                break
            cookie = page.entries[-1].cookie
            (share.path / f"go-{turn}").unlink()
            (share.path / f"come-{turn}").touch()
            turn += 1
            if turn == 3:  # many other listings push our snapshot out
                for i in range(80):
                    (share.path / "stay-00000").stat()
                    name = f"dir-{i}"
                    node, _ = await tree.mkdir(tree.root, name)
                    for j in range(2):
                        (await (await tree.open(node, str(j), NEW))[0].close())
                    await tree.readdir(node, 0, 1)
        assert len(seen) == len(set(seen))
        assert stay <= set(seen)

    share.run(scenario)


def test_readdir_page_sizes(share) -> None:
    names = {"ä", "b" * 255, "日本語", os.fsdecode(b"\xff\xfe")}
    for name in names:
        (share.path / name).mkdir()

    async def scenario(tree: LocalTree) -> None:
        for limit in (1, 2, 3, 4, 100):
            entries = await share.listing(tree, tree.root, limit)
            assert {e.name for e in entries} == names and len(entries) == len(names)
            assert all(e.attr.kind is FileKind.DIRECTORY and 0 < e.cookie < 1 << 63 for e in entries)
        empty = (await tree.lookup(tree.root, "ä"))[0]
        page = await tree.readdir(empty)
        assert not page.entries and page.eof
        await share.fails(Status.INVALID, tree.readdir(empty, 0, 0))

    share.run(scenario)


def test_sparse_beyond_4_gib(share) -> None:
    five = 5 << 30

    async def scenario(tree: LocalTree) -> None:
        file, _, _ = await tree.open(tree.root, "big", NEW)
        await file.write(five, b"end")
        attr = await file.getattr()
        assert attr.size == five + 3 and attr.allocated < 1 << 20
        assert bytes(await file.read(five - 1, 10)) == b"\0end"
        assert await file.seek_data(0) <= five and await file.seek_data(0, hole=True) == 0
        await share.fails(Status.NO_DATA, file.seek_data(five + 3))
        await file.write(0, b"x" * 65536)
        await file.allocate(0, 65536, punch_hole=True)
        assert bytes(await file.read(0, 4)) == b"\0\0\0\0"
        await file.allocate(0, 1 << 20)
        assert (await file.getattr()).allocated >= 1 << 20
        await file.setattr(SetAttr(size=five + 10))
        await file.setattr(SetAttr(size=0))
        await file.close()

    share.run(scenario)


def test_numbers_past_2_to_the_63(share) -> None:
    async def scenario(tree: LocalTree) -> None:
        file, _, _ = await tree.open(tree.root, "f", NEW)
        await file.write(0, b"abc")
        for offset in (1 << 63, 1 << 64, -1):
            await share.fails(Status.INVALID, file.read(offset, 1))
            await share.fails(Status.INVALID, file.seek_data(offset))
        await share.fails(Status.INVALID, file.read(0, -1))
        await share.fails(Status.INVALID, file.write(-1, b"x"))
        await share.fails(Status.TOO_BIG, file.write((1 << 63) - 1, b"xx"))
        await share.fails(Status.TOO_BIG, file.write(1 << 70, b"x"))
        await share.fails(Status.TOO_BIG, file.setattr(SetAttr(size=1 << 64)))
        await share.fails(Status.TOO_BIG, file.allocate(1, (1 << 63) - 1))
        await share.fails(Status.INVALID, file.allocate(0, 0))
        assert bytes(await file.read((1 << 63) - 1, 1 << 40)) == b""
        assert bytes(await file.read(0, 1 << 70)) == b"abc"
        assert await tree.copy_range(file, 1 << 62, file, 0, 1 << 70) == 0
        await file.close()

    share.run(scenario)


def test_copy_range(share) -> None:
    async def scenario(tree: LocalTree) -> None:
        source, _, _ = await tree.open(tree.root, "a", NEW)
        target, _, _ = await tree.open(tree.root, "b", NEW)
        data = os.urandom(3 << 20)
        await source.write(0, data)
        assert await tree.copy_range(source, 5, target, 10, 1 << 40) == len(data) - 5
        assert bytes(await target.read(10, len(data))) == data[5:]
        assert await tree.copy_range(source, 0, source, len(data), 100) == 100
        await share.fails(Status.INVALID, tree.copy_range(source, 0, source, 10, 100))
        await source.close()
        await share.fails(Status.BAD_FILE, tree.copy_range(source, 0, target, 0, 1))
        await target.close()

    share.run(scenario)


def test_extended_attributes(share) -> None:
    (share.path / "f").touch()

    async def scenario(tree: LocalTree) -> None:
        node = (await tree.lookup(tree.root, "f"))[0]
        await tree.setxattr(node, "user.a", b"\0\1", create=True)
        await share.fails(Status.EXISTS, tree.setxattr(node, "user.a", b"", create=True))
        await share.fails(Status.NO_DATA, tree.setxattr(node, "user.b", b"", replace=True))
        assert await tree.getxattr(node, "user.a") == b"\0\1"
        assert await tree.listxattr(node) == ["user.a"]
        await tree.removexattr(node, "user.a")
        await share.fails(Status.NO_DATA, tree.getxattr(node, "user.a"))
        for name in ("security.capability", "trusted.x", "system.posix_acl_access", "a", "user.\0"):
            await share.fails(Status.NOT_SUPPORTED, tree.getxattr(node, name))
            await share.fails(Status.NOT_SUPPORTED, tree.setxattr(node, name, b"x"))
        await share.fails(Status.INVALID, tree.getxattr(node, "user."))

    share.run(scenario)


def test_read_only(share) -> None:
    (share.path / "d").mkdir()
    (share.path / "f").write_bytes(b"1")
    before = (share.path / "f").stat()

    async def scenario(tree: LocalTree) -> None:
        root = tree.root
        node = (await tree.lookup(root, "f"))[0]
        assert (await tree.statfs()).read_only
        file, _, _ = await tree.open(root, "f", READ | CREATE)
        assert bytes(await file.read(0, 9)) == b"1"
        calls = [
            tree.open(root, "f", WRITE), tree.open(root, "n", READ | CREATE), tree.mkdir(root, "n"),
            tree.open(root, "f", READ | WRITE | OpenFlags.TRUNCATE),
            tree.symlink(root, "n", "x"), tree.link(node, root, "n"), tree.unlink(root, "f"),
            tree.rmdir(root, "d"), tree.rename(root, "f", root, "n"), tree.setattr(node, SetAttr(mode=0)),
            tree.setxattr(node, "user.a", b""), tree.removexattr(node, "user.a"),
            file.setattr(SetAttr(mode=0)),
        ]  # fmt: skip
        for call in calls:
            await share.fails(Status.READ_ONLY, call)
        await file.close()

    share.run(scenario, read_only=True)
    assert (share.path / "f").stat().st_ctime_ns == before.st_ctime_ns


def test_every_change_changes_the_change_number(share) -> None:
    """Also within one step of the kernel's clock, which is milliseconds on older ones."""

    async def scenario(tree: LocalTree) -> None:
        root = tree.root
        file, _, _ = await tree.open(root, "f", NEW)
        node = file.node
        seen: list[int] = []

        async def differs() -> None:
            attr = await file.getattr()
            assert attr == await tree.getattr(node) == (await tree.lookup(root, "f"))[1]
            assert attr == next(e.attr for e in (await tree.readdir(root)).entries if e.name == "f")
            seen.append(attr.change)

        for step in range(100):
            await file.write(0, bytes([step]))
            await differs()
            await tree.setattr(node, SetAttr(mode=0o600 + step % 8))
            await differs()
            await file.setattr(SetAttr(mtime_ns=step))
            await differs()
            await tree.setxattr(node, "user.a", bytes([step]))
            await differs()
        await tree.link(node, root, "g")
        await differs()
        assert len(set(seen)) == len(seen)
        await differs()
        assert seen[-1] == seen[-2]
        await file.close()

        directory, _ = await tree.mkdir(root, "d")
        seen = []
        for step in range(50):
            for call in (
                tree.mkdir(directory, f"d{step}"), tree.symlink(root, f"d/s{step}", "x"),
                tree.open(root, f"d/f{step}", NEW), tree.open(directory, f"g{step}", NEW),
                tree.rename(directory, f"g{step}", directory, "h"), tree.unlink(directory, f"f{step}"),
                tree.rmdir(root, f"d/d{step}"), tree.rename(root, f"d/s{step}", root, "out"),
            ):  # fmt: skip
                made = await call
                if isinstance(made, tuple) and len(made) == 3:
                    await made[0].close()
                seen.append((await tree.getattr(directory)).change)
        assert len(set(seen)) == len(seen)

    share.run(scenario)


def test_memory_file_systems(share) -> None:
    """tmpfs knows no RWF_NOWAIT."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))

    async def main() -> None:
        tree = LocalTree(folder)
        file, _, _ = await tree.open(tree.root, "f", NEW)
        await file.write(0, b"12345")
        for _ in range(2):
            assert bytes(await file.read(1, 100)) == b"2345"
        await file.close()
        assert [e.name for e in (await tree.readdir(tree.root)).entries] == ["f"]
        await tree.close()

    try:
        asyncio.run(main())
    finally:
        shutil.rmtree(folder)


def test_statfs(share) -> None:
    async def scenario(tree: LocalTree) -> None:
        found = await tree.statfs()
        assert found.block_size and found.blocks >= found.blocks_free >= found.blocks_available
        assert found.name_max == 255 and not found.read_only

    share.run(scenario)


def test_roots_that_cannot_be_served(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    for path, status in (("none", Status.NOT_FOUND), ("f", Status.NOT_DIR), ("a\0b", Status.INVALID)):
        with pytest.raises(FsError) as caught:
            LocalTree(f"{tmp_path}/{path}")
        assert caught.value.status is status and path[:1] in str(caught.value)


def test_out_of_descriptors(share) -> None:
    (share.path / "f").touch()

    async def scenario(tree: LocalTree) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = []
        used = max(map(int, os.listdir("/proc/self/fd"))) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, hard))
        try:
            with pytest.raises(FsError) as caught:
                for _ in range(used + 11):
                    files.append((await tree.open(tree.root, "f", READ))[0])
            assert caught.value.status is Status.NO_RESOURCES
            for file in files:
                await file.close()
            await (await tree.open(tree.root, "f", READ))[0].close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    share.run(scenario)

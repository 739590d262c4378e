"""The NFS client against our server, when nothing goes wrong."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from quicfs.vfs.api import Access, FileKind, LockKind, OpenFlags, SetAttr
from quicfs.vfs.status import FsError, Status
from tests.sim.nfs_mount import CREATE, EXCLUSIVE, READ, TRUNCATE, WRITE, Mounted
from tests.sim.virtual_loop import run


async def status_of(work: object) -> Status:
    with pytest.raises(FsError) as caught:
        await work  # type: ignore[misc]
    return caught.value.status


def test_files_are_made_written_and_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            file, attr, created = await fs.open(fs.root, "a", CREATE | READ | WRITE, 0o640)
            assert created and attr.mode == 0o640 and attr.size == 0 and attr.kind is FileKind.REGULAR
            data = os.urandom(5_000_001)
            assert await file.write(0, data) == len(data)
            assert bytes(await file.read(0, 10_000_000)) == data
            assert bytes(await file.read(4_999_999, 10)) == data[4_999_999:]
            assert bytes(await file.read(6_000_000, 10)) == b""
            assert (await file.getattr()).size == len(data)
            await file.fsync()
            await file.close()
            await file.close()
            assert (nfs.rig.tree / "a").read_bytes() == data
            _, attr, created = await fs.open(fs.root, "a", CREATE | READ, 0o600)
            assert not created and attr.mode == 0o640

    run(main())


def test_exclusive_and_truncating_opens(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            file, attr, created = await fs.open(fs.root, "x", CREATE | EXCLUSIVE | WRITE, 0o604)
            assert created and attr.mode == 0o604
            assert abs(attr.mtime_ns - (nfs.rig.tree / "x").stat().st_ctime_ns) < 60 * 10**9
            assert await status_of(fs.open(fs.root, "x", CREATE | EXCLUSIVE | WRITE)) is Status.EXISTS
            await file.write(0, b"0123456789")
            await file.close()
            for flags in (TRUNCATE | WRITE, TRUNCATE | WRITE | CREATE):
                (nfs.rig.tree / "x").write_bytes(b"old content")
                file, attr, created = await fs.open(fs.root, "x", flags)
                assert (attr.size, created) == (0, False)
                await file.close()

    run(main())


def test_names(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs, tree = nfs.fs, nfs.rig.tree
            d, attr = await fs.mkdir(fs.root, "d", 0o750)
            assert attr.kind is FileKind.DIRECTORY and attr.mode == 0o750
            assert await status_of(fs.mkdir(fs.root, "d")) is Status.EXISTS
            link, attr = await fs.symlink(d, "l", "../f")
            assert attr.kind is FileKind.SYMLINK and await fs.readlink(link) == "../f"
            (tree / "f").write_bytes(b"12345")
            assert (await fs.lookup(fs.root, "d/l", follow=True))[1].size == 5
            assert (await fs.lookup(d, "l"))[1].kind is FileKind.SYMLINK
            node, _ = await fs.lookup(fs.root, "f")
            assert (await fs.link(node, d, "hard")).nlink == 2
            assert await status_of(fs.unlink(fs.root, "d")) is Status.IS_DIR
            assert await status_of(fs.rmdir(fs.root, "f")) is Status.NOT_DIR
            assert await status_of(fs.rmdir(fs.root, "d")) is Status.NOT_EMPTY
            assert await status_of(fs.unlink(d, "none")) is Status.NOT_FOUND
            assert await status_of(fs.lookup(node, "x")) is Status.NOT_DIR
            assert await status_of(fs.lookup(fs.root, "../x")) is Status.INVALID
            await fs.unlink(d, "hard")
            await fs.rename(d, "l", fs.root, "m")
            assert sorted(p.name for p in tree.iterdir()) == ["d", "f", "m"]
            await fs.rmdir(fs.root, "d")
            fifo, attr = await fs.mknod(fs.root, "p", FileKind.FIFO, 0o600)
            assert attr.kind is FileKind.FIFO and attr.mode == 0o600
            assert (await fs.getattr(fifo)).kind is FileKind.FIFO

    run(main())


def test_renaming_without_replacing(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs, tree = nfs.fs, nfs.rig.tree
            for name in ("a", "b"):
                (tree / name).write_text(name)
            for name in ("d", "e"):
                (tree / name).mkdir()
            assert await status_of(fs.rename(fs.root, "a", fs.root, "b", replace=False)) is Status.EXISTS
            assert await status_of(fs.rename(fs.root, "d", fs.root, "e", replace=False)) is Status.EXISTS
            await fs.rename(fs.root, "a", fs.root, "c", replace=False)
            await fs.rename(fs.root, "d", fs.root, "e/d", replace=False)
            assert (tree / "c").read_text() == "a" and (tree / "c").stat().st_nlink == 1
            assert sorted(p.name for p in tree.rglob("*")) == ["b", "c", "d", "e"]
            await fs.rename(fs.root, "b", fs.root, "c")
            assert (tree / "c").read_text() == "b"

    run(main())


def test_links_on_the_way_are_followed_inside_the_tree(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs, tree = nfs.fs, nfs.rig.tree
            (tree / "a" / "b").mkdir(parents=True)
            (tree / "a" / "b" / "f").write_bytes(b"found")
            (tree / "s").symlink_to("a/b")
            (tree / "a" / "up").symlink_to("../a/./b")
            (tree / "out").symlink_to("../..")
            (tree / "abs").symlink_to("/etc")
            (tree / "loop").symlink_to("loop")
            (tree / "last").symlink_to("s/f")
            for path in ("s/f", "a/up/f", "last"):
                file, attr, _ = await fs.open(fs.root, path, READ)
                assert bytes(await file.read(0, 10)) == b"found" and attr.size == 5
                await file.close()
            made, _, created = await fs.open(fs.root, "s/new", CREATE | WRITE)
            assert created and (tree / "a" / "b" / "new").exists()
            await made.close()
            await fs.rename(fs.root, "s/new", fs.root, "a/up/newer")
            await fs.unlink(fs.root, "s/newer")
            assert await status_of(fs.lookup(fs.root, "out/x")) is Status.CROSS_DEVICE
            assert await status_of(fs.lookup(fs.root, "abs/passwd")) is Status.CROSS_DEVICE
            assert await status_of(fs.lookup(fs.root, "loop/x")) is Status.LOOP
            assert await status_of(fs.open(fs.root, "last", READ | OpenFlags.NOFOLLOW)) is Status.LOOP
            assert await status_of(fs.open(fs.root, "a", READ)) is Status.IS_DIR

    run(main())


def test_a_path_longer_than_a_compound(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            path = "/".join(["d"] * 300)
            (nfs.rig.tree / path).mkdir(parents=True)
            (nfs.rig.tree / path / "f").write_bytes(b"deep")
            file, _, _ = await nfs.fs.open(nfs.fs.root, path + "/f", READ)
            assert bytes(await file.read(0, 10)) == b"deep"
            await nfs.fs.unlink(nfs.fs.root, path + "/f")

    run(main())


def test_listings(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            names = {f"entry-{number}" for number in range(3000)}
            for name in names:
                (nfs.rig.tree / name).touch()
            for limit in (7, 1000, 100_000):
                found: list[str] = []
                cookie, eof = 0, False
                while not eof:
                    page = await fs.readdir(fs.root, cookie, limit)
                    assert len(page.entries) <= limit
                    found += [entry.name for entry in page.entries]
                    eof = page.eof
                    cookie = page.entries[-1].cookie if page.entries else cookie
                    if len(found) > 50 and limit == 7:
                        break
                assert len(found) == len(set(found)) and (limit == 7 or set(found) == names)

    run(main())


def test_attributes(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            file, _, _ = await fs.open(fs.root, "a", CREATE | READ | WRITE)
            await file.write(0, b"0123456789")
            changed = await fs.setattr(file.node, SetAttr(size=4, mode=0o4711, mtime_ns=10**18 + 5))
            assert (changed.size, changed.mode, changed.mtime_ns) == (4, 0o4711, 10**18 + 5)
            changed = await file.setattr(SetAttr(size=6))
            assert changed.size == 6 and bytes(await file.read(0, 10)) == b"0123\0\0"
            assert await fs.setattr(file.node, SetAttr()) == await file.getattr()
            assert await status_of(fs.setattr(file.node, SetAttr(size=-1))) is Status.INVALID
            wanted = Access.READ | Access.WRITE
            assert await fs.access(file.node, wanted) == wanted
            figures = await fs.statfs()
            assert figures.blocks >= figures.blocks_free > 0 and figures.name_max == 255
            d, _ = await fs.mkdir(fs.root, "d")
            assert (await fs.parent(d))[0] is fs.root
            assert await status_of(fs.parent(fs.root)) is Status.NOT_FOUND

    run(main())


def test_unlinked_files_stay_usable(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            file, _, _ = await fs.open(fs.root, "a", CREATE | READ | WRITE)
            await file.write(0, b"still")
            await fs.unlink(fs.root, "a")
            await file.write(5, b" here")
            assert bytes(await file.read(0, 100)) == b"still here"
            assert (await file.getattr()).size == 10
            assert (await fs.getattr(file.node)).nlink == 0
            await file.fsync()
            assert list(nfs.rig.tree.iterdir()) == []
            assert (await file.setattr(SetAttr(mode=0o600))).mode == 0o600
            assert (await file.setattr(SetAttr(size=3))).size == 3
            await file.close()
            await asyncio.sleep(1)
            assert await status_of(fs.getattr(file.node)) is Status.STALE

    run(main())


def test_locks(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs, other = nfs.fs, nfs.another()
            file, _, _ = await fs.open(fs.root, "a", CREATE | READ | WRITE)
            theirs, _, _ = await other.open(other.root, "a", READ | WRITE)
            await file.lock(0, 10, LockKind.EXCLUSIVE, owner=1)
            await file.lock(0, 10, LockKind.EXCLUSIVE, owner=1)
            assert await status_of(file.lock(5, 10, LockKind.SHARED, owner=2)) is Status.LOCKED
            assert await status_of(theirs.lock(5, 0, LockKind.SHARED, owner=1)) is Status.LOCKED
            await theirs.lock(10, 0, LockKind.SHARED, owner=1)
            waiting = asyncio.create_task(theirs.lock(0, 5, LockKind.EXCLUSIVE, owner=1, wait=True))
            await asyncio.sleep(5)
            assert not waiting.done()
            await file.lock(0, 5, LockKind.UNLOCK, owner=1)
            await waiting
            assert await status_of(file.lock(0, 1, LockKind.SHARED, owner=1)) is Status.LOCKED
            await theirs.close()
            await file.lock(0, 0, LockKind.EXCLUSIVE, owner=1)
            await file.close()

    run(main())


def test_a_cancelled_wait_for_a_lock_leaves_none_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, delay=0.1) as nfs:
            fs, other = nfs.fs, nfs.another()
            file, _, _ = await fs.open(fs.root, "a", CREATE | READ | WRITE)
            theirs, _, _ = await other.open(other.root, "a", READ | WRITE)
            for pause in (0.0, 0.05, 0.15, 0.25):
                task = asyncio.create_task(file.lock(0, 0, LockKind.EXCLUSIVE, owner=1))
                await asyncio.sleep(pause)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                if not task.cancelled():
                    await file.lock(0, 0, LockKind.UNLOCK, owner=1)
                await asyncio.sleep(2)
                await theirs.lock(0, 0, LockKind.EXCLUSIVE, owner=1)
                await theirs.lock(0, 0, LockKind.UNLOCK, owner=1)

    run(main())


def test_a_cancelled_open_leaves_nothing_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, delay=0.1, fs_options={"delegations": False}) as nfs:
            fs = nfs.fs
            await fs.connect()
            for pause in (0.05, 0.15, 0.25):
                task = asyncio.create_task(fs.open(fs.root, "a", CREATE | READ))
                await asyncio.sleep(pause)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                if not task.cancelled():
                    await task.result()[0].close()
                await asyncio.sleep(3)
                assert nfs.rig.server is not None and len(nfs.rig.server.files) == 0

    run(main())


def test_ranges(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            data = os.urandom(100_000)
            (nfs.rig.tree / "a").write_bytes(data)
            one, _, _ = await fs.open(fs.root, "a", READ)
            two, _, _ = await fs.open(fs.root, "b", CREATE | READ | WRITE)
            assert await fs.copy_range(one, 1000, two, 5, 1 << 40) == 99_000
            assert bytes(await two.read(5, 100_000)) == data[1000:]
            assert await fs.copy_range(one, 100_000, two, 0, 10) == 0
            await two.allocate(0, 1 << 20)
            assert (await two.getattr()).size == 1 << 20
            await two.allocate(0, 1 << 19, punch_hole=True)
            assert bytes(await two.read(0, 10)) == bytes(10)
            assert await two.seek_data(0, hole=True) == 0
            assert await status_of(two.seek_data(1 << 21)) is Status.NO_DATA
            await two.fsync()

    run(main())


def test_extended_attributes(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            file, _, _ = await fs.open(fs.root, "a", CREATE | READ)
            try:
                os.setxattr(nfs.rig.tree / "a", "user.probe", b"")
                os.removexattr(nfs.rig.tree / "a", "user.probe")
            except OSError:
                pytest.skip("no extended attributes on this disk")
            await fs.setxattr(file.node, "user.colour", b"blue")
            assert await fs.getxattr(file.node, "user.colour") == b"blue"
            assert await status_of(fs.setxattr(file.node, "user.colour", b"", create=True)) is Status.EXISTS
            await fs.setxattr(file.node, "user.colour", b"red", replace=True)
            assert await fs.listxattr(file.node) == ["user.colour"]
            await fs.removexattr(file.node, "user.colour")
            assert await fs.listxattr(file.node) == []
            assert await status_of(fs.getxattr(file.node, "user.colour")) is Status.NO_DATA
            assert await status_of(fs.setxattr(file.node, "trusted.x", b"")) is Status.NOT_SUPPORTED

    run(main())


def test_what_nobody_committed_is_committed_soon(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            file, _, _ = await nfs.fs.open(nfs.fs.root, "a", CREATE | WRITE)
            await file.write(0, bytes(100_000))
            assert nfs.fs.unstable.total == 100_000
            await file.write(100_000, bytes(100_000), stable=True)
            assert nfs.fs.unstable.total == 100_000
            await file.close()
            await asyncio.sleep(30)
            assert nfs.fs.unstable.total == 0

    run(main())


def test_what_is_kept_for_a_restart_is_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, delay=0.001) as nfs:
            file, _, _ = await nfs.fs.open(nfs.fs.root, "a", CREATE | WRITE)
            most = 0
            for turn in range(40):
                await file.write(turn << 22, bytes(1 << 22))
                most = max(most, nfs.fs.unstable.total)
            assert (64 << 20) <= most <= (136 << 20)
            await file.fsync()
            assert nfs.fs.unstable.total == 0

    run(main())


def test_calls_in_another_name(tmp_path: Path) -> None:
    async def main() -> None:
        from quicfs.vfs.api import Caller

        if os.geteuid() != 0:
            pytest.skip("only root acts for others")
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            nfs.rig.tree.chmod(0o777)
            alice = fs.as_caller(Caller(4242, 4243, (4244,)))
            _, attr = await alice.mkdir(alice.root, "d", 0o700)
            assert (attr.uid, attr.gid) == (4242, 4243)
            bob = fs.as_caller(Caller(5555, 5555))
            node, _ = await bob.lookup(bob.root, "d")
            assert await status_of(bob.mkdir(node, "x")) is Status.ACCESS
            assert await bob.access(node, Access.READ) == Access.NONE

    run(main())


def test_what_is_believed_of_the_way_may_be_wrong(tmp_path: Path) -> None:
    """Directories on the way that somebody has moved, removed and replaced behind our back."""

    async def main() -> None:
        async with Mounted(tmp_path, fs_options={"attr_timeout": 60.0}) as nfs:
            fs, tree = nfs.fs, nfs.rig.tree
            (tree / "a" / "b").mkdir(parents=True)
            (tree / "a" / "b" / "f").write_bytes(b"1")
            await fs.lookup(fs.root, "a/b/f")
            (tree / "a" / "b" / "f").unlink()
            (tree / "a" / "b").rmdir()
            (tree / "a" / "b").mkdir()
            (tree / "a" / "b" / "g").write_bytes(b"22")
            file, attr, _ = await fs.open(fs.root, "a/b/g", READ)
            assert attr.size == 2
            await file.close()
            (tree / "a" / "b" / "g").unlink()
            (tree / "a" / "b").rmdir()
            (tree / "a" / "b").write_bytes(b"a file")
            assert await status_of(fs.open(fs.root, "a/b/x", READ)) is Status.NOT_DIR
            assert await status_of(fs.mkdir(fs.root, "a/b/h")) is Status.NOT_DIR

    run(main())


def test_known_ways_are_not_walked_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            d, _ = await fs.mkdir(fs.root, "d")
            await fs.mkdir(fs.root, "d/e")
            seen: list[list[str]] = []
            session = fs.uplink.current
            assert session is not None
            call = session.call

            async def noting(operations: Any, **options: Any) -> Any:
                seen.append([op.name for op, _ in operations])
                return await call(operations, **options)

            session.call = noting  # type: ignore[method-assign]
            file, _, _ = await fs.open(fs.root, "d/e/f", CREATE | WRITE)
            assert seen[-1][:2] == ["PUTFH", "OPEN"] or seen[-1][:3] == ["PUTFH", "GETATTR", "OPEN"]
            await file.close()
            await fs.readdir(d)
            await fs.unlink(fs.root, "d/e/f")
            await fs.rmdir(fs.root, "d/e")
            removals = [operations for operations in seen if "REMOVE" in operations]
            assert removals == [["PUTFH", "REMOVE"]] * 2
            assert await status_of(fs.unlink(fs.root, "d")) is Status.IS_DIR

    run(main())

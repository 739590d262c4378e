"""Small writes and times that wait under a write delegation: what they save, and that nobody can tell."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest

from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.vfs.api import NOW, LockKind, SetAttr
from quicfs.vfs.status import FsError, Status
from tests.sim.nfs_mount import CREATE, EXCLUSIVE, READ, WRITE, Mounted
from tests.sim.virtual_loop import run


def note_calls(fs: NfsFileSystem) -> list[list[str]]:
    """The operations of each COMPOUND from now on."""
    seen: list[list[str]] = []
    session = fs.uplink.current
    assert session is not None
    call = session.call

    async def noting(operations: Any, **options: Any) -> Any:
        seen.append([op.name for op, _ in operations])
        return await call(operations, **options)

    session.call = noting  # type: ignore[method-assign]
    return seen


async def settle() -> None:
    await asyncio.sleep(30)


def test_a_small_file_costs_two_calls(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            await fs.mkdir(fs.root, "d")
            seen = note_calls(fs)
            file, _, _ = await fs.open(fs.root, "d/a", CREATE | WRITE)
            await file.write(0, b"hello ")
            await file.write(6, b"world")
            assert (await fs.getattr(file.node)).size == 11
            await file.close()
            await asyncio.sleep(0.01)
            assert [call for call in seen if "COMMIT" not in call] == [
                ["PUTFH", "OPEN", "GETFH", "GETATTR"],
                ["PUTFH", "WRITE", "GETATTR", "CLOSE"],
            ]
            assert (nfs.rig.tree / "d" / "a").read_bytes() == b"hello world"
            await settle()
            assert fs.unstable.total == 0

    run(main())


def test_a_file_from_an_archive_costs_two_calls(tmp_path: Path) -> None:
    """As GNU tar does it: made exclusively, written, dated, given to its owner, its mode set, closed."""

    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            await fs.mkdir(fs.root, "d")
            seen = note_calls(fs)
            file, attr, _ = await fs.open(fs.root, "d/a", CREATE | EXCLUSIVE | WRITE, 0o600)
            assert abs(attr.mtime_ns - (nfs.rig.tree / "d/a").stat().st_ctime_ns) < 10**10
            await file.write(0, b"content")
            assert (await file.setattr(SetAttr(mtime_ns=10**18 + 7))).mtime_ns == 10**18 + 7
            assert (await file.setattr(SetAttr(uid=attr.uid, gid=attr.gid))).uid == attr.uid
            assert (await file.setattr(SetAttr(mode=0o644))).mode == 0o644
            await file.close()
            await asyncio.sleep(0.01)
            assert len(seen) == 2, seen
            found = (nfs.rig.tree / "d/a").stat()
            assert (found.st_mtime_ns, found.st_mode & 0o7777, found.st_size) == (10**18 + 7, 0o644, 7)
            assert abs(found.st_atime_ns - found.st_ctime_ns) < 10**10
            assert (await fs.lookup(fs.root, "d/a"))[1].mtime_ns == 10**18 + 7

    run(main())


def test_a_write_dates_the_file_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            file, _, _ = await fs.open(fs.root, "a", CREATE | WRITE)
            await file.setattr(SetAttr(atime_ns=10**18, mtime_ns=10**18))
            await file.write(0, b"x")
            assert (await file.getattr()).mtime_ns > 10**18 + 10**17
            await file.close()
            await settle()
            found = (nfs.rig.tree / "a").stat()
            assert found.st_mtime_ns > 10**18 + 10**17 and found.st_atime_ns == 10**18
            file, _, _ = await fs.open(fs.root, "a", WRITE)
            await file.setattr(SetAttr(atime_ns=5, mtime_ns=NOW))
            await file.close()
            await settle()
            assert (nfs.rig.tree / "a").stat().st_atime_ns == 5

    run(main())


def test_nothing_waits_for_long(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            file, _, _ = await nfs.fs.open(nfs.fs.root, "a", CREATE | WRITE)
            await file.write(0, b"now")
            assert (nfs.rig.tree / "a").read_bytes() == b""
            await asyncio.sleep(0.2)
            assert (nfs.rig.tree / "a").read_bytes() == b"now"

    run(main())


@pytest.mark.parametrize("delay", [0.0, 0.01])
def test_another_client_sees_what_was_written_before(tmp_path: Path, delay: float) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, delay=delay) as nfs:
            fs, other = nfs.fs, nfs.another()
            await other.getattr(other.root)
            for turn in range(10):
                file, _, _ = await fs.open(fs.root, f"a{turn}", CREATE | READ | WRITE)
                await file.write(0, b"first")
                await file.write(5, b" second")
                if turn % 2:
                    await file.close()
                theirs, attr, _ = await other.open(other.root, f"a{turn}", READ)
                assert attr.size == 12
                assert bytes(await theirs.read(0, 100)) == b"first second"
                if not turn % 2:
                    await file.write(12, b" third")
                    assert bytes(await file.read(0, 100)) == b"first second third"
                    await file.close()
                    once_more, _, _ = await other.open(other.root, f"a{turn}", READ)
                    assert bytes(await once_more.read(12, 100)) == b" third"
                    await once_more.close()
                await theirs.close()

    run(main())


def test_looks_of_our_own_see_what_waits(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, delay=0.01) as nfs:
            fs = nfs.fs
            for turn in range(8):
                name = f"a{turn}"
                file, _, _ = await fs.open(fs.root, name, CREATE | EXCLUSIVE | WRITE)
                await file.write(0, b"12345")
                if turn & 1:
                    await file.close()
                if turn & 2:
                    assert (await fs.lookup(fs.root, name))[1].size == 5
                if turn & 4:
                    page = await fs.readdir(fs.root)
                    assert {e.name: e.attr.size for e in page.entries}[name] == 5
                again, attr, _ = await fs.open(fs.root, name, READ)
                assert attr.size == 5 and bytes(await again.read(0, 9)) == b"12345"
                await fs.rename(fs.root, name, fs.root, name + ".new")
                assert (await fs.lookup(fs.root, name + ".new"))[1].size == 5
                node = file.node
                assert (await fs.link(node, fs.root, name)).size == 5
                await again.close()
                await file.close()
                await fs.unlink(fs.root, name)
                await fs.unlink(fs.root, name + ".new")
            assert list(nfs.rig.tree.iterdir()) == []

    run(main())


def test_fsync_and_stable_writes(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            file, _, _ = await fs.open(fs.root, "a", CREATE | WRITE)
            await file.write(0, b"waits")
            await file.write(5, b" stable", stable=True)
            assert (nfs.rig.tree / "a").read_bytes() == b"waits stable"
            await file.write(12, b" more")
            await file.fsync()
            assert (nfs.rig.tree / "a").read_bytes() == b"waits stable more"
            assert fs.unstable.total == 0
            await file.write(0, b"W")
            await file.lock(0, 1, LockKind.EXCLUSIVE, owner=1)
            assert (nfs.rig.tree / "a").read_bytes().startswith(b"W")
            await file.close()

    run(main())


def test_an_error_is_told_by_fsync_and_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        from quicfs.vfs.local_file import LocalFile

        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            files = [(await fs.open(fs.root, name, CREATE | WRITE))[0] for name in "abc"]
            for file in files:
                await file.write(0, b"data")

            async def full(self: Any, offset: int, data: Any, *, stable: bool = False) -> int:
                raise FsError(Status.NO_SPACE, "full")

            monkeypatch.setattr(LocalFile, "write", full)
            with pytest.raises(FsError) as caught:
                await files[0].fsync()
            assert caught.value.status is Status.NO_SPACE
            await files[0].close()
            with pytest.raises(FsError) as caught:
                await files[1].flush()
            assert caught.value.status is Status.NO_SPACE
            await files[1].close()
            with pytest.raises(FsError) as caught:
                await files[2].close()
            assert caught.value.status is Status.NO_SPACE
            assert (await fs.lookup(fs.root, "a"))[1].size == 0

    run(main())


@pytest.mark.parametrize("closed", [False, True])
def test_what_waits_survives_a_restart_of_the_server(tmp_path: Path, closed: bool) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, delay=0.01) as nfs:
            fs = nfs.fs
            for pause in (0.0, 0.005, 0.015, 0.03, 0.06):
                name = f"f{pause}"
                file, _, _ = await fs.open(fs.root, name, CREATE | WRITE)
                await file.write(0, b"content")
                if closed:
                    await file.close()
                await asyncio.sleep(pause)
                await nfs.restart()
                await fs.getattr(fs.root)
                await settle()
                assert (nfs.rig.tree / name).read_bytes() == b"content"
                await file.close()

    run(main())


@pytest.mark.parametrize("seed", range(6))
def test_random_work_of_two_clients(tmp_path: Path, seed: int) -> None:
    """Each works on all files, one client at a time on a file: it finds what the last one has left."""

    async def main() -> None:
        dice = random.Random(seed)
        async with Mounted(tmp_path, delay=0.002) as nfs:
            clients = [nfs.fs, nfs.another()]
            contents: dict[str, bytearray] = {}
            turns = {name: asyncio.Lock() for name in "abcd"}

            async def work(fs: NfsFileSystem) -> None:
                for _ in range(60):
                    name = dice.choice("abcd")
                    async with turns[name]:
                        await use(fs, name)

            async def use(fs: NfsFileSystem, name: str) -> None:
                content = contents.get(name)
                file, attr, _ = await fs.open(fs.root, name, CREATE | READ | WRITE)
                if content is None:
                    content = contents[name] = bytearray()
                assert attr.size == len(content)
                for _ in range(dice.randrange(4)):
                    match dice.randrange(6):
                        case 0:
                            assert bytes(await file.read(0, 1 << 20)) == content
                        case 1:
                            size = dice.randrange(2000)
                            await file.setattr(SetAttr(size=size))
                            content[size:] = b""
                            content.extend(bytes(size - len(content)))
                        case 2:
                            await file.setattr(SetAttr(mtime_ns=dice.randrange(10**18)))
                        case _:
                            at, piece = dice.randrange(2000), dice.randbytes(dice.choice((1, 100, 70_000)))
                            await file.write(at, piece)
                            content.extend(bytes(max(0, at - len(content))))
                            content[at : at + len(piece)] = piece
                    assert (await file.getattr()).size == len(content)
                if dice.random() < 0.1:
                    await fs.unlink(fs.root, name)
                    del contents[name]
                await file.close()

            await asyncio.gather(*(work(fs) for fs in clients for _ in range(2)))
            await settle()
            assert {p.name: p.read_bytes() for p in nfs.rig.tree.iterdir()} == contents

    run(main())


def test_files_of_another_are_dated_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        from quicfs.vfs.api import Caller

        if os.geteuid() != 0:
            pytest.skip("only root acts for others")
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            (nfs.rig.tree / "a").touch(0o666)
            (nfs.rig.tree / "a").chmod(0o666)
            bob = fs.as_caller(Caller(5555, 5555))
            file, _, _ = await bob.open(bob.root, "a", READ | WRITE)
            with pytest.raises(FsError) as caught:
                await file.setattr(SetAttr(mtime_ns=5))
            assert caught.value.status in (Status.NOT_PERMITTED, Status.ACCESS)
            await file.close()

    run(main())


def test_rights_that_are_taken_away_are_gone_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            file, _, _ = await fs.open(fs.root, "a", CREATE | WRITE, 0o644)
            await file.write(0, b"secret")
            assert (await file.setattr(SetAttr(mode=0o666))).mode == 0o666
            assert (nfs.rig.tree / "a").stat().st_mode & 0o777 == 0o644
            assert (await file.setattr(SetAttr(mode=0o600))).mode == 0o600
            assert (nfs.rig.tree / "a").stat().st_mode & 0o777 == 0o600
            assert (nfs.rig.tree / "a").read_bytes() == b"secret"
            await file.setattr(SetAttr(mode=0o4755))
            assert (nfs.rig.tree / "a").stat().st_mode & 0o7777 == 0o4755
            await file.close()

    run(main())


def test_small_reads_bring_what_is_around_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, delay=0.001) as nfs:
            fs = nfs.fs
            data = os.urandom(1 << 20)
            (nfs.rig.tree / "a").write_bytes(data)
            one, _, _ = await fs.open(fs.root, "a", READ)
            two, _, _ = await fs.open(fs.root, "a", READ)
            seen = note_calls(fs)
            dice = random.Random(1)
            for _ in range(2000):
                at, size = dice.randrange(1 << 20), dice.choice((1, 100, 4096))
                reads = await asyncio.gather(one.read(at, size), two.read(at + 10, size))
                assert [bytes(read) for read in reads] == [data[at:][:size], data[at + 10 :][:size]]
            assert sum("READ" in call for call in seen) < 200
            assert bytes(await one.read((1 << 20) - 5, 100)) == data[-5:]
            assert bytes(await one.read(1 << 20, 100)) == b""

    run(main())


def test_a_reader_that_goes_away_leaves_the_others_theirs(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, delay=0.1) as nfs:
            fs = nfs.fs
            (nfs.rig.tree / "a").write_bytes(bytes(range(256)) * 4096)
            one, _, _ = await fs.open(fs.root, "a", READ)
            two, _, _ = await fs.open(fs.root, "a", READ)
            first = asyncio.create_task(one.read(0, 10))
            second = asyncio.create_task(two.read(20, 10))
            await asyncio.sleep(0.05)
            first.cancel()
            await one.close()
            assert bytes(await second) == bytes(range(20, 30))

    run(main())


def test_random_writes_go_out_together(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, delay=0.001) as nfs:
            fs = nfs.fs
            file, _, _ = await fs.open(fs.root, "a", CREATE | READ | WRITE)
            seen = note_calls(fs)
            dice = random.Random(2)
            expected = bytearray(1 << 20)
            for turn in range(1000):
                at = dice.randrange((1 << 20) - 4096)
                expected[at : at + 4096] = piece = bytes([turn % 256]) * 4096
                await file.write(at, piece)
            await file.fsync()
            length = (await file.getattr()).size
            assert (nfs.rig.tree / "a").read_bytes() == expected[:length]
            assert sum("WRITE" in call for call in seen) < 60

    run(main())

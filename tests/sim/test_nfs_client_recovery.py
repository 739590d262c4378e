"""The NFS client when connections break, servers restart and leases run out, in virtual time."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from quicfs.nfs.client.errors import ConnectError, ConnectProblem
from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.nfs.rpc.identity import Squash
from quicfs.nfs.server.exports import Export
from quicfs.vfs.api import LockKind, Node
from quicfs.vfs.local import LocalTree
from quicfs.vfs.status import FsError, Status
from tests.sim.nfs_mount import CREATE, EXCLUSIVE, READ, WRITE, Mounted
from tests.sim.virtual_loop import run


async def status_of(work: object) -> Status:
    with pytest.raises(FsError) as caught:
        await work  # type: ignore[misc]
    return caught.value.status


def now() -> float:
    return asyncio.get_running_loop().time()


# --- streams


def test_several_streams_of_one_connection_carry_one_session(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, delay=0.01) as nfs:
            await nfs.fs.connect()
            await asyncio.gather(*(nfs.fs.getattr(nfs.fs.root) for _ in range(100)))
            assert len(nfs.ways) == 1
            assert len(nfs.way.clients) == 4
            session = nfs.fs.uplink.current
            assert session is not None and session.channel is not None
            assert nfs.rig.server is not None
            assert len(list(nfs.rig.server.clients)) == 1

    run(main())


@pytest.mark.parametrize("streams", [1, 2])
def test_a_server_that_allows_fewer_streams(tmp_path: Path, streams: int) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, delay=0.01, streams=streams) as nfs:
            await asyncio.gather(*(nfs.fs.getattr(nfs.fs.root) for _ in range(50)))
            assert len(nfs.way.clients) == streams
            nfs.streams = 3
            await asyncio.sleep(20)
            await nfs.fs.getattr(nfs.fs.root)
            assert len(nfs.way.clients) == 3

    run(main())


def test_a_lost_stream_loses_nothing(tmp_path: Path) -> None:
    """Draft 06 §3.3: outstanding calls of the stream are lost; the session sends them again on another."""

    async def main() -> None:
        async with Mounted(tmp_path, delay=0.05) as nfs:
            fs = nfs.fs
            await fs.connect()
            await asyncio.sleep(1)
            work = [asyncio.create_task(fs.mkdir(fs.root, f"d{n}")) for n in range(20)]
            await asyncio.sleep(0.07)
            for pipe in list(nfs.way.link.pipes)[:3]:
                pipe.cut()
            await asyncio.gather(*work)
            assert len(list(nfs.rig.tree.iterdir())) == 20
            assert len(nfs.ways) == 1
            await asyncio.sleep(1)
            assert sum(client.alive for client in nfs.way.clients) == 4

    run(main())


# --- connections


def test_each_operation_is_done_once_over_connections_that_break(tmp_path: Path) -> None:
    """Exclusive create, link, rename, remove, mkdir: each happens once and reports its own result."""

    async def main() -> None:
        dice = random.Random(1)
        async with Mounted(tmp_path, delay=0.02) as nfs:
            fs = nfs.fs
            done = False

            async def breaker() -> None:
                while not done:
                    await asyncio.sleep(dice.uniform(0.01, 0.4))
                    if dice.random() < 0.5:
                        nfs.cut()
                    elif nfs.ways and nfs.way.link.pipes:
                        dice.choice(nfs.way.link.pipes).cut()

            async def worker(me: int) -> None:
                for turn in range(40):
                    name = f"{me}-{turn}"
                    file, _, created = await fs.open(fs.root, name, CREATE | EXCLUSIVE | WRITE)
                    assert created
                    await file.close()
                    node, _ = await fs.lookup(fs.root, name)
                    assert (await fs.link(node, fs.root, name + ".link")).nlink == 2
                    await fs.rename(fs.root, name, fs.root, name + ".new", replace=False)
                    await fs.unlink(fs.root, name + ".link")
                    await fs.mkdir(fs.root, name)
                    assert await status_of(fs.mkdir(fs.root, name)) is Status.EXISTS
                    await fs.rmdir(fs.root, name)

            trouble = asyncio.create_task(breaker())
            await asyncio.gather(*(worker(me) for me in range(8)))
            done = True
            await trouble
            assert len(nfs.ways) > 20
            names = {path.name for path in nfs.rig.tree.iterdir()}
            assert names == {f"{me}-{turn}.new" for me in range(8) for turn in range(40)}

    run(main())


def test_opens_and_locks_survive_a_lost_connection(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs, other = nfs.fs, nfs.another()
            file, _, _ = await fs.open(fs.root, "a", CREATE | READ | WRITE)
            await file.lock(0, 10, LockKind.EXCLUSIVE, owner=7)
            await file.write(0, b"before")
            nfs.cut()
            await file.write(6, b" after")
            assert bytes(await file.read(0, 100)) == b"before after"
            theirs, _, _ = await other.open(other.root, "a", READ | WRITE)
            assert await status_of(theirs.lock(0, 1, LockKind.SHARED, owner=7)) is Status.LOCKED
            await file.close()
            await theirs.lock(0, 1, LockKind.SHARED, owner=7)

    run(main())


def test_a_call_fails_in_time_while_the_server_is_away(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            await fs.connect()
            nfs.reachable = False
            nfs.cut()
            began = now()
            assert await status_of(fs.getattr(fs.root)) is Status.DISCONNECTED
            assert 9 <= now() - began <= 10.5
            began = now()
            results = await asyncio.gather(*(fs.getattr(fs.root) for _ in range(20)), return_exceptions=True)
            assert all(isinstance(result, FsError) for result in results)
            assert now() - began <= 3
            nfs.reachable = True
            await asyncio.sleep(1)
            await fs.getattr(fs.root)

    run(main())


def test_calls_wait_for_a_server_that_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            await fs.connect()
            nfs.reachable = False
            nfs.cut()
            task = asyncio.create_task(fs.mkdir(fs.root, "d"))
            await asyncio.sleep(6)
            assert not task.done()
            nfs.reachable = True
            await task

    run(main())


def test_a_silent_connection_is_given_up_and_calls_go_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            await fs.connect()
            await asyncio.sleep(1)
            for pipe in nfs.way.link.pipes:  # what is sent arrives nowhere
                pipe.delay = 10_000.0
            began = now()
            await fs.mkdir(fs.root, "d")
            assert now() - began < 10
            assert len(nfs.ways) == 2

    run(main())


# --- the server restarts


def test_opens_and_locks_are_reclaimed_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs, other = nfs.fs, nfs.another()
            files = []
            for number in range(40):
                file, _, _ = await fs.open(fs.root, f"f{number}", CREATE | READ | WRITE)
                await file.write(0, b"data")
                await file.lock(0, 10, LockKind.EXCLUSIVE, owner=1)
                await file.lock(20, 0, LockKind.SHARED, owner=2)
                files.append(file)
            theirs, _, _ = await other.open(other.root, "f0", READ | WRITE)
            await nfs.restart()
            stealing = asyncio.create_task(status_of(theirs.lock(5, 1, LockKind.SHARED, owner=1)))
            await files[0].write(4, b" more")
            assert await stealing is Status.LOCKED
            for file in files[1:]:
                assert bytes(await file.read(0, 10)) == b"data"
                assert not file.locks.lost
            assert await status_of(theirs.lock(100, 1, LockKind.EXCLUSIVE, owner=1)) is Status.LOCKED
            for file in files:
                await file.close()
            await theirs.lock(0, 0, LockKind.EXCLUSIVE, owner=1)

    run(main())


def test_unstable_data_is_written_again_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            fs = nfs.fs
            file, _, _ = await fs.open(fs.root, "a", CREATE | READ | WRITE)
            closed, _, _ = await fs.open(fs.root, "b", CREATE | WRITE)
            data = bytearray(os.urandom(3_000_000))
            await file.write(0, bytes(data))
            await file.write(100, b"overwritten")
            data[100:111] = b"overwritten"
            await closed.write(0, b"closed already")
            await closed.close()
            await asyncio.sleep(0)
            await nfs.rig.kill()
            (nfs.rig.tree / "a").write_bytes(b"")  # the machine went down with it
            (nfs.rig.tree / "b").write_bytes(b"")
            await nfs.rig.restart()
            await file.fsync()
            assert (nfs.rig.tree / "a").read_bytes() == data
            await asyncio.sleep(30)
            assert (nfs.rig.tree / "b").read_bytes() == b"closed already"
            assert fs.unstable.total == 0

    run(main())


def test_writes_go_on_through_restarts(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, delay=0.01) as nfs:
            fs = nfs.fs
            file, _, _ = await fs.open(fs.root, "a", CREATE | READ | WRITE)
            expected = bytearray(200 * 5000)

            async def writer(me: int) -> None:
                for turn in range(50):
                    at = (turn * 4 + me) * 5000
                    expected[at : at + 5000] = piece = os.urandom(5000)
                    await file.write(at, piece)
                    if turn % 10 == 9:
                        await file.fsync()

            async def trouble() -> None:
                for _ in range(5):
                    await asyncio.sleep(0.2)
                    await nfs.restart()

            await asyncio.gather(trouble(), *(writer(me) for me in range(4)))
            await file.fsync()
            assert (nfs.rig.tree / "a").read_bytes() == expected
            assert bytes(await file.read(0, 2_000_000)) == expected

    run(main())


# --- leases


def test_an_idle_client_keeps_its_lease(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, lease=30.0) as nfs:
            fs, other = nfs.fs, nfs.another()
            file, _, _ = await fs.open(fs.root, "a", CREATE | READ | WRITE)
            await file.lock(0, 0, LockKind.EXCLUSIVE, owner=1)
            theirs, _, _ = await other.open(other.root, "a", READ | WRITE)
            await asyncio.sleep(300)
            assert await status_of(theirs.lock(0, 0, LockKind.SHARED, owner=1)) is Status.LOCKED
            await file.write(0, b"x")
            assert len(nfs.ways) == 2

    run(main())


def test_locks_lost_with_the_lease_are_an_error_for_their_owner(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path, lease=30.0) as nfs:
            fs = nfs.fs
            await fs.connect()
            ours = list(nfs.ways)
            other = nfs.another()
            file, _, _ = await fs.open(fs.root, "a", CREATE | READ | WRITE)
            plain, _, _ = await fs.open(fs.root, "a", READ)
            await file.write(0, b"data")
            await file.fsync()
            await file.lock(0, 0, LockKind.EXCLUSIVE, owner=1)
            theirs, _, _ = await other.open(other.root, "a", READ | WRITE)
            nfs.reachable = False
            for way in ours:
                way.link.cut()
            await asyncio.sleep(100)
            # Only now is the lease run out of any use to somebody.
            await theirs.lock(0, 0, LockKind.EXCLUSIVE, owner=1)
            nfs.reachable = True
            await asyncio.sleep(5)
            assert bytes(await plain.read(0, 10)) == b"data"
            assert await status_of(file.read(0, 10)) is Status.IO
            assert await status_of(file.lock(0, 0, LockKind.SHARED, owner=1)) is Status.IO
            await file.lock(0, 0, LockKind.UNLOCK, owner=1)
            assert bytes(await file.read(0, 10)) == b"data"
            assert await status_of(file.lock(0, 0, LockKind.SHARED, owner=1)) is Status.LOCKED

    run(main())


# --- how connecting fails


def test_sentences_for_what_is_wrong(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mounted(tmp_path) as nfs:
            nfs.reachable = False
            with pytest.raises(ConnectError, match="cannot be reached") as caught:
                await nfs.fs.connect()
            assert caught.value.problem is ConnectProblem.UNREACHABLE
            nfs.reachable = True
            await nfs.fs.connect()

            wrong = NfsFileSystem(nfs.fs.uplink._connect, "server", "/nothing", timeout=10.0)
            with pytest.raises(ConnectError, match="server exports no /nothing: ask") as caught:
                await wrong.connect()
            assert caught.value.problem is ConnectProblem.EXPORT
            assert await status_of(wrong.getattr(wrong.root)) is Status.NOT_FOUND
            await wrong.close()

    run(main())


# --- file handles that expire, and a server in grace


class Forgetful(LocalTree):
    """Without handles of its own: those of the server are good for one life of it."""

    async def handle(self, node: Node) -> bytes:
        raise FsError(Status.NOT_SUPPORTED, "persistent handles")


def test_handles_that_expire_are_found_again_by_name(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "tree").mkdir()
        tree = Forgetful(str(tmp_path / "tree"))
        exports = [Export("/export", tree, squash=Squash(no_root_squash=True))]
        async with Mounted(tmp_path, exports=exports) as nfs:
            fs = nfs.fs
            d, _ = await fs.mkdir(fs.root, "d")
            e, _ = await fs.mkdir(d, "e")
            file, _, _ = await fs.open(e, "f", CREATE | READ | WRITE)
            await file.write(0, b"content")
            await file.fsync()
            await nfs.restart()
            assert (await fs.getattr(e)).nlink >= 2
            assert bytes(await file.read(0, 100)) == b"content"
            await file.write(7, b" more")
            await fs.rename(e, "f", d, "g")
            await nfs.restart()
            assert [entry.name for entry in (await fs.readdir(d)).entries] == ["e", "g"]
            gone, _ = await fs.lookup(d, "e")
            await nfs.restart()
            (tmp_path / "tree" / "d" / "e").rmdir()
            await asyncio.sleep(1.1)
            assert await status_of(fs.getattr(gone)) is Status.STALE
            (tmp_path / "tree" / "d" / "e").mkdir()
            await file.close()
        await tree.close()

    run(main())


def test_grace_is_waited_for(tmp_path: Path) -> None:
    """A client that is gone for good holds everybody up for as long as the server gives it."""

    async def main() -> None:
        async with Mounted(tmp_path, lease=30.0) as nfs:
            other = nfs.another()
            gone, _, _ = await other.open(other.root, "a", CREATE | WRITE)
            await gone.lock(0, 0, LockKind.EXCLUSIVE, owner=1)
            nfs.mute(other)
            await nfs.fs.connect()
            await nfs.restart()
            began = now()
            file, _, _ = await nfs.fs.open(nfs.fs.root, "b", CREATE | WRITE)
            assert 10 < now() - began < 60
            await file.close()

    run(main())

"""Delegations of the NFS client, and what is remembered under them, in virtual time (RFC 8881 §10.2, §10.4)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from quicfs.nfs import limits
from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.nfs.client.nodes import node_of
from quicfs.nfs.v4.callback import CbRecallAnyArgs
from quicfs.nfs.v4.const import CbOp, Op, RecallAny, Stat
from quicfs.vfs.api import Caller, LockKind, SetAttr
from quicfs.vfs.status import Status
from tests.sim.nfs_caching import CREATE, READ, WRITE, files_of, get, on_site, put, status_of
from tests.sim.nfs_calls import Site


def test_a_delegated_file_is_opened_and_read_again_without_a_call(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        (site.rig.tree / "a").write_bytes(b"content")
        fs, calls = await site.client()
        assert await get(fs, "a") == b"content"
        await asyncio.sleep(5)
        calls.clear()
        for _ in range(3):
            assert await get(fs, "a") == b"content"
            await asyncio.sleep(2)
        file, attr, created = await fs.open(fs.root, "a", READ)
        assert (attr.size, created) == (7, False)
        assert await file.getattr() == await fs.getattr(file.node) == attr
        assert bytes(await file.read(3, 2)) == b"te" and bytes(await file.read(7, 5)) == b""
        await file.close()
        assert calls == []
        assert files_of(site) == 1

    on_site(tmp_path, body)


def test_a_writer_elsewhere_gets_the_delegation_back(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        (site.rig.tree / "a").write_bytes(b"old")
        one, _ = await site.client("one")
        two, _ = await site.client("two")
        assert await get(one, "a") == b"old"
        reader, _, _ = await one.open(one.root, "a", READ)  # local
        before = asyncio.get_running_loop().time()
        writer, _, _ = await two.open(two.root, "a", READ | WRITE)
        assert asyncio.get_running_loop().time() - before < 2
        await writer.write(0, b"newer")
        await writer.close()
        await asyncio.sleep(1.5)
        assert bytes(await reader.read(0, 100)) == b"newer"  # by way of the open that the server has now
        assert (await reader.getattr()).size == 5
        await reader.close()
        assert await get(one, "a") == b"newer"
        await asyncio.sleep(1)

    on_site(tmp_path, body)


def test_nothing_is_left_when_all_have_closed_and_gone(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        one, calls = await site.client("one")
        two, _ = await site.client("two")
        await put(one, "a", b"1")
        assert await get(two, "a") == b"1"
        await one.unlink(one.root, "a")
        await asyncio.sleep(2)
        assert files_of(site) == 0
        assert await status_of(two.open(two.root, "a", READ)) is Status.NOT_FOUND
        await put(one, "b", b"2")
        assert await get(one, "b") == b"2"
        await one.close()
        assert [Op.DELEGRETURN] in calls and files_of(site) == 0

    on_site(tmp_path, body)


def test_a_write_delegation(tmp_path: Path) -> None:
    """Others see size and data of a file that is delegated for writing."""

    async def body(site: Site) -> None:
        one, calls = await site.client("one")
        two, _ = await site.client("two")
        file, _, _ = await one.open(one.root, "a", CREATE | READ | WRITE)
        await file.write(0, b"0123456789")
        assert (await file.getattr()).size == 10
        await file.write(5, b"abc")
        assert bytes(await file.read(0, 100)) == b"01234abc89"
        calls.clear()
        for _ in range(3):
            again, _, _ = await one.open(one.root, "a", READ | WRITE)
            assert bytes(await again.read(0, 100)) == b"01234abc89"
            await again.close()
        assert not any(Op.OPEN in call for call in calls)
        await asyncio.sleep(2)
        _, attr = await two.lookup(two.root, "a")
        assert attr.size == 10
        other, _, _ = await two.open(two.root, "a", READ | WRITE)  # calls it back
        assert bytes(await other.read(0, 100)) == b"01234abc89"
        await other.write(0, b"X")
        await other.close()
        await asyncio.sleep(1.5)
        assert bytes(await file.read(0, 4)) == b"X123"
        await file.write(1, b"Y")
        await file.close()
        assert await get(two, "a") == b"XY234abc89"[:10]

    on_site(tmp_path, body)


def test_only_who_was_let_in_opens_locally(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        (site.rig.tree / "a").write_bytes(b"secret")
        (site.rig.tree / "a").chmod(0o600)
        site.rig.tree.chmod(0o755)
        fs, calls = await site.client()
        assert await get(fs, "a") == b"secret"
        user = fs.as_caller(Caller(1000, 1000))
        assert isinstance(user, NfsFileSystem)
        assert await status_of(get(user, "a")) is Status.ACCESS
        assert await get(fs, "a") == b"secret"
        # A delegation for reading is not enough to write.
        calls.clear()
        file, _, _ = await fs.open(fs.root, "a", WRITE)
        await file.close()
        assert any(Op.OPEN in call for call in calls)
        # Rights that changed are asked for again.
        node, _ = await fs.lookup(fs.root, "a")
        await fs.setattr(node, SetAttr(mode=0o644))
        assert await get(user, "a") == b"secret"
        await fs.setattr(node, SetAttr(mode=0o600))
        assert await status_of(get(user, "a")) is Status.ACCESS

    on_site(tmp_path, body)


def test_a_lock_needs_an_open_of_the_server(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        (site.rig.tree / "a").write_bytes(b"content")
        one, _ = await site.client("one")
        two, _ = await site.client("two")
        assert await get(one, "a") == b"content"
        mine, _, _ = await one.open(one.root, "a", READ)
        await mine.lock(0, 10, LockKind.SHARED, owner=1)
        theirs, _, _ = await two.open(two.root, "a", READ | WRITE)
        assert await status_of(theirs.lock(5, 1, LockKind.EXCLUSIVE, owner=1)) is Status.LOCKED
        assert bytes(await mine.read(0, 3)) == b"con"
        await mine.close()
        await theirs.lock(5, 1, LockKind.EXCLUSIVE, owner=1)
        await theirs.close()

    on_site(tmp_path, body)


def test_a_file_under_another_name_is_another_file(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        for name in "abc":
            (site.rig.tree / name).write_bytes(name.encode())
        (site.rig.tree / "d").mkdir()
        one, _ = await site.client("one")
        two, _ = await site.client("two")
        for name in "abc":
            assert await get(one, name) == name.encode()
        await one.rename(one.root, "a", one.root, "b")
        assert await get(one, "b") == b"a"
        assert await status_of(get(one, "a")) is Status.NOT_FOUND
        await two.rename(two.root, "b", two.root, "c")
        assert await get(one, "c") == b"a"
        assert await status_of(get(one, "b")) is Status.NOT_FOUND
        await one.rename(one.root, "c", one.root, "d/e")
        assert await get(one, "d/e") == b"a"
        assert await get(one, "d/e") == b"a"
        await one.rename(one.root, "d", one.root, "f")
        assert await status_of(get(one, "d/e")) is Status.NOT_FOUND
        assert await get(one, "f/e") == b"a"
        await two.unlink(two.root, "f/e")
        await put(two, "f/e", b"new")
        assert await get(one, "f/e") == b"new"

    on_site(tmp_path, body)


@pytest.mark.parametrize("what", ["removed", "renamed", "replaced"])
def test_two_ways_to_a_delegated_file(tmp_path: Path, what: str) -> None:
    """It is opened by a path from the root, and changed by its name in the directory."""

    async def body(site: Site) -> None:
        fs, _ = await site.client(attr_timeout=0.0)  # nothing but delegations is believed
        await fs.mkdir(fs.root, "d")
        directory, _ = await fs.lookup(fs.root, "d")
        await put(fs, "d/f", b"one")
        await put(fs, "d/g", b"two")
        assert await get(fs, "d/f") == b"one"
        if what == "removed":
            await fs.unlink(directory, "f")
        elif what == "renamed":
            await fs.rename(directory, "f", directory, "h")
            assert await get(fs, "d/h") == b"one"
        else:
            await fs.rename(directory, "g", directory, "f")
            assert await get(fs, "d/f") == b"two"
            return
        assert await status_of(get(fs, "d/f")) is Status.NOT_FOUND

    on_site(tmp_path, body)


def test_recall_any(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        for number in range(8):
            (site.rig.tree / str(number)).write_bytes(b"x")
        fs, calls = await site.client()
        for number in range(8):
            await get(fs, str(number))
        used, _, _ = await fs.open(fs.root, "0", READ)
        calls.clear()
        assert site.rig.server is not None
        (client,) = list(site.rig.server.clients)
        args = CbRecallAnyArgs(3, 1 << RecallAny.RDATA_DLG)
        results = await client.backchannel.call([(CbOp.RECALL_ANY, args)])
        assert results[-1].status is Stat.OK
        await asyncio.sleep(1)
        assert sum(call.count(Op.DELEGRETURN) for call in calls) == 5
        assert files_of(site) == 3
        assert bytes(await used.read(0, 10)) == b"x"
        await used.close()

    on_site(tmp_path, body)


def test_a_server_that_restarts_gets_local_opens_as_opens(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        (site.rig.tree / "a").write_bytes(b"content")
        fs, calls = await site.client()
        await get(fs, "a")
        file, _, _ = await fs.open(fs.root, "a", READ)
        assert not file.closed  # type: ignore[attr-defined]
        await site.rig.kill()
        (site.rig.tree / "a").write_bytes(b"changed")
        await site.rig.restart()
        calls.clear()
        await fs.statfs()
        assert bytes(await file.read(0, 10)) == b"changed"
        assert any(Op.OPEN in call for call in calls)
        await file.close()
        assert await get(fs, "a") == b"changed"

    on_site(tmp_path, body)


def test_a_cut_connection_keeps_delegations(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        (site.rig.tree / "a").write_bytes(b"content")
        one, calls = await site.client("one")
        two, _ = await site.client("two")
        await get(one, "a")
        file, _, _ = await one.open(one.root, "a", READ)
        site.links[0].cut()
        await asyncio.sleep(1)
        await one.statfs()
        calls.clear()
        assert await get(one, "a") == b"content"
        assert not any(Op.READ in call for call in calls)
        writer, _, _ = await two.open(two.root, "a", WRITE)
        await writer.write(0, b"CON")
        await writer.close()
        await asyncio.sleep(1.5)
        assert bytes(await file.read(0, 10)) == b"CONtent"
        await file.close()

    on_site(tmp_path, body)


@pytest.mark.parametrize("pause", [0.05, 0.15, 0.25])
def test_a_cancelled_open_gives_its_delegation_back(tmp_path: Path, pause: float) -> None:
    async def body(site: Site) -> None:
        (site.rig.tree / "a").write_bytes(b"content")
        fs, _ = await site.client(delay=0.1)
        task = asyncio.create_task(fs.open(fs.root, "a", READ))
        await asyncio.sleep(pause)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            await task.result()[0].close()
            await fs.close()
        await asyncio.sleep(3)
        assert files_of(site) == 0

    on_site(tmp_path, body)


def test_a_recall_that_overtakes_the_answer_to_open(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        (site.rig.tree / "a").write_bytes(b"content")
        one, _ = await site.client("one", delay=0.3)
        two, _ = await site.client("two")
        opening = asyncio.create_task(one.open(one.root, "a", READ))
        await asyncio.sleep(0.35)
        before = asyncio.get_running_loop().time()
        writer, _, _ = await two.open(two.root, "a", WRITE)
        assert asyncio.get_running_loop().time() - before < 5
        await writer.close()
        file = (await opening)[0]
        assert bytes(await file.read(0, 10)) == b"content"
        await file.close()

    on_site(tmp_path, body)


def test_a_delegation_is_worth_nothing_after_the_lease(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        (site.rig.tree / "a").write_bytes(b"content")
        one, calls = await site.client("one")
        two, _ = await site.client("two")
        await get(one, "a")
        file, _, _ = await one.open(one.root, "a", READ)
        for link in site.links[:1]:
            link.cut()
        site.reachable = False
        assert bytes(await file.read(0, 10)) == b"content"
        await asyncio.sleep(31)
        calls.clear()
        assert await status_of(file.read(0, 10)) is Status.DISCONNECTED
        writer, _, _ = await two.open(two.root, "a", WRITE)
        await writer.write(0, b"CON")
        await writer.close()
        site.reachable = True
        await asyncio.sleep(5)
        assert bytes(await file.read(0, 10)) == b"CONtent"
        await file.close()

    on_site(tmp_path, body, lease=30.0)


def test_no_more_delegations_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLIENT_DELEGATIONS", 4)

    async def body(site: Site) -> None:
        fs, calls = await site.client()
        for number in range(10):
            (site.rig.tree / str(number)).write_bytes(b"x")
        used, _, _ = await fs.open(fs.root, "0", READ)
        for number in range(10):
            await get(fs, str(number))
        await asyncio.sleep(1)
        assert len(fs.delegations) == 4 and files_of(site) <= 5
        calls.clear()
        assert await get(fs, "9") == await get(fs, "8") == b"x"
        assert calls == []
        await used.close()

    on_site(tmp_path, body)


def test_a_server_that_gives_fewer_delegations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it refuses makes room: nearly all files that are made later have one again."""
    monkeypatch.setattr(limits, "MAX_CLIENT_DELEGATIONS", 100)
    count = 400

    async def body(site: Site) -> None:
        fs, calls = await site.client()
        without = 0
        for number in range(count):
            file, _, _ = await fs.open(fs.root, str(number), CREATE | WRITE)
            without += fs.delegations.of(node_of(file.node)) is None
            await file.write(0, b"x")
            await file.close()
        assert 0 < without < count // 10
        returns = [call for call in calls if Op.DELEGRETURN in call]
        assert sum(call.count(Op.DELEGRETURN) for call in returns) > 5 * len(returns)  # many in one call

    on_site(tmp_path, body)


@pytest.mark.parametrize("fits", [False, True])
def test_a_file_that_is_read_here_and_there(
    tmp_path: Path, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it comes, in the background, when as long was waited for its parts; nothing else if it finds no room."""
    size, rng = 16 << 20, random.Random(5)
    monkeypatch.setattr(limits, "CLIENT_DATA", size if fits else size - 1)
    content = rng.randbytes(size)

    async def body(site: Site) -> None:
        (site.rig.tree / "a").write_bytes(content)
        fs, calls = await site.client(delay=0.002)
        file, _, _ = await fs.open(fs.root, "a", READ)

        async def read(count: int) -> None:
            for _ in range(count):
                offset = rng.randrange(size - 4096)
                assert bytes(await file.read(offset, 4096)) == content[offset : offset + 4096]

        calls.clear()
        await read(500)
        await asyncio.sleep(1)
        before = len(calls)
        await read(500)
        assert (before < 200 and len(calls) == before) if fits else (before == 500 and len(calls) == 1000)
        await file.close()

    on_site(tmp_path, body)

"""Caches and delegations of the NFS client: two clients on one server, in virtual time (RFC 8881 §10)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from quicfs.nfs import limits
from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.nfs.client.nodes import node_of
from quicfs.nfs.v4.callback import CbRecallAnyArgs
from quicfs.nfs.v4.const import CbOp, Op, RecallAny, Stat
from quicfs.vfs.api import Caller, LockKind, OpenFlags, SetAttr
from quicfs.vfs.status import FsError, Status
from tests.sim.nfs_calls import Site
from tests.sim.virtual_loop import run

READ, WRITE, CREATE, TRUNCATE = OpenFlags.READ, OpenFlags.WRITE, OpenFlags.CREATE, OpenFlags.TRUNCATE


def on_site(directory: Path, body: Callable[[Site], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with Site(directory, **options) as site:
            await body(site)

    run(main())


async def put(fs: NfsFileSystem, name: str, data: bytes) -> None:
    file, _, _ = await fs.open(fs.root, name, CREATE | TRUNCATE | WRITE)
    await file.write(0, data)
    await file.close()


async def get(fs: NfsFileSystem, name: str) -> bytes:
    file, _, _ = await fs.open(fs.root, name, READ)
    try:
        return bytes(await file.read(0, 1 << 20))
    finally:
        await file.close()


async def status_of(work: Awaitable[object]) -> Status:
    with pytest.raises(FsError) as caught:
        await work
    return caught.value.status


def files_of(site: Site) -> int:
    assert site.rig.server is not None
    return len(site.rig.server.files)


# --- under a delegation


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


# --- without delegations


def test_close_to_open(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        one, calls = await site.client("one", delegations=False)
        two, _ = await site.client("two", delegations=False)
        await put(two, "a", b"first")
        assert await get(one, "a") == b"first"
        await asyncio.sleep(5)
        calls.clear()
        assert await get(one, "a") == b"first"
        assert not any(Op.READ in call for call in calls)  # OPEN said that nothing has changed
        await put(two, "a", b"second")
        assert await get(one, "a") == b"second"
        await put(one, "a", b"mine")
        assert await get(one, "a") == b"mine" == await get(two, "a")

    on_site(tmp_path, body)


def test_data_are_not_believed_longer_than_attributes(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        one, _ = await site.client("one", delegations=False)
        two, _ = await site.client("two", delegations=False)
        await put(two, "a", b"first")
        file, _, _ = await one.open(one.root, "a", READ)
        assert bytes(await file.read(0, 10)) == b"first"
        await put(two, "a", b"second")
        await asyncio.sleep(1.1)
        assert bytes(await file.read(0, 10)) == b"second"
        await file.close()

    on_site(tmp_path, body)


def test_attributes_are_believed_for_a_while(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        fs, calls = await site.client(attr_timeout=3.0, delegations=False)
        await put(fs, "a", b"12345")
        node, attr = await fs.lookup(fs.root, "a")
        calls.clear()
        assert await fs.getattr(node) == attr
        assert calls == []
        (site.rig.tree / "a").write_bytes(b"123456789")
        await asyncio.sleep(3.1)
        assert (await fs.getattr(node)).size == 9
        assert calls.count([Op.GETATTR]) == 1
        # What we do ourselves is seen at once.
        assert (await fs.setattr(node, SetAttr(mode=0o600))).mode == 0o600
        assert (await fs.getattr(node)).mode == 0o600
        file, _, _ = await fs.open(fs.root, "a", WRITE)
        await file.write(9, b"0")
        assert (await fs.getattr(node)).size == 10
        await fs.link(node, fs.root, "b")
        assert (await fs.getattr(node)).nlink == 2
        await fs.unlink(fs.root, "b")
        assert (await fs.getattr(node)).nlink == 1
        await file.close()

    on_site(tmp_path, body)


def test_no_attribute_is_believed_without_a_look_if_that_is_wanted(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        fs, _ = await site.client(attr_timeout=0.0, delegations=False)
        await put(fs, "a", b"1")
        node, _ = await fs.lookup(fs.root, "a")
        for size in range(2, 6):
            (site.rig.tree / "a").write_bytes(b"x" * size)
            assert (await fs.getattr(node)).size == size
            assert len(await get(fs, "a")) == size

    on_site(tmp_path, body)


def test_names(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        one, calls = await site.client("one")
        two, _ = await site.client("two")
        assert await status_of(one.lookup(one.root, "a")) is Status.NOT_FOUND
        calls.clear()
        assert await status_of(one.lookup(one.root, "a")) is Status.NOT_FOUND
        assert calls == []
        await one.mkdir(one.root, "other")  # the server may not know who else has changed the directory
        calls.clear()
        for _ in range(2):
            assert await status_of(one.lookup(one.root, "a")) is Status.NOT_FOUND
        assert len(calls) <= 1
        await one.mkdir(one.root, "a")
        node, _ = await one.lookup(one.root, "a")
        calls.clear()
        assert (await one.lookup(one.root, "a"))[0] is node
        assert calls == []
        await two.rmdir(two.root, "a")
        await put(two, "a", b"a file now")
        await asyncio.sleep(1.1)
        again, attr = await one.lookup(one.root, "a")
        assert again is not node and attr.size == 10

    on_site(tmp_path, body)


# --- at random


@pytest.mark.parametrize("delegations", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_who_opens_after_another_has_closed_sees_everything(
    tmp_path: Path, seed: int, delegations: bool
) -> None:
    """Close-to-open, whatever is done by whom, checked against a dict."""
    dice = random.Random(seed)

    async def body(site: Site) -> None:
        mounts = [
            (await site.client(f"c{number}", delegations=delegations, delay=0.001))[0] for number in range(3)
        ]
        model: dict[str, bytes] = {}
        kept: list[Any] = []
        for _ in range(250):
            fs, name = dice.choice(mounts), dice.choice("abcd")
            what = dice.randrange(8)
            if what <= 2:
                if name in model:
                    assert await get(fs, name) == model[name]
                else:
                    assert await status_of(get(fs, name)) is Status.NOT_FOUND
            elif what == 3:
                model[name] = dice.randbytes(dice.randrange(200))
                await put(fs, name, model[name])
            elif what == 4 and name in model:
                file, attr, _ = await fs.open(fs.root, name, READ | WRITE)
                assert attr.size == len(model[name])
                offset, data = dice.randrange(300), dice.randbytes(dice.randrange(1, 50))
                await file.write(offset, data)
                old = model[name].ljust(offset, b"\0")
                model[name] = old[:offset] + data + old[offset + len(data) :]
                assert bytes(await file.read(0, 1000)) == model[name]
                await file.close()
            elif what == 5 and name in model:
                other = dice.choice("abcd")
                await fs.rename(fs.root, name, fs.root, other)
                model[other] = model.pop(name)
            elif what == 6 and name in model:
                if dice.random() < 0.5:
                    await fs.unlink(fs.root, name)
                    del model[name]
                else:
                    size = dice.randrange(300)
                    await asyncio.sleep(1.1)
                    node, _ = await fs.lookup(fs.root, name)
                    await fs.setattr(node, SetAttr(size=size))
                    model[name] = model[name][:size].ljust(size, b"\0")
            elif what == 7 and name in model:
                kept.append((await fs.open(fs.root, name, READ))[0])
                if len(kept) > 5:
                    await kept.pop(0).close()
        for file in kept:
            await file.close()
        await asyncio.sleep(1.5)
        assert {path.name: path.read_bytes() for path in site.rig.tree.iterdir()} == model

    on_site(tmp_path, body)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_many_at_once_while_connections_break(tmp_path: Path, seed: int, restarts: bool) -> None:
    """Each file is used by one task at a time, many files at once, by three clients; what one has closed, the next
    one sees, whoever was cut off meanwhile."""
    dice = random.Random(seed)

    async def body(site: Site) -> None:
        mounts = [(await site.client(f"c{number}", delay=0.002, timeout=120.0))[0] for number in range(3)]
        model = dict.fromkeys("abcdef", b"")
        turns = {name: asyncio.Lock() for name in model}
        for name in model:
            await put(mounts[0], name, b"")

        async def work() -> None:
            for _ in range(40):
                await asyncio.sleep(dice.random() * 0.1)
                fs, name = dice.choice(mounts), dice.choice("abcdef")
                async with turns[name]:
                    if dice.random() < 0.6:
                        assert await get(fs, name) == model[name], name
                        continue
                    file, _, _ = await fs.open(fs.root, name, READ | WRITE)
                    data = dice.randbytes(dice.randrange(1, 40))
                    offset = dice.randrange(100)
                    if dice.random() < 0.3:
                        await file.lock(0, 0, LockKind.EXCLUSIVE, owner=1)
                    assert bytes(await file.read(0, 1000)) == model[name]
                    await file.write(offset, data)
                    await file.fsync()
                    old = model[name].ljust(offset, b"\0")
                    model[name] = old[:offset] + data + old[offset + len(data) :]
                    await file.close()

        async def trouble() -> None:
            while True:
                await asyncio.sleep(dice.random() * 0.2)
                dice.choice(site.links).cut()
                if restarts and dice.random() < 0.2:
                    await site.rig.kill()
                    await asyncio.sleep(dice.random())
                    await site.rig.restart()

        breaking = asyncio.create_task(trouble())
        try:
            await asyncio.gather(*(work() for _ in range(5)))
        finally:
            breaking.cancel()
            await asyncio.gather(breaking, return_exceptions=True)
        assert len(site.links) > 2 * len(mounts)  # each had to connect again
        if site.rig.server is None:
            await site.rig.restart()
        for fs in mounts:
            for name, data in model.items():
                assert await get(fs, name) == data

    on_site(tmp_path, body, lease=10.0, grace=5.0)

"""Caches and delegations of the NFS client: two clients on one server, in virtual time (RFC 8881 §10)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from quicfs.nfs.v4.const import Op
from quicfs.vfs.api import LockKind, SetAttr
from quicfs.vfs.status import Status
from tests.sim.nfs_caching import READ, WRITE, get, on_site, put, status_of
from tests.sim.nfs_calls import Site

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

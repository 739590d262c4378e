"""Clients that open, lock, write and remove the same few files at random, give delegations back or not, and now and
then die: nobody ever holds what excludes another, and in the end nothing is left."""

from __future__ import annotations

import asyncio
import os
import random
import resource
from pathlib import Path
from typing import Any

import pytest

from quicfs.nfs import limits
from quicfs.nfs.v4.const import CbOp, LockType, Op, Stat
from quicfs.nfs.v4.operations_open import CloseArgs, LockuArgs
from quicfs.nfs.v4.types import ANONYMOUS, StateId
from tests.sim.nfs_files import (
    BOTH,
    ROOT,
    Opened,
    delegreturn_op,
    downgrade_op,
    lock_op,
    lockt_op,
    made,
    open_named,
    opened,
    read_op,
    refused,
    remove_op,
    unchecked,
    write_op,
)
from tests.sim.nfs_rig import Operation, RawClient, Rig
from tests.sim.virtual_loop import run

NAMES = ("a", "b")
OWNERS = (b"1", b"2")
FINE = {
    Stat.OK, Stat.DELAY, Stat.SHARE_DENIED, Stat.DENIED, Stat.LOCKED, Stat.OPENMODE, Stat.BAD_STATEID,
    Stat.INVAL, Stat.NOENT, Stat.STALE, Stat.DELEG_REVOKED,
}  # fmt: skip


class Actor:
    """A client with a mind of its own. What it believes to hold is in `opens` and `locks`."""

    def __init__(self, rig: Rig, name: bytes, seed: int) -> None:
        self.rig = rig
        self.name = name
        self.random = random.Random(seed)
        self.lives = 0
        self.client: RawClient
        self.opens: dict[tuple[str, bytes], tuple[Opened, int, int]] = {}  # with access and deny
        self.locks: dict[tuple[bytes, bytes], tuple[StateId, bytes, set[tuple[int, bool]]]] = {}
        self.returning: set[asyncio.Task[Any]] = set()

    async def live(self) -> None:
        self.lives += 1
        self.opens.clear()
        self.locks.clear()
        self.client = await self.rig.client(self.name, verifier=b"%08d" % self.lives)

        async def recall(args: Any) -> tuple[Stat, None]:
            if self.random.random() < 0.8:
                put = Opened(args.fh, args.stateid, None).put  # type: ignore[arg-type]
                work = self.client.call(put, delegreturn_op(args.stateid), slot=7)
                task = asyncio.get_running_loop().create_task(work)
                self.returning.add(task)
                task.add_done_callback(self.returning.discard)
            return Stat.OK, None

        self.client.callbacks.answers[CbOp.RECALL] = recall

    async def act(self) -> None:
        await asyncio.sleep(self.random.random())
        if self.random.random() < 0.01:
            await self.live()
            return
        choice = self.random.choice(
            (self.open, self.open, self.close, self.lock, self.lock, self.unlock, self.change)
        )
        await choice()

    async def ask(self, *operations: Operation) -> list[Any] | None:
        reply = await self.client.call(*operations)
        assert reply.status in FINE, reply.results[-1]
        return [result.value for result in reply.results] if reply.status is Stat.OK else None

    async def open(self) -> None:
        name, owner = self.random.choice(NAMES), self.random.choice(OWNERS)
        access, deny = self.random.randint(1, 3), self.random.choice((0, 0, 0, 1, 2))
        how = unchecked(mode=0o600) if self.random.random() < 0.5 else None
        want = self.random.choice((0, 0x300, 0x400))
        values = await self.ask(*open_named(name, access, deny, owner=owner, how=how, want=want))
        if values is not None:
            file = Opened(values[-1].object, values[-2].stateid, values[-2])
            before = self.opens.get((name, owner))
            if before is not None and before[0].fh == file.fh:
                access, deny = access | before[1], deny | before[2]
            self.opens[name, owner] = file, access, deny

    async def close(self) -> None:
        if self.opens:
            key = self.random.choice(list(self.opens))
            file, _, _ = self.opens.pop(key)
            for lock in [lock for lock in self.locks if lock[0] == file.stateid.other]:
                del self.locks[lock]
            await self.ask(file.put, (Op.CLOSE, CloseArgs(0, StateId(0, file.stateid.other))))

    async def lock(self) -> None:
        if self.opens:
            file, _, _ = self.opens[self.random.choice(list(self.opens))]
            owner, at = self.random.choice(OWNERS), self.random.randrange(8)
            kind = self.random.choice(list(LockType))
            opened_now = Opened(file.fh, StateId(0, file.stateid.other), file.result)
            values = await self.ask(file.put, lock_op(opened_now, at, 1, kind, owner))
            if values is not None:
                key = file.stateid.other, owner
                _, _, held = self.locks.get(key, (None, b"", set()))
                held = {one for one in held if one[0] != at} | {
                    (at, kind in (LockType.WRITE, LockType.WRITEW))
                }
                self.locks[key] = values[-1].stateid, file.fh, held

    async def unlock(self) -> None:
        if self.locks:
            key = self.random.choice(list(self.locks))
            stateid, fh, held = self.locks[key]
            at = self.random.randrange(8)
            put = Opened(fh, stateid, None).put  # type: ignore[arg-type]
            args = LockuArgs(LockType.WRITE, 0, StateId(0, stateid.other), at, 4)
            self.locks[key] = stateid, fh, {one for one in held if not at <= one[0] < at + 4}
            await self.ask(put, (Op.LOCKU, args))

    async def change(self) -> None:
        name = self.random.choice(NAMES)
        if self.random.random() < 0.1:
            await self.ask(*ROOT, remove_op(name))
        elif self.opens:
            file, _, _ = self.opens[self.random.choice(list(self.opens))]
            current = StateId(0, file.stateid.other)
            stateid = self.random.choice((current, ANONYMOUS))
            what = self.random.choice(
                (read_op(stateid), write_op(stateid, b"data"), lockt_op(0, 8), downgrade_op(current, 1))
            )
            if what[0] is Op.OPEN_DOWNGRADE:
                values = await self.ask(file.put, what)
                if values is not None:
                    key = next(key for key, value in self.opens.items() if value[0] is file)
                    self.opens[key] = file, 1, 0
            else:
                await self.ask(file.put, what)


def _check(actors: list[Actor]) -> None:
    shares = [(file.fh, access, deny) for actor in actors for file, access, deny in actor.opens.values()]
    for number, (fh, access, deny) in enumerate(shares):
        for other, theirs, denied in shares[number + 1 :]:
            assert fh != other or not (access & denied or theirs & deny)
    locks = [
        (fh, (number, owner), at, exclusive)
        for number, actor in enumerate(actors)
        for (_, owner), (_, fh, held) in actor.locks.items()
        for at, exclusive in held
    ]
    for number, (fh, holder, at, exclusive) in enumerate(locks):
        for other, theirs, there, also in locks[number + 1 :]:
            if (fh, at) == (other, there) and holder != theirs:
                assert not (exclusive or also)


@pytest.mark.parametrize("seed", range(6))
def test_nobody_has_what_excludes_another(tmp_path: Path, seed: int) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            before = len(os.listdir("/proc/self/fd"))
            actors = [Actor(rig, b"client %d" % number, 100 * seed + number) for number in range(3)]
            for actor in actors:
                await actor.live()
            for _ in range(150):
                # One after the other: what each believes is then true.
                for actor in actors:
                    await actor.act()
                _check(actors)
            for actor in actors:
                await asyncio.gather(*actor.returning)
                await rig.client(actor.name, verifier=b"the end!")
            assert rig.server is not None
            assert len(rig.server.files) == 0 and rig.server.files.delegations == 0
            assert len(os.listdir("/proc/self/fd")) <= before + 2

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_all_at_once(tmp_path: Path, seed: int) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            actors = [Actor(rig, b"client %d" % number, 100 * seed + number) for number in range(4)]
            for actor in actors:
                await actor.live()

            async def lives(actor: Actor) -> None:
                for _ in range(150):
                    await actor.act()

            await asyncio.gather(*map(lives, actors))
            for actor in actors:
                await asyncio.gather(*actor.returning)
                await rig.client(actor.name, verifier=b"the end!")
            assert rig.server is not None
            assert len(rig.server.files) == 0 and rig.server.files.delegations == 0

    run(main())


def test_the_process_does_not_run_out_of_descriptors(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = 200 + len(os.listdir("/proc/self/fd"))  # and what tests before this one have left open
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    try:
        run(_as_many_as_there_are(tmp_path, allowed // 2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _as_many_as_there_are(tmp_path: Path, room: int) -> None:
    """One client gets half of the room, the next one half of what is left."""
    async with Rig(tmp_path) as rig:
        greedy, modest = await rig.client(b"greedy"), await rig.client(b"modest")
        files = [await made(greedy, f"file-{number}") for number in range(-(-room // 2))]
        assert await refused(greedy, *open_named("file-0", owner=b"x")) is Stat.DELAY
        assert await refused(greedy, *open_named("new", how=unchecked())) is Stat.DELAY
        assert await refused(greedy, files[0].put, lock_op(files[0])) is Stat.DELAY
        await made(modest, "new")
        await greedy.do(files[0].put, (Op.CLOSE, CloseArgs(0, files[0].stateid)))
        await greedy.do(files[1].put, (Op.CLOSE, CloseArgs(0, files[1].stateid)))
        await made(greedy, "another")
        await modest.do(*ROOT, remove_op("file-0"))


def test_what_one_client_may_have_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(limits, "MAX_CLIENT_OPENS", 5)
        monkeypatch.setattr(limits, "MAX_CLIENT_LOCK_OWNERS", 3)
        monkeypatch.setattr(limits, "MAX_CLIENT_DELEGATIONS", 2)
        async with Rig(tmp_path) as rig:
            one, two = await rig.client(b"one"), await rig.client(b"two")
            files = [await made(one, f"file-{number}") for number in range(5)]
            assert await refused(one, *open_named("file-0", owner=b"x")) is Stat.DELAY
            assert await refused(one, *open_named("new", how=unchecked())) is Stat.DELAY
            assert not (rig.tree / "new").exists()
            await made(two, "new")
            for number in range(3):
                await one.do(files[0].put, lock_op(files[0], number, 1, owner=b"%d" % number))
            assert await refused(one, files[0].put, lock_op(files[0], 9, 1, owner=b"9")) is Stat.DELAY
            await two.do(files[0].put, lockt_op(9, 1))
            for file in files:
                await one.do(file.put, (Op.CLOSE, CloseArgs(0, file.stateid)))
            given = [
                (await opened(one, f"file-{number}", BOTH, want=0x300)).result.delegation
                for number in range(4)
            ]
            assert [hasattr(one, "stateid") for one in given] == [True, True, False, False]
            await asyncio.sleep(1)
            (fewer,) = [args for op, args in one.callbacks.seen if op is CbOp.RECALL_ANY]
            assert fewer.objects_to_keep == 1

    run(main())

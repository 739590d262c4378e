"""Byte-range locks against a real server, in memory and in virtual time (RFC 8881 §9, §18.10 to §18.12, §20.11)."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from pathlib import Path

from quicfs.nfs.v4.const import UINT64_MAX, CbOp, LockType, Op, Stat
from quicfs.nfs.v4.operations_open import LockuArgs
from quicfs.nfs.v4.operations_sessions import FreeStateidArgs
from quicfs.nfs.v4.types import LockDenied, LockOwner, StateId
from tests.sim.nfs_files import (
    BOTH,
    READ,
    ROOT,
    WRITE,
    Opened,
    close,
    downgrade_op,
    lock,
    lock_op,
    lockt_op,
    made,
    opened,
    read,
    refused,
    unlock,
)
from tests.sim.nfs_rig import Operation, RawClient, Rig
from tests.sim.virtual_loop import run

SHARED, EXCLUSIVE = LockType.READ, LockType.WRITE


async def denied(client: RawClient, *operations: Operation) -> LockDenied:
    reply = await client.call(*operations)
    assert reply.status is Stat.DENIED
    value: LockDenied = reply.results[-1].value
    return value


def locally_locked(path: Path, start: int, length: int) -> bool:
    """Whether another program would be refused an exclusive lock."""
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except OSError:
            return True
        return False


def test_who_holds_it_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            one, two = await rig.client(b"one"), await rig.client(b"two")
            mine, theirs = await made(one, "a"), await opened(two, "a")
            await lock(one, mine, 10, 20, owner=b"me")
            expected = LockDenied(10, 20, EXCLUSIVE, LockOwner(one.clientid, b"me"))
            assert await denied(two, theirs.put, lock_op(theirs, 25, 1, SHARED)) == expected
            assert await denied(two, theirs.put, lockt_op(0, 11, SHARED)) == expected
            # The same client's other owner is somebody else, the same owner is not.
            assert await denied(one, mine.put, lockt_op(0, 11, SHARED)) == expected
            await one.do(mine.put, lockt_op(0, 11, owner=b"me"))
            await two.do(theirs.put, lockt_op(30))
            await lock(two, theirs, 30, UINT64_MAX, SHARED, owner=b"you")
            at_end = LockDenied(30, UINT64_MAX, SHARED, LockOwner(two.clientid, b"you"))
            assert await denied(one, mine.put, lockt_op(1 << 63, 1)) == at_end

    run(main())


def test_a_lock_stateid_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            file = await made(client, "a")
            first = await lock(client, file, 0, 10)
            second = await lock(client, file, 20, 10, stateid=first)
            assert second == StateId(2, first.other)
            assert await refused(client, file.put, lock_op(file, 0, 1, stateid=first)) is Stat.OLD_STATEID
            third = await lock(client, file, 40, 10)  # as if it were the first of this owner: it is not
            assert third == StateId(3, first.other)
            fourth = await unlock(client, file, third, 5, 20)
            assert fourth == StateId(4, first.other)
            assert locally_locked(rig.tree / "a", 0, 5)
            assert not locally_locked(rig.tree / "a", 5, 20)
            assert locally_locked(rig.tree / "a", 25, 5)
            assert await refused(client, (Op.FREE_STATEID, FreeStateidArgs(fourth))) is Stat.LOCKS_HELD
            last = await unlock(client, file, fourth)
            await client.do((Op.FREE_STATEID, FreeStateidArgs(last)))
            args = LockuArgs(EXCLUSIVE, 0, last, 0, 1)
            assert await refused(client, file.put, (Op.LOCKU, args)) is Stat.BAD_STATEID
            assert not locally_locked(rig.tree / "a", 0, 0)
            await lock(client, file, 0, 1)

    run(main())


def test_upgrade_and_downgrade_of_a_range(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            one, two = await rig.client(b"one"), await rig.client(b"two")
            mine, theirs = await made(one, "a"), await opened(two, "a")
            await lock(one, mine, 0, 100, SHARED)
            await lock(two, theirs, 50, 100, SHARED)
            assert (await denied(one, mine.put, lock_op(mine, 0, 100, EXCLUSIVE))).offset == 50
            await lock(one, mine, 0, 50, EXCLUSIVE)
            assert (await denied(two, theirs.put, lock_op(theirs, 49, 1, SHARED))).length == 50
            await lock(one, mine, 0, 50, SHARED)
            await lock(two, theirs, 0, 50, SHARED)

    run(main())


def test_a_reader_that_begins_to_write_takes_its_locks_along(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            (rig.tree / "a").touch()
            file = await opened(client, "a", READ)
            await lock(client, file, 0, 10, SHARED)
            assert await refused(client, file.put, lock_op(file, 0, 10)) is Stat.OPENMODE
            file = await opened(client, "a", BOTH)
            stateid = await lock(client, file, 5, 10, EXCLUSIVE)
            assert locally_locked(rig.tree / "a", 0, 5) and locally_locked(rig.tree / "a", 10, 5)
            results = await client.do(file.put, downgrade_op(file.stateid, READ))
            file = Opened(file.fh, results[-1].value.stateid, file.result)
            assert await refused(client, file.put, lock_op(file, 0, 10)) is Stat.OPENMODE
            await unlock(client, file, stateid, 0, 10)
            assert not locally_locked(rig.tree / "a", 0, 10) and locally_locked(rig.tree / "a", 10, 5)

    run(main())


def test_opened_for_writing_only(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            rig.tree.chmod(0o777)
            (rig.tree / "a").touch()
            (rig.tree / "a").chmod(0o222)
            client = await rig.client(uid=1000)
            file = await opened(client, "a", WRITE)
            assert await refused(client, file.put, lock_op(file, 0, 1, SHARED)) is Stat.OPENMODE
            await lock(client, file, 0, 1)
            assert locally_locked(rig.tree / "a", 0, 1)

    run(main())


def test_ranges_that_are_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            file = await made(client, "a")
            for offset, length in ((0, 0), (2, UINT64_MAX - 1), (UINT64_MAX, 2)):
                assert await refused(client, file.put, lock_op(file, offset, length)) is Stat.INVAL
                assert await refused(client, file.put, lockt_op(offset, length)) is Stat.INVAL
            await lock(client, file, UINT64_MAX, UINT64_MAX)
            await lock(client, file, UINT64_MAX - 5, 5)
            assert await refused(client, *ROOT, lockt_op()) is Stat.ISDIR

    run(main())


def test_locks_of_other_programs_count(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            file = await made(client, "a")
            with (rig.tree / "a").open("r+b") as local:
                # An open file description of its own, as another program would have.
                flock = struct.pack("@hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 10, 10, 0)
                fcntl.fcntl(local, fcntl.F_OFD_SETLK, flock)
                found = await denied(client, file.put, lock_op(file, 0, 11))
                assert found.owner == LockOwner(0, b"")
                assert (await denied(client, file.put, lockt_op(0, 11, SHARED))).owner == LockOwner(0, b"")
                await client.do(file.put, lockt_op(0, 10))
                await lock(client, file, 0, 10)
            await lock(client, file, 0, 11)

    run(main())


def test_closing_gives_locks_back_and_those_who_wait_hear_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            one, two = await rig.client(b"one"), await rig.client(b"two")
            mine, theirs = await made(one, "a"), await opened(two, "a")
            stateid = await lock(one, mine, 0, 100)
            waiting = lock_op(theirs, 0, 10, LockType.WRITEW, owner=b"patient")
            await denied(two, theirs.put, waiting)
            await denied(two, theirs.put, lock_op(theirs, 50, 10, LockType.READW, owner=b"other"))
            assert two.callbacks.seen == []
            await unlock(one, mine, stateid, 0, 20)
            await asyncio.sleep(0.1)
            (heard,) = [args for op, args in two.callbacks.seen if op is CbOp.NOTIFY_LOCK]
            assert heard.fh == theirs.fh
            assert heard.lock_owner == LockOwner(two.clientid, b"patient")
            await two.do(theirs.put, waiting)
            await close(one, mine)
            await asyncio.sleep(0.1)
            heard = [args.lock_owner.owner for op, args in two.callbacks.seen if op is CbOp.NOTIFY_LOCK]
            assert heard == [b"patient", b"other"]
            assert not locally_locked(rig.tree / "a", 50, 50)

    run(main())


def test_the_locks_of_a_client_that_is_gone_are_had_by_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path, lease=90) as rig:
            one, two = await rig.client(b"one"), await rig.client(b"two")
            mine, theirs = await made(one, "a"), await opened(two, "a")
            await lock(one, mine)
            for _ in range(3):
                await asyncio.sleep(29)
                await denied(two, theirs.put, lock_op(theirs))
            await asyncio.sleep(4)
            await lock(two, theirs)
            assert (await read(two, theirs))[1] == b""

    run(main())


def test_one_lock_owner_behind_two_opens(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            first, second = await made(client, "a", owner=b"1"), await opened(client, "a", owner=b"2")
            one = await lock(client, first, 0, 10)
            two = await lock(client, second, 5, 10)
            assert one.other != two.other
            await close(client, first)
            assert locally_locked(rig.tree / "a", 0, 15)
            await close(client, second)
            assert not locally_locked(rig.tree / "a", 0, 15)
            assert rig.server is not None and len(rig.server.files) == 0

    run(main())


def test_the_number_of_ranges_is_limited(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            file = await made(client, "a")
            stateid = await lock(client, file, 0, 1)
            for number in range(1, 1024):
                stateid = await lock(client, file, 2 * number, 1, stateid=StateId(0, stateid.other))
            assert await refused(client, file.put, lock_op(file, 4096, 1)) is Stat.DELAY
            await unlock(client, file, stateid)
            await lock(client, file, 4096, 1)

    run(main())

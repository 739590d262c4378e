"""A server that is killed and comes back: what clients had they get back, and nobody else does (RFC 8881 §8.4.2)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from quicfs.nfs.v4.const import DelegationType, LockType, Stat
from quicfs.nfs.v4.operations_open import (
    ClaimFh,
    ClaimPrevious,
    NoDelegation,
    ReadDelegation,
    WriteDelegation,
)
from quicfs.nfs.v4.types import ANONYMOUS
from tests.sim.nfs_files import (
    BOTH,
    READ,
    WRITE,
    Opened,
    commit,
    lock,
    lock_op,
    lockt_op,
    made,
    open_args,
    open_named,
    opened,
    read,
    read_op,
    refused,
    reopened,
    unchecked,
    write,
    write_op,
)
from tests.sim.nfs_rig import RawClient, Rig
from tests.sim.virtual_loop import run

NOTHING = ClaimPrevious(DelegationType.NONE)


async def returning(rig: Rig, owner: bytes, **options: object) -> RawClient:
    """A client that was there before, and has not said yet that it has everything back."""
    client = RawClient(rig, owner, **options)  # type: ignore[arg-type]
    await client.establish(reclaim_complete=False)
    return client


def test_opens_and_locks_are_reclaimed_and_nobody_steals_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path, lease=90) as rig:
            one, two = await rig.client(b"one"), await rig.client(b"two")
            mine = await made(one, "a", BOTH, deny=WRITE)
            await lock(one, mine, 0, 100, owner=b"locker")
            written = await write(one, mine, b"data")
            await rig.kill()
            await rig.restart()
            one, two = await returning(rig, b"one"), await returning(rig, b"two")
            thief = await rig.client(b"thief")  # says at once that it has nothing to reclaim
            # The old stateid means nothing now; nobody gets anything new, by whatever way.
            assert await refused(two, mine.put, read_op(mine.stateid)) is Stat.BAD_STATEID
            for other in (two, thief):
                assert await refused(other, *open_named("a", READ)) is Stat.GRACE
                assert await refused(other, *open_named("new", how=unchecked())) is Stat.GRACE
                assert await refused(other, mine.put, open_args(ClaimFh(), READ)) is Stat.GRACE
                assert await refused(other, mine.put, read_op(ANONYMOUS)) is Stat.GRACE
                assert await refused(other, mine.put, write_op(ANONYMOUS, b"x")) is Stat.GRACE
                assert await refused(other, mine.put, lockt_op()) is Stat.GRACE
            # It was not there before: what it claims to have had is not believed.
            assert await refused(thief, mine.put, open_args(NOTHING)) is Stat.NO_GRACE
            again = await reopened(one, mine, NOTHING, BOTH, deny=WRITE)
            # The other one was there before, but had not this.
            assert await refused(two, mine.put, open_args(NOTHING, WRITE)) is Stat.RECLAIM_CONFLICT
            theirs = await reopened(two, mine, NOTHING, READ)
            assert await refused(one, mine.put, lock_op(again, 0, 100)) is Stat.GRACE
            await lock(one, again, 0, 100, owner=b"locker", reclaim=True)
            stolen = lock_op(theirs, 0, 10, LockType.READ, reclaim=True)
            assert await refused(two, theirs.put, stolen) is Stat.RECLAIM_CONFLICT
            assert (await read(one, again))[1] == b"data"
            assert (await write(one, again, b"DATA")).writeverf != written.writeverf
            await one.reclaim_complete()
            assert await refused(one, mine.put, open_args(NOTHING)) is Stat.NO_GRACE
            assert await refused(one, mine.put, lock_op(again, 200, 1, reclaim=True)) is Stat.NO_GRACE
            assert await refused(one, mine.put, lock_op(again, 200, 1)) is Stat.GRACE
            await two.reclaim_complete()
            # All who could come have come: the period is over.
            assert await refused(thief, *open_named("a", WRITE)) is Stat.SHARE_DENIED
            held = await opened(thief, "a", READ)
            denied = lock_op(held, 50, 10, LockType.READ)
            assert await refused(thief, held.put, denied) is Stat.DENIED
            await lock(one, again, 200, 1)

    run(main())


def test_what_was_not_reclaimed_in_time_is_free(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path, lease=90) as rig:
            one = await rig.client(b"one")
            mine = await made(one, "a", BOTH, deny=BOTH)
            await rig.kill()
            await rig.restart()
            two = await rig.client(b"two")
            for _ in range(3):
                assert await refused(two, *open_named("a")) is Stat.GRACE
                await asyncio.sleep(29)
            await asyncio.sleep(5)
            await opened(two, "a")
            one = await returning(rig, b"one")
            assert await refused(one, mine.put, open_args(NOTHING)) is Stat.NO_GRACE
            # Nor after another restart: others have had the file in between.
            await rig.kill()
            await rig.restart()
            one, two = await returning(rig, b"one"), await returning(rig, b"two")
            assert await refused(one, mine.put, open_args(NOTHING)) is Stat.NO_GRACE
            await reopened(two, mine, NOTHING)

    run(main())


def test_a_client_whose_lease_ran_out_cannot_reclaim_what_others_were_given(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path, lease=90) as rig:
            one, two = await rig.client(b"one"), await rig.client(b"two")
            mine = await made(one, "a", BOTH, deny=BOTH)
            for _ in range(3):
                await asyncio.sleep(40)
                await two.do(mine.put)
            theirs = await opened(two, "a", BOTH, deny=BOTH)
            await rig.kill()
            await rig.restart()
            one, two = await returning(rig, b"one"), await returning(rig, b"two")
            assert await refused(one, mine.put, open_args(NOTHING, BOTH, deny=BOTH)) is Stat.NO_GRACE
            await reopened(two, theirs, NOTHING, BOTH, deny=BOTH)

    run(main())


def test_a_file_whose_mode_forbids_it_now_is_reclaimed_by_its_owner(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            rig.tree.chmod(0o777)
            user = await rig.client(b"user", uid=1000)
            file = await opened(user, "a", BOTH, how=unchecked(mode=0o400))
            await write(user, file, b"data")
            await rig.kill()
            await rig.restart()
            user = await returning(rig, b"user", uid=1000)
            file = await reopened(user, file, NOTHING, BOTH)
            await write(user, file, b"DATA")
            await commit(user, file)
            assert (rig.tree / "a").read_bytes() == b"DATA"

    run(main())


@pytest.mark.parametrize(
    ("access", "kind", "granted"),
    [(READ, DelegationType.READ, ReadDelegation), (BOTH, DelegationType.WRITE, WriteDelegation)],
)
def test_delegations_are_reclaimed(tmp_path: Path, access: int, kind: DelegationType, granted: type) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            (rig.tree / "a").write_bytes(b"data")
            one, two = await rig.client(b"one"), await rig.client(b"two")
            mine = await opened(one, "a", access, want=0)
            assert isinstance(mine.result.delegation, granted)
            await rig.kill()
            await rig.restart()
            one, two = await returning(rig, b"one"), await returning(rig, b"two")
            mine = await reopened(one, mine, ClaimPrevious(kind), access)
            delegation = mine.result.delegation
            assert isinstance(delegation, ReadDelegation | WriteDelegation)
            assert isinstance(delegation, granted) and not delegation.recall
            await one.reclaim_complete()
            await two.reclaim_complete()
            assert await refused(two, *open_named("a", WRITE)) is Stat.DELAY
            under = Opened(mine.fh, delegation.stateid, mine.result)
            assert (await read(one, under))[1] == b"data"

    run(main())


def test_a_delegation_that_cannot_be_called_back_is_to_be_returned(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            (rig.tree / "a").write_bytes(b"data")
            one = await rig.client(b"one")
            mine = await opened(one, "a", READ, want=0)
            await rig.kill()
            await rig.restart()
            one = await returning(rig, b"one", back=False)
            mine = await reopened(one, mine, ClaimPrevious(DelegationType.READ), READ)
            assert isinstance(mine.result.delegation, ReadDelegation) and mine.result.delegation.recall

    run(main())


def test_no_new_delegations_while_others_may_reclaim(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            (rig.tree / "a").write_bytes(b"data")
            one = await rig.client(b"one")
            mine = await opened(one, "a", READ, want=0x0400)
            await rig.kill()
            await rig.restart()
            one = await returning(rig, b"one")
            mine = await reopened(one, mine, NOTHING, READ, want=0)
            assert mine.result.delegation is None
            assert not isinstance(mine.result.delegation, NoDelegation)

    run(main())

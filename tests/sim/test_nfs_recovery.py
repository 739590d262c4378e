"""Restarts of the server, and leases that run out: who gets what back, and who does not (RFC 8881 §8.3, §8.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from quicfs.nfs import limits
from quicfs.nfs.v4.const import DelegationType, Nfs4Error, Op, Stat
from quicfs.nfs.v4.operations_open import ClaimPrevious
from quicfs.nfs.v4.operations_sessions import DestroyClientidArgs, DestroySessionArgs, ReclaimCompleteArgs
from tests.sim.nfs_files import (
    BOTH,
    READ,
    WRITE,
    Opened,
    close,
    lock,
    lock_op,
    made,
    open_args,
    open_named,
    opened,
    read,
    refused,
    reopened,
    write,
)
from tests.sim.nfs_rig import RawClient, Rig
from tests.sim.virtual_loop import run

PREVIOUS = ClaimPrevious(DelegationType.NONE)
Body = Callable[[Rig], Awaitable[None]]


def in_rig(tmp_path: Path, body: Body, **options: Any) -> None:
    async def main() -> None:
        async with Rig(tmp_path, **options) as rig:
            await body(rig)

    run(main())


async def restart(rig: Rig) -> None:
    await rig.kill()
    await rig.restart()


async def come_back(client: RawClient) -> None:
    """After a restart of the server: the session is unknown, and so is the client."""
    client.reconnect()
    assert (await client.compound(client.next())).status is Stat.BADSESSION
    assert (await client.compound((Op.CREATE_SESSION, client.create_args()))).status is Stat.STALE_CLIENTID
    await client.establish(reclaim_complete=False)


async def reclaimed(client: RawClient, file: Opened, access: int = BOTH, deny: int = 0) -> Opened:
    return await reopened(client, file, PREVIOUS, access, deny=deny)


def test_opens_and_locks_come_back_and_nobody_else_gets_them(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        first, second = await rig.client(b"1"), await rig.client(b"2")
        file = await made(first, "f", BOTH, deny=WRITE)
        await write(first, file, b"before")
        await lock(first, file)
        await restart(rig)
        assert rig.server is not None
        assert rig.server.grace.active
        await come_back(second)
        # Before RECLAIM_COMPLETE and after it: nobody gets anything new as long as somebody is missing.
        assert await refused(second, *open_named("f", WRITE)) is Stat.GRACE
        await second.reclaim_complete()
        assert await refused(second, *open_named("f", WRITE)) is Stat.GRACE
        assert await refused(second, file.put, open_args(PREVIOUS, WRITE)) is Stat.NO_GRACE
        await come_back(first)
        again = await reclaimed(first, file, BOTH, deny=WRITE)
        await lock(first, again, reclaim=True)
        assert await read(first, again) == (True, b"before")
        await first.reclaim_complete()
        # All that were known are there again: the rest of the time is not waited for.
        assert not rig.server.grace.active
        assert await refused(second, *open_named("f", WRITE)) is Stat.SHARE_DENIED
        other = await opened(second, "f", READ)
        assert await refused(second, other.put, lock_op(other)) is Stat.OPENMODE
        await close(first, again)
        other = await opened(second, "f", WRITE)
        await lock(second, other)

    in_rig(tmp_path, body)


def test_the_grace_period_ends_with_the_time(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        first, second = await rig.client(b"1"), await rig.client(b"2")
        file = await made(first, "f", BOTH, deny=BOTH)
        await restart(rig)
        await come_back(second)
        await second.reclaim_complete()
        for _ in range(3):
            await asyncio.sleep(29)
            assert await refused(second, *open_named("f")) is Stat.GRACE
        await asyncio.sleep(5)
        theirs = await opened(second, "f", BOTH, deny=BOTH)
        # Too late, and not at the next restart either: others have had the file in the meantime (§8.4.3).
        await come_back(first)
        assert await refused(first, file.put, open_args(PREVIOUS)) is Stat.NO_GRACE
        await first.reclaim_complete()
        assert await refused(first, *open_named("f")) is Stat.SHARE_DENIED
        await close(second, theirs)
        await opened(first, "f")

    in_rig(tmp_path, body)


def test_a_client_cut_off_over_two_restarts_has_lost_its_claim(tmp_path: Path) -> None:
    """§8.4.3, the second edge condition."""

    async def body(rig: Rig) -> None:
        away, here = await rig.client(b"away"), await rig.client(b"here")
        file = await made(away, "f", BOTH, deny=BOTH)
        away.link.cut()
        await restart(rig)
        await come_back(here)
        await here.reclaim_complete()
        for _ in range(2):
            await asyncio.sleep(50)
            await here.do()
        theirs = await opened(here, "f")
        await close(here, theirs)
        await restart(rig)
        assert rig.server is not None
        assert rig.server.grace.active
        await come_back(away)
        assert await refused(away, file.put, open_args(PREVIOUS)) is Stat.NO_GRACE

    in_rig(tmp_path, body)


def test_a_restart_within_the_grace_period_takes_nothing_away(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        first, second = await rig.client(b"1"), await rig.client(b"2")
        one, two = await made(first, "1"), await made(second, "2")
        for _ in range(3):
            await restart(rig)
            await come_back(first)
            await reclaimed(first, one)
            await asyncio.sleep(20)
        await first.reclaim_complete()
        await restart(rig)
        await come_back(second)
        await reclaimed(second, two)
        await second.reclaim_complete()
        await come_back(first)
        await reclaimed(first, one)
        await first.reclaim_complete()

    in_rig(tmp_path, body)


def test_what_was_reclaimed_counts_also_without_reclaim_complete(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        file = await made(client, "f")
        await restart(rig)
        await come_back(client)
        file = await reclaimed(client, file)
        for _ in range(4):
            await asyncio.sleep(30)
            assert await read(client, file) == (True, b"")
        assert rig.server is not None
        assert not rig.server.grace.active
        await restart(rig)
        await come_back(client)
        await reclaimed(client, file)

    in_rig(tmp_path, body)


def test_an_expired_lease_is_no_loss_until_somebody_wants_the_file(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        sleeper = await rig.client(b"sleeper")
        file = await made(sleeper, "f", BOTH, deny=BOTH)
        await write(sleeper, file, b"x")
        sleeper.reconnect()
        await asyncio.sleep(3600)
        assert await read(sleeper, file) == (True, b"x")
        # A name is no file: looking at it takes nothing from anybody, nor do other clients that come and go.
        await rig.client(b"other")
        await asyncio.sleep(3600)
        assert await read(sleeper, file) == (True, b"x")

    in_rig(tmp_path, body)


def test_an_expired_lease_ends_with_the_first_conflict(tmp_path: Path) -> None:
    """§8.4.3, the first edge condition: what others had in the meantime is not reclaimed after a restart."""

    async def body(rig: Rig) -> None:
        away = await rig.client(b"away")
        file = await made(away, "f", BOTH, deny=BOTH)
        await lock(away, file)
        here = await rig.client(b"here")
        assert await refused(here, *open_named("f")) is Stat.SHARE_DENIED
        for _ in range(2):
            await asyncio.sleep(50)
            await here.do()
        theirs = await opened(here, "f")
        await lock(here, theirs)
        await close(here, theirs)
        away.reconnect()
        assert (await away.compound(away.next())).status is Stat.BADSESSION
        await restart(rig)
        await come_back(away)
        assert await refused(away, file.put, open_args(PREVIOUS)) is Stat.NO_GRACE

    in_rig(tmp_path, body)


def test_nothing_is_kept_for_ever(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        await made(client, "f", BOTH, deny=BOTH)
        await asyncio.sleep(limits.COURTESY_S + 100)
        assert rig.server is not None
        assert len(rig.server.clients) == 0
        await restart(rig)
        assert not rig.server.grace.active

    in_rig(tmp_path, body)


def test_others_cannot_claim_in_the_name_of_a_client(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        owner = await rig.client(b"name", uid=1)
        file = await made(owner, "f", BOTH, deny=BOTH)
        await restart(rig)
        thief = RawClient(rig, b"name", uid=2)
        with pytest.raises(Nfs4Error, match="CLID_INUSE"):
            await thief.exchange_id()
        await come_back(owner)
        again = await reclaimed(owner, file, BOTH, deny=BOTH)
        await owner.reclaim_complete()
        await close(owner, again)
        # A name that nobody comes back for is free when the time is over.
        await restart(rig)
        await asyncio.sleep(100)
        thief.reconnect()
        await thief.establish()
        await opened(thief, "f", READ)

    in_rig(tmp_path, body)


def test_clients_that_say_good_bye_are_not_waited_for(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        file = await made(client, "f")
        await close(client, file)
        (await client.compound((Op.DESTROY_SESSION, DestroySessionArgs(client.session)))).check()
        (await client.compound((Op.DESTROY_CLIENTID, DestroyClientidArgs(client.clientid)))).check()
        await restart(rig)
        assert rig.server is not None
        assert not rig.server.grace.active
        # And one that comes back only to leave ends the period, too.
        client = await rig.client()
        await restart(rig)
        assert rig.server.grace.active
        await come_back(client)
        (await client.compound((Op.DESTROY_SESSION, DestroySessionArgs(client.session)))).check()
        (await client.compound((Op.DESTROY_CLIENTID, DestroyClientidArgs(client.clientid)))).check()
        await asyncio.sleep(2)
        assert not rig.server.grace.active

    in_rig(tmp_path, body)


def test_an_orderly_stop_remembers_those_that_had_something(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        busy, idle = await rig.client(b"busy"), await rig.client(b"idle")
        file = await made(busy, "f")
        await close(idle, await made(idle, "g"))
        await rig.stop()
        await rig.restart()
        assert rig.server is not None
        assert rig.server.grace.active
        await come_back(busy)
        await reclaimed(busy, file)
        await busy.reclaim_complete()
        assert not rig.server.grace.active
        await come_back(idle)
        await idle.reclaim_complete()
        await rig.stop()
        await rig.restart()
        await come_back(busy)
        await busy.reclaim_complete()
        await rig.stop()
        await rig.restart()
        assert not rig.server.grace.active

    in_rig(tmp_path, body)


def test_reclaims_are_over_with_reclaim_complete(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        first, second = await rig.client(b"1"), await rig.client(b"2")
        file = await made(first, "f")
        await made(second, "g")
        await restart(rig)
        await come_back(first)
        await first.reclaim_complete()
        assert await refused(first, file.put, open_args(PREVIOUS)) is Stat.NO_GRACE
        again = first.call((Op.RECLAIM_COMPLETE, ReclaimCompleteArgs(False)))
        assert (await again).status is Stat.COMPLETE_ALREADY

    in_rig(tmp_path, body)


def test_no_opens_before_reclaim_complete(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client(reclaim_complete=False)
        assert await refused(client, *open_named("f", how=None)) is Stat.GRACE
        await client.reclaim_complete()
        await made(client, "f")

    in_rig(tmp_path, body)


def test_without_a_state_directory_every_start_is_another_server(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        file = await made(client, "f")
        old = (await client.exchange_id()).server_owner
        await restart(rig)
        assert rig.server is not None
        assert not rig.server.grace.active
        await come_back(client)
        assert (await client.exchange_id()).server_owner != old
        assert await refused(client, file.put, open_args(PREVIOUS)) in (Stat.NO_GRACE, Stat.BADHANDLE)
        await client.reclaim_complete()
        await opened(client, "f")

    in_rig(tmp_path, body, state=False)


def test_the_server_is_the_same_after_a_restart(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        before = await client.exchange_id()
        await restart(rig)
        client.reconnect()
        after = await client.exchange_id()
        assert after.server_owner == before.server_owner
        assert after.server_scope == before.server_scope
        assert after.clientid != before.clientid

    in_rig(tmp_path, body)


def test_a_full_disk_delays_who_cannot_be_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client(reclaim_complete=False)
        full = OSError(28, "No space left on device")

        def fail(*_: object) -> int:
            raise full

        with monkeypatch.context() as patch:
            patch.setattr("os.fdatasync", fail)
            done = Op.RECLAIM_COMPLETE, ReclaimCompleteArgs(False)
            assert await refused(client, done) is Stat.DELAY
            assert await refused(client, *open_named("f")) is Stat.GRACE
        await client.reclaim_complete()
        file = await made(client, "f")
        await restart(rig)
        await come_back(client)
        await reclaimed(client, file)

    in_rig(tmp_path, body)

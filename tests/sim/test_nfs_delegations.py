"""Delegations against a real server, in memory and in virtual time (RFC 8881 §10.2, §10.4, §18.6, §20.1, §20.2)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from quicfs.nfs.v4.attributes import Attribute
from quicfs.nfs.v4.callback import CbGetattrResok
from quicfs.nfs.v4.const import CbOp, Op, SeqStatus, ShareAccess, Stat, WhyNoDelegation
from quicfs.nfs.v4.operations_directories import LinkArgs, RenameArgs
from quicfs.nfs.v4.operations_files import SetattrArgs
from quicfs.nfs.v4.operations_open import (
    ClaimDelegateCur,
    ClaimDelegCurFh,
    NoDelegation,
    ReadDelegation,
    WriteDelegation,
)
from quicfs.nfs.v4.operations_sessions import FreeStateidArgs
from quicfs.nfs.v4.types import ANONYMOUS, StateId
from tests.sim.nfs_files import (
    BOTH,
    READ,
    ROOT,
    WRITE,
    Opened,
    close,
    delegreturn_op,
    getattr_op,
    made,
    open_args,
    open_named,
    opened,
    read,
    read_op,
    refused,
    remove_op,
    reopened,
    write_op,
)
from tests.sim.nfs_rig import Operation, RawClient, Rig
from tests.sim.virtual_loop import run

ANY = int(ShareAccess.WANT_ANY_DELEG)


async def delegated(client: RawClient, name: str, access: int = READ, want: int = ANY) -> Opened:
    file = await opened(client, name, access, want=want)
    assert isinstance(file.result.delegation, ReadDelegation | WriteDelegation), file.result.delegation
    return file


def stateid_of(file: Opened) -> StateId:
    delegation = file.result.delegation
    assert isinstance(delegation, ReadDelegation | WriteDelegation)
    return delegation.stateid


def returns_at_once(client: RawClient, file: Opened) -> None:
    """Answers a recall as a client should: in a request of its own, after the answer."""

    async def answer(args: Any) -> tuple[Stat, None]:
        assert args.fh == file.fh and args.stateid.other == stateid_of(file).other
        loop = asyncio.get_running_loop()
        client.returning = loop.create_task(client.do(file.put, delegreturn_op(args.stateid), slot=5))  # type: ignore[attr-defined]
        return Stat.OK, None

    client.callbacks.answers[CbOp.RECALL] = answer


def recalls(client: RawClient) -> int:
    return sum(op is CbOp.RECALL for op, _ in client.callbacks.seen)


def test_readers_share_and_a_writer_waits_for_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            (rig.tree / "a").write_bytes(b"data")
            one, two = await rig.client(b"one"), await rig.client(b"two")
            mine, theirs = await delegated(one, "a"), await delegated(two, "a")
            await opened(two, "a", READ)
            assert recalls(one) == recalls(two) == 0
            # Its own delegation is in nobody's way but others'.
            assert await refused(two, *open_named("a", WRITE)) is Stat.DELAY
            assert recalls(one) == 1 and recalls(two) == 0
            # What is delegated can be read under the delegation, by whoever has it.
            assert (await read(one, Opened(mine.fh, stateid_of(mine), mine.result)))[1] == b"data"
            assert await refused(one, mine.put, write_op(stateid_of(mine), b"x")) is Stat.OPENMODE
            assert await refused(two, mine.put, read_op(stateid_of(mine))) is Stat.BAD_STATEID
            await one.do(mine.put, delegreturn_op(stateid_of(mine)))
            await opened(two, "a", WRITE)
            assert await refused(one, mine.put, delegreturn_op(stateid_of(mine))) is Stat.BAD_STATEID
            await two.do(theirs.put, delegreturn_op(stateid_of(theirs)))

    run(main())


def test_one_that_comes_back_at_once_delays_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            (rig.tree / "a").write_bytes(b"data")
            one, two = await rig.client(b"one"), await rig.client(b"two")
            mine = await delegated(one, "a", BOTH)
            assert isinstance(mine.result.delegation, WriteDelegation)
            returns_at_once(one, mine)
            await close(one, mine)
            theirs = await opened(two, "a", READ)
            assert (await read(two, theirs))[1] == b"data"
            # A file that was fought over is let alone for a while.
            again = await opened(two, "a", READ, want=ANY, owner=b"x")
            assert again.result.delegation == NoDelegation(WhyNoDelegation.CONTENTION)
            await asyncio.sleep(11)
            await delegated(two, "a")

    run(main())


def test_a_write_delegation_is_for_one_who_is_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            (rig.tree / "a").touch()
            one, two = await rig.client(b"one"), await rig.client(b"two")
            theirs = await opened(two, "a", READ)
            want = int(ShareAccess.WANT_WRITE_DELEG)
            mine = await opened(one, "a", BOTH, want=want)
            assert mine.result.delegation == NoDelegation(WhyNoDelegation.CONTENTION)
            await close(two, theirs)
            mine = await opened(one, "a", BOTH, want=want, owner=b"2")
            assert isinstance(mine.result.delegation, WriteDelegation)
            await one.do(mine.put, write_op(stateid_of(mine), b"data"))
            # Everything of others conflicts with it, also without an open.
            assert await refused(two, mine.put, read_op(ANONYMOUS)) is Stat.DELAY
            assert recalls(one) == 1

    run(main())


def test_no_delegation_without_a_way_to_call_it_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            (rig.tree / "a").touch()
            client = await rig.client(back=False)
            file = await opened(client, "a", READ, want=ANY)
            assert file.result.delegation == NoDelegation(WhyNoDelegation.RESOURCE)
            file = await opened(client, "a", READ, want=0, owner=b"2")
            assert file.result.delegation is None
            file = await opened(client, "a", READ, want=int(ShareAccess.WANT_CANCEL))
            assert file.result.delegation == NoDelegation(WhyNoDelegation.CANCELLED)

    run(main())


def test_no_delegations_when_the_server_gives_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path, delegations=False) as rig:
            (rig.tree / "a").touch()
            client = await rig.client()
            file = await opened(client, "a", READ, want=ANY)
            assert file.result.delegation == NoDelegation(WhyNoDelegation.RESOURCE)

    run(main())


async def _others_change(name: str, file: Opened, two: RawClient) -> dict[str, list[Operation]]:
    return {
        "remove": [*ROOT, remove_op(name)],
        "rename": [*ROOT, (Op.SAVEFH, None), (Op.RENAME, RenameArgs(name, "b"))],
        "replace": [*ROOT, (Op.SAVEFH, None), (Op.RENAME, RenameArgs("other", name))],
        "link": [file.put, (Op.SAVEFH, None), *ROOT, (Op.LINK, LinkArgs("b"))],
        "chmod": [file.put, (Op.SETATTR, SetattrArgs(ANONYMOUS, {Attribute.MODE: 0o600}))],
        "truncate": [file.put, (Op.SETATTR, SetattrArgs(ANONYMOUS, {Attribute.SIZE: 0}))],
        "write": [file.put, write_op(ANONYMOUS, b"x")],
        "open": open_named(name, WRITE),
        "deny": open_named(name, READ, deny=READ),
    }


@pytest.mark.parametrize(
    "what", ["remove", "rename", "replace", "link", "chmod", "truncate", "write", "open", "deny"]
)
def test_what_a_read_delegation_is_called_back_for(tmp_path: Path, what: str) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            (rig.tree / "a").write_bytes(b"data")
            (rig.tree / "other").touch()
            one, two = await rig.client(b"one"), await rig.client(b"two")
            mine = await delegated(one, "a")
            operations = (await _others_change("a", mine, two))[what]
            if what == "deny":
                await close(one, mine)  # which was for reading
            assert await refused(two, *operations) is Stat.DELAY
            assert recalls(one) == 1
            await one.do(mine.put, delegreturn_op(stateid_of(mine)))
            await two.do(*operations)

    run(main())


def test_one_that_is_not_returned_is_taken_away(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path, lease=90) as rig:
            (rig.tree / "a").write_bytes(b"data")
            one, two = await rig.client(b"one"), await rig.client(b"two")
            mine = await delegated(one, "a")
            revoked = SeqStatus.RECALLABLE_STATE_REVOKED
            for _ in range(9):
                assert await refused(two, *open_named("a", WRITE)) is Stat.DELAY
                await one.do(mine.put)  # it is alive, and renews its lease
                assert one.sequence_result is not None and not one.sequence_result.status_flags & revoked
                await asyncio.sleep(10)
            await asyncio.sleep(3)
            theirs = await opened(two, "a", WRITE)
            await one.do(mine.put)
            assert one.sequence_result is not None and one.sequence_result.status_flags & revoked
            stateid = stateid_of(mine)
            assert await refused(one, mine.put, read_op(stateid)) is Stat.DELEG_REVOKED
            assert await refused(one, mine.put, delegreturn_op(stateid)) is Stat.DELEG_REVOKED
            await one.do((Op.FREE_STATEID, FreeStateidArgs(stateid)))
            await one.do(mine.put)
            assert not one.sequence_result.status_flags & revoked
            # Its open is another thing.
            assert (await read(one, mine))[1] == b"data"
            await close(two, theirs)

    run(main())


def test_a_recall_that_the_client_does_not_understand_yet_is_repeated(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            (rig.tree / "a").touch()
            one, two = await rig.client(b"one"), await rig.client(b"two")

            async def not_yet(args: Any) -> tuple[Stat, None]:
                return Stat.BAD_STATEID, None

            one.callbacks.answers[CbOp.RECALL] = not_yet
            mine = await delegated(one, "a")
            assert await refused(two, *open_named("a", WRITE)) is Stat.DELAY
            await asyncio.sleep(1)
            assert recalls(one) > 1
            returns_at_once(one, mine)
            await asyncio.sleep(5)
            await opened(two, "a", WRITE)
            seen = recalls(one)
            await asyncio.sleep(30)
            assert recalls(one) == seen

    run(main())


def test_opens_under_a_delegation_that_is_called_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            one, two = await rig.client(b"one"), await rig.client(b"two")
            await close(one, await made(one, "a"))
            mine = await delegated(one, "a", BOTH)
            await close(one, mine)
            assert await refused(two, *open_named("a", WRITE, deny=WRITE)) is Stat.DELAY
            # What it had opened by itself meanwhile is told now, under the delegation's protection.
            stateid = stateid_of(mine)
            local = await reopened(one, mine, ClaimDelegCurFh(stateid), WRITE, owner=b"local")
            await one.do(*ROOT, open_args(ClaimDelegateCur(stateid, "a"), READ, owner=b"other"))
            assert local.result.delegation is None
            await one.do(mine.put, delegreturn_op(stateid))
            assert await refused(two, *open_named("a", WRITE, deny=WRITE)) is Stat.SHARE_DENIED
            await close(one, local)
            await opened(two, "a", WRITE, deny=WRITE)
            claim = ClaimDelegCurFh(stateid)
            assert await refused(one, mine.put, open_args(claim, READ)) is Stat.BAD_STATEID

    run(main())


def test_others_see_what_a_writer_has_not_written_yet(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            (rig.tree / "a").write_bytes(b"data")
            one, two = await rig.client(b"one"), await rig.client(b"two")
            mine = await delegated(one, "a", BOTH)
            size, change = Attribute.SIZE, Attribute.CHANGE

            async def seen() -> tuple[int, int]:
                values = (await two.do(mine.put, getattr_op(change, size)))[1].value.attributes
                return values[size], values[change]

            (told,) = [(await one.do(mine.put, getattr_op(change, size)))[1].value.attributes]
            answer = {change: told[change], size: told[size]}

            async def getattr_(args: Any) -> tuple[Stat, CbGetattrResok]:
                assert args.fh == mine.fh
                return Stat.OK, CbGetattrResok(dict(answer))

            one.callbacks.answers[CbOp.GETATTR] = getattr_
            assert await seen() == (4, told[change])
            answer[size], answer[change] = 1000, told[change] + 1
            first = await seen()
            assert first[0] == 1000 and first[1] > told[change]
            assert await seen() == first
            answer[change] += 1
            assert (await seen())[1] > first[1]

            # One that does not say gives the delegation back.
            async def silent(args: Any) -> tuple[Stat, None]:
                return Stat.BADHANDLE, None

            one.callbacks.answers[CbOp.GETATTR] = silent
            assert await refused(two, mine.put, getattr_op(size)) is Stat.DELAY
            assert recalls(one) == 1

    run(main())


@pytest.mark.parametrize("access", [READ, BOTH])
def test_changes_by_other_programs_are_noticed(tmp_path: Path, access: int) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            (rig.tree / "a").write_bytes(b"data")
            client = await rig.client()
            mine = await delegated(client, "a", access)
            await asyncio.sleep(5)
            if access == BOTH:
                await client.do(mine.put, write_op(stateid_of(mine), b"DATA"))
                await asyncio.sleep(5)
            assert recalls(client) == 0
            (rig.tree / "a").write_bytes(b"other data")
            await asyncio.sleep(3)
            assert recalls(client) == 1

    run(main())


def test_a_client_that_is_gone_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path, lease=90) as rig:
            (rig.tree / "a").touch()
            one, two = await rig.client(b"one"), await rig.client(b"two")
            await delegated(one, "a", BOTH)
            one.link.cut()
            for _ in range(2):
                await asyncio.sleep(46)
                await two.do((Op.PUTROOTFH, None))
            await opened(two, "a", WRITE)

    run(main())

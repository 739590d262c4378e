"""Slots: every request once (RFC 8881 §2.10.6), in memory and in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from quicfs.nfs import limits
from quicfs.nfs.rpc.errors import RpcLost
from quicfs.nfs.rpc.message import AuthSys
from quicfs.nfs.v4.const import (
    Op,
    Stat,
)
from quicfs.nfs.v4.operations_sessions import (
    DestroySessionArgs,
)
from tests.sim.nfs_rig import Rig, sequence
from tests.sim.nfs_sessions import ROOT, in_rig, mkdir, refused, rmdir

# --- slots: every request once


def test_a_request_that_is_sent_again_is_answered_and_not_done_again(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        request = [client.next(), *mkdir("d")]
        first = await client.compound(*request)
        assert first.status is Stat.OK
        for stream in (0, 1):
            assert await client.compound(*request, stream=stream) == first
        again = await client.call(*mkdir("d"))
        assert again.status is Stat.EXIST
        # A failure is a reply like any other.
        request = [client.next(), *rmdir("nothing")]
        failed = await client.compound(*request)
        assert failed.status is Stat.NOENT
        (rig.tree / "nothing").mkdir()
        assert await client.compound(*request) == failed

    in_rig(tmp_path, body)


def test_a_large_reply_that_was_not_to_be_kept(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        request = [client.next(keep=False), *ROOT, *([(Op.GETFH, None)] * 40)]
        assert (await client.compound(*request)).status is Stat.OK
        reply = await client.compound(*request)
        assert [(result.op, result.status) for result in reply.results] == [
            (Op.SEQUENCE, Stat.OK),
            (Op.PUTROOTFH, Stat.RETRY_UNCACHED_REP),
        ]
        await client.do(*ROOT)

    in_rig(tmp_path, body)


def test_another_request_under_an_old_number(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        number = client.next()
        await client.compound(number, *mkdir("a"))
        assert await refused(client, number, *mkdir("b")) is Stat.SEQ_FALSE_RETRY
        assert not (rig.tree / "b").exists()
        # The same bytes in another user's name are not the same request.
        client.credential = AuthSys(1, "client", 4711, 4711)
        assert await refused(client, number, *mkdir("a")) is Stat.SEQ_FALSE_RETRY

    in_rig(tmp_path, body)


def test_numbers_that_are_out_of_order(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        await client.do(*ROOT)  # number 2, after RECLAIM_COMPLETE
        for number in (0, 1, 4, 0xFFFFFFFF):
            assert await refused(client, sequence(client.session, number), *ROOT) is Stat.SEQ_MISORDERED
        assert await refused(client, sequence(client.session, 2, slot=1), *ROOT) is Stat.SEQ_MISORDERED
        assert await refused(client, sequence(client.session, 0, slot=1), *ROOT) is Stat.SEQ_MISORDERED
        assert await refused(client, sequence(client.session, 1, slot=16), *ROOT) is Stat.BADSLOT
        assert await refused(client, sequence(client.session, 1, slot=0xFFFFFFFF), *ROOT) is Stat.BADSLOT
        for slot in range(16):
            await client.do(*ROOT, slot=slot)

    in_rig(tmp_path, body)


def test_a_retry_of_what_is_under_way_waits_for_it(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        gate = asyncio.Event()
        assert rig.server is not None
        made = await _hold_mkdir(rig, gate)
        request = [client.next(), *mkdir("d")]
        first = asyncio.create_task(client.compound(*request))
        await asyncio.sleep(0.1)
        assert made
        retries = [
            asyncio.create_task(client.compound(*request, stream=1 + number))
            for number in range(limits.MAX_WAITING_RETRIES + 1)
        ]
        await asyncio.sleep(1)
        (refusal,) = (task for task in retries if task.done())
        assert refusal.result().status is Stat.DELAY
        assert await refused(client, client.next(), *ROOT) is Stat.SEQ_MISORDERED
        # The stream of the first one is gone, and with it its reply; the request is not.
        client.link.pipes[0].cut()
        with pytest.raises(RpcLost):
            await first
        gate.set()
        replies = [await task for task in retries if task is not refusal]
        assert {reply.status for reply in replies} == {Stat.OK}
        assert len(made) == 1

    in_rig(tmp_path, body)


async def _hold_mkdir(rig: Rig, gate: asyncio.Event) -> list[str]:
    """Directories are made when `gate` opens; the names that were asked for."""
    made: list[str] = []
    (export,) = rig.exports
    tree = export.file_system
    mkdir = tree.mkdir

    async def held(directory: Any, path: str, mode: int = 0o755) -> Any:
        made.append(path)
        await gate.wait()
        return await mkdir(directory, path, mode)

    tree.mkdir = held  # type: ignore[method-assign]
    return made


def test_a_session_that_is_destroyed_under_a_request(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        gate = asyncio.Event()
        made = await _hold_mkdir(rig, gate)
        first = asyncio.create_task(client.call(*mkdir("d")))
        await asyncio.sleep(0.1)
        assert made
        destroy = Op.DESTROY_SESSION, DestroySessionArgs(client.session)
        assert (await client.compound(destroy, stream=1)).status is Stat.OK
        gate.set()
        assert (await first).status is Stat.OK
        assert await refused(client, client.next()) is Stat.BADSESSION

    in_rig(tmp_path, body)

"""The back channel of a session: slots, paths, and what a client hears when none works (RFC 8881 §2.10, §20.9)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from quicfs.nfs import limits
from quicfs.nfs.server.backchannel import BackChannel, CallbackLost
from quicfs.nfs.v4.callback import CbRecallAnyArgs, CbSequenceArgs, CbSequenceResok
from quicfs.nfs.v4.const import CbOp, ChannelDirFromClient, Op, SeqStatus, Stat
from quicfs.nfs.v4.operations_sessions import BackchannelCtlArgs, BindConnToSessionArgs, DestroySessionArgs
from quicfs.nfs.v4.types import CbSecSys
from tests.sim.nfs_rig import BACK, RawClient, Rig
from tests.sim.virtual_loop import run

Body = Callable[[Rig], Awaitable[None]]
ASK = (CbOp.RECALL_ANY, CbRecallAnyArgs(1, 1))


def in_rig(tmp_path: Path, body: Body, **options: Any) -> None:
    async def main() -> None:
        async with Rig(tmp_path, **options) as rig:
            await body(rig)

    run(main())


def back(rig: Rig, client: RawClient) -> BackChannel:
    assert rig.server is not None
    found = rig.server.clients.get(client.clientid)
    assert found is not None
    return found.backchannel


def sequences(client: RawClient) -> list[CbSequenceArgs]:
    return [args for op, args in client.callbacks.seen if op is CbOp.SEQUENCE]


async def bind(client: RawClient) -> None:
    args = BindConnToSessionArgs(client.session, ChannelDirFromClient.BACK_OR_BOTH, False)
    (await client.compound((Op.BIND_CONN_TO_SESSION, args))).check()


async def flags(client: RawClient) -> int:
    await client.do()
    assert client.sequence_result is not None
    return client.sequence_result.status_flags


def test_callbacks_go_one_after_the_other_through_their_slot(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        for number in range(1, 4):
            (result,) = await back(rig, client).call([ASK])
            assert (result.op, result.status) == (CbOp.RECALL_ANY, Stat.OK)
            assert sequences(client)[-1] == CbSequenceArgs(client.session, number, 0, 3, False, [])
        assert len(client.link.callback_pipes) == 1
        assert [args for op, args in client.callbacks.seen if op is CbOp.RECALL_ANY] == [ASK[1]] * 3

    in_rig(tmp_path, body)


def test_at_most_as_many_at_a_time_as_the_client_has_slots(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        at_once = most = 0

        async def slow(_: Any) -> tuple[Stat, Any]:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(1)
            at_once -= 1
            return Stat.OK, None

        client.callbacks.answers[CbOp.RECALL_ANY] = slow
        await asyncio.gather(*(back(rig, client).call([ASK]) for _ in range(20)))
        assert most == BACK.maxrequests
        assert {args.slotid for args in sequences(client)} == set(range(BACK.maxrequests))

    in_rig(tmp_path, body)


def test_what_is_lost_with_a_path_goes_out_again_on_another(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        old = client.link
        held = asyncio.Event()

        async def hold(_: Any) -> tuple[Stat, Any]:
            await held.wait()
            return Stat.OK, None

        client.callbacks.answers[CbOp.RECALL_ANY] = hold
        call = asyncio.create_task(back(rig, client).call([ASK]))
        await asyncio.sleep(1)
        # A second connection is bound, then the first is gone.
        client.link = rig.connect("client", (client.callbacks,))
        client.streams.clear()
        await bind(client)
        held.set()
        old.cut()
        assert (await call)[0].status is Stat.OK
        assert [(args.slotid, args.sequenceid) for args in sequences(client)] == [(0, 1), (0, 1)]
        assert await flags(client) == 0
        await back(rig, client).call([ASK])
        assert sequences(client)[-1].sequenceid == 2

    in_rig(tmp_path, body)


def test_without_a_path_the_call_is_lost_and_the_client_hears_of_it(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        assert back(rig, client).usable
        client.reconnect()
        await client.do()
        assert not back(rig, client).usable
        with pytest.raises(CallbackLost):
            await back(rig, client).call([ASK])
        assert await flags(client) == SeqStatus.CB_PATH_DOWN | SeqStatus.CB_PATH_DOWN_SESSION
        await bind(client)
        assert await flags(client) == 0
        await back(rig, client).call([ASK])

    in_rig(tmp_path, body)


def test_a_client_that_does_not_answer(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        silent = True

        async def answer(args: Any) -> tuple[Stat, Any]:
            if silent:
                await asyncio.Event().wait()
            return Stat.OK, None

        client.callbacks.answers[CbOp.RECALL_ANY] = answer
        now = asyncio.get_running_loop().time
        start = now()
        with pytest.raises(CallbackLost):
            await back(rig, client).call([ASK])
        assert now() - start <= limits.CALLBACK_TIMEOUT_S
        assert await flags(client) != 0
        silent = False
        await bind(client)
        await back(rig, client).call([ASK])
        assert await flags(client) == 0

    in_rig(tmp_path, body)


def test_slots_stay_in_step_with_a_client_that_never_saw_the_last_call(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        last = 0
        deaf = True

        async def sequence(args: CbSequenceArgs) -> tuple[Stat, Any]:
            nonlocal last
            if deaf:
                await asyncio.Event().wait()
            if args.sequenceid != last + 1:
                return Stat.SEQ_MISORDERED, None
            last += 1
            return Stat.OK, CbSequenceResok(args.sessionid, args.sequenceid, args.slotid, 0, 0)

        client.callbacks.answers[CbOp.SEQUENCE] = sequence
        with pytest.raises(CallbackLost):
            await back(rig, client).call([ASK], timeout=5)
        deaf = False
        await bind(client)
        await back(rig, client).call([ASK])
        await back(rig, client).call([ASK])
        assert last == 2
        assert await flags(client) == 0

    in_rig(tmp_path, body)


def test_a_client_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        tries = 0

        async def sequence(args: CbSequenceArgs) -> tuple[Stat, Any]:
            nonlocal tries
            tries += 1
            if tries < 5:
                return Stat.DELAY, None
            return Stat.OK, CbSequenceResok(args.sessionid, args.sequenceid, args.slotid, 0, 0)

        client.callbacks.answers[CbOp.SEQUENCE] = sequence
        await back(rig, client).call([ASK])
        assert [args.sequenceid for args in sequences(client)] == [1] * 5

    in_rig(tmp_path, body)


def test_a_client_that_knows_no_such_session(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()

        async def sequence(args: CbSequenceArgs) -> tuple[Stat, Any]:
            return Stat.BADSESSION, None

        client.callbacks.answers[CbOp.SEQUENCE] = sequence
        with pytest.raises(CallbackLost):
            await back(rig, client).call([ASK])
        assert await flags(client) & SeqStatus.BACKCHANNEL_FAULT
        # Another session of the same client does.
        first = client.session
        await client.create_session()
        del client.callbacks.answers[CbOp.SEQUENCE]
        await back(rig, client).call([ASK])
        assert sequences(client)[-1].sessionid == client.session != first
        assert len(client.link.callback_pipes) == 1  # one stream serves both
        (await client.compound((Op.DESTROY_SESSION, DestroySessionArgs(client.session)))).check()
        with pytest.raises(CallbackLost):
            await back(rig, client).call([ASK])

    in_rig(tmp_path, body)


def test_hostile_answers_end_the_path_and_nothing_else(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()

        async def nonsense(_: Any) -> tuple[Stat, Any]:
            raise RuntimeError("as if the client had answered SYSTEM_ERR")

        client.callbacks.answers[CbOp.SEQUENCE] = nonsense
        with pytest.raises(CallbackLost):
            await back(rig, client).call([ASK])
        assert await flags(client) & SeqStatus.CB_PATH_DOWN
        del client.callbacks.answers[CbOp.SEQUENCE]
        for _ in range(50):  # and what is bound again and again is bounded
            await bind(client)
        await back(rig, client).call([ASK])

    in_rig(tmp_path, body)


def test_the_program_and_credentials_can_be_changed(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        args = BackchannelCtlArgs(0x40000000, [CbSecSys(1, "server", 7, 7, [])])
        await client.do((Op.BACKCHANNEL_CTL, args))
        await back(rig, client).call([ASK])

    in_rig(tmp_path, body)


def test_on_tcp_callbacks_go_the_other_way_on_the_same_connection(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client(tcp=True)
        await back(rig, client).call([ASK])
        assert len(client.callbacks.seen) == 2
        # The connection outlives the session.
        for _ in range(3):
            (await client.compound((Op.DESTROY_SESSION, DestroySessionArgs(client.session)))).check()
            await client.create_session()
            await back(rig, client).call([ASK])
            assert await flags(client) == 0
        assert len(client.link.pipes) == 1
        client.reconnect()
        assert await flags(client) & SeqStatus.CB_PATH_DOWN
        await bind(client)
        await back(rig, client).call([ASK])
        assert await flags(client) == 0

    in_rig(tmp_path, body)

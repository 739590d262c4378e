"""CB_COMPOUND at the client (RFC 8881 §20.9): slots, repetitions, and the operations."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quicfs.nfs import limits
from quicfs.nfs.client.callback import CallbackProgram
from quicfs.nfs.rpc.message import AuthNone, Call
from quicfs.nfs.rpc.service import Peer, RpcFault
from quicfs.nfs.v4 import callback as cb
from quicfs.nfs.v4.attributes import Attribute, Attributes, bitmap
from quicfs.nfs.v4.compound import Compound, CompoundReply, unpack_reply
from quicfs.nfs.v4.const import CALLBACK_PROGRAM, CbOp, Stat
from quicfs.nfs.v4.types import LockOwner, StateId
from quicfs.nfs.xdr import Packer, Unpacker, XdrError

SESSION = b"s" * 16
STATEID = StateId(1, b"d" * 12)


class Client:
    """What the program is told to do."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.known: bool | None = True
        self.gate: asyncio.Event | None = None

    def session_known(self, session_id: bytes) -> bool | None:
        return self.known if session_id == SESSION else False

    async def recall(self, stateid: StateId, fh: bytes) -> Stat:
        self.done.append((stateid, fh))
        if self.gate is not None:
            await self.gate.wait()
        return Stat.OK if fh == b"fh" else Stat.BAD_STATEID

    def recall_any(self, keep: int, mask: int) -> None:
        self.done.append((keep, mask))

    def attributes(self, fh: bytes) -> Attributes | None:
        return {Attribute.SIZE: 5, Attribute.CHANGE: 7} if fh == b"fh" else None

    def lock_is_free(self, owner: bytes) -> None:
        self.done.append(owner)

    def recall_slots(self, target_highest: int) -> None:
        self.done.append(target_highest)


def sequence(number: int = 1, slot: int = 0, session: bytes = SESSION, highest: int = 0) -> tuple[CbOp, Any]:
    return CbOp.SEQUENCE, cb.CbSequenceArgs(session, number, slot, max(slot, highest), False, [])


RECALL = (CbOp.RECALL, cb.CbRecallArgs(STATEID, False, b"fh"))


async def raw(program: CallbackProgram, args: bytes, procedure: int = 1) -> Packer:
    call = Call(1, CALLBACK_PROGRAM, 1, procedure, AuthNone(), Unpacker(args))
    return await program.call(call, Peer("server"))


async def call(program: CallbackProgram, *operations: tuple[CbOp, Any], minor: int = 1) -> CompoundReply:
    compound = Compound(b"tag", cb.DIALECT)
    for op, args in operations:
        compound.add(op, args)
    packer = Packer()
    compound.pack(packer, minor)
    reply = await raw(program, packer.getvalue())
    return unpack_reply(Unpacker(reply.getvalue()), cb.DIALECT)


def statuses(reply: CompoundReply) -> list[Stat]:
    return [result.status for result in reply.results]


def test_operations() -> None:
    async def main() -> None:
        client = Client()
        program = CallbackProgram(client)
        wanted = bitmap([Attribute.SIZE, Attribute.MODE])
        lock = cb.CbNotifyLockArgs(b"fh", LockOwner(1, b"owner"))
        reply = await call(
            program,
            sequence(),
            RECALL,
            (CbOp.RECALL_ANY, cb.CbRecallAnyArgs(3, 1)),
            (CbOp.GETATTR, cb.CbGetattrArgs(b"fh", wanted)),
            (CbOp.NOTIFY_LOCK, lock),
            (CbOp.RECALL_SLOT, cb.CbRecallSlotArgs(9)),
            (CbOp.RECALLABLE_OBJ_AVAIL, cb.CbRecallAnyArgs(0, 0)),
        )
        assert statuses(reply) == [Stat.OK] * 7 and reply.tag == b"tag"
        assert client.done == [(STATEID, b"fh"), (3, 1), b"owner", 9]
        assert reply.results[3].value.attributes == {Attribute.SIZE: 5}
        first = reply.results[0].value
        assert (first.sessionid, first.sequenceid, first.slotid) == (SESSION, 1, 0)
        assert first.highest_slotid == limits.CALLBACK_SLOTS - 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        ((CbOp.RECALL, cb.CbRecallArgs(STATEID, False, b"other")), Stat.BAD_STATEID),
        ((CbOp.GETATTR, cb.CbGetattrArgs(b"other", 1)), Stat.BADHANDLE),
        ((CbOp.PUSH_DELEG, cb.CbPushDelegArgs(b"fh", None)), Stat.REJECT_DELEG),
        ((CbOp.NOTIFY, cb.CbNotifyArgs(STATEID, b"fh", [])), Stat.NOTSUPP),
        (sequence(2), Stat.SEQUENCE_POS),
    ],
)
def test_operations_that_fail(operation: tuple[CbOp, Any], status: Stat) -> None:
    async def main() -> None:
        reply = await call(CallbackProgram(Client()), sequence(), operation, RECALL)
        assert statuses(reply) == [Stat.OK, status]

    asyncio.run(main())


def test_a_repetition_gets_the_same_answer_and_does_nothing() -> None:
    async def main() -> None:
        client = Client()
        program = CallbackProgram(client)
        first = await call(program, sequence(1), RECALL)
        assert await call(program, sequence(1), RECALL) == first
        assert len(client.done) == 1
        await call(program, sequence(2), RECALL)
        await call(program, sequence(1, slot=3), RECALL)
        assert len(client.done) == 3

    asyncio.run(main())


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (sequence(2), Stat.SEQ_MISORDERED),
        (sequence(0), Stat.SEQ_MISORDERED),
        (sequence(1, slot=limits.CALLBACK_SLOTS), Stat.BADSLOT),
        (sequence(1, session=b"x" * 16), Stat.BADSESSION),
        ((CbOp.SEQUENCE, cb.CbSequenceArgs(SESSION, 1, 3, 1, False, [])), Stat.BAD_HIGH_SLOT),
        (RECALL, Stat.OP_NOT_IN_SESSION),
    ],
)
def test_sequences_that_fail(first: tuple[CbOp, Any], status: Stat) -> None:
    async def main() -> None:
        client = Client()
        assert statuses(await call(CallbackProgram(client), first, RECALL)) == [status]
        assert not client.done

    asyncio.run(main())


def test_a_session_that_is_being_made() -> None:
    async def main() -> None:
        client = Client()
        client.known = None
        program = CallbackProgram(client)
        assert statuses(await call(program, sequence())) == [Stat.DELAY]
        client.known = True
        assert statuses(await call(program, sequence())) == [Stat.OK]

    asyncio.run(main())


def test_a_repetition_while_it_is_carried_out() -> None:
    async def main() -> None:
        client = Client()
        client.gate = asyncio.Event()
        program = CallbackProgram(client)
        under_way = asyncio.create_task(call(program, sequence(), RECALL))
        await asyncio.sleep(0)
        assert statuses(await call(program, sequence(), RECALL)) == [Stat.DELAY]
        assert statuses(await call(program, sequence(2), RECALL)) == [Stat.SEQ_MISORDERED]
        client.gate.set()
        assert statuses(await under_way) == [Stat.OK, Stat.OK]
        assert statuses(await call(program, sequence(), RECALL)) == [Stat.OK, Stat.OK]
        assert len(client.done) == 1

    asyncio.run(main())


def test_frames_of_calls() -> None:
    async def main() -> None:
        program = CallbackProgram(Client())
        assert (await raw(program, b"", 0)).getvalue() == b""
        with pytest.raises(RpcFault):
            await raw(program, b"", 2)
        with pytest.raises(XdrError):
            await raw(program, b"\xff" * 8)
        assert (await call(program, sequence(), minor=3)).status is Stat.MINOR_VERS_MISMATCH
        many = [sequence()] + [RECALL] * limits.CALLBACK_MAX_OPERATIONS
        assert (await call(program, *many)).status is Stat.TOO_MANY_OPS
        assert (await call(program)).status is Stat.OK
        unknown = bytes.fromhex("00000000 00000001 00000000 00000001 00000063")
        reply = unpack_reply(Unpacker((await raw(program, unknown)).getvalue()), cb.DIALECT)
        assert statuses(reply) == [Stat.OP_ILLEGAL] and reply.results[0].op is CbOp.ILLEGAL

    asyncio.run(main())

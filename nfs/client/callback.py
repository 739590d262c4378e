"""What the server calls us for (RFC 8881 §20): CB_COMPOUND, its slots, and the operations for a client."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from quicfs.nfs import limits
from quicfs.nfs.rpc.message import AcceptStat, Call
from quicfs.nfs.rpc.service import Peer, RpcFault
from quicfs.nfs.v4.attributes import Attributes
from quicfs.nfs.v4.callback import DIALECT, CbGetattrResok, CbSequenceArgs, CbSequenceResok
from quicfs.nfs.v4.compound import CompoundCall, ReplyBuilder
from quicfs.nfs.v4.const import (
    CALLBACK_PROGRAM,
    CALLBACK_VERSION,
    MINOR_VERSIONS,
    CbOp,
    Nfs4Error,
    Procedure,
    Stat,
)
from quicfs.nfs.v4.types import StateId
from quicfs.nfs.xdr import Packer

__all__ = ["CallbackProgram", "Called"]

_log = logging.getLogger("quicfs.nfs")

_SEQUENCES: Final = 1 << 32
_HIGHEST: Final = limits.CALLBACK_SLOTS - 1


class Called(Protocol):
    """Who carries out what the server asks."""

    def session_known(self, session_id: bytes) -> bool | None:
        """None: perhaps, one is being made."""

    async def recall(self, stateid: StateId, fh: bytes) -> Stat: ...

    def recall_any(self, keep: int, mask: int) -> None: ...

    def attributes(self, fh: bytes) -> Attributes | None: ...

    def lock_is_free(self, owner: bytes) -> None: ...

    def recall_slots(self, target_highest: int) -> None: ...


class _Slot:
    """`reply`: to the request `sequence`; None while that is being carried out."""

    __slots__ = ("reply", "sequence")

    def __init__(self) -> None:
        self.sequence = 0
        self.reply: bytes | None = b""


class CallbackProgram:
    """For the other direction of the connection (`nfs.rpc.service.Program`)."""

    number = CALLBACK_PROGRAM
    versions = range(CALLBACK_VERSION, CALLBACK_VERSION + 1)

    def __init__(self, called: Called) -> None:
        self._called = called
        self._session = b""
        self._slots: list[_Slot] = []

    async def call(self, call: Call, peer: Peer) -> Packer:
        if call.procedure == Procedure.NULL:
            return Packer()
        if call.procedure != Procedure.COMPOUND:
            raise RpcFault(AcceptStat.PROC_UNAVAIL)
        compound = CompoundCall.unpack(call.args, DIALECT)
        if compound.minor not in MINOR_VERSIONS:
            return _refusal(compound, Stat.MINOR_VERS_MISMATCH)
        if compound.count > limits.CALLBACK_MAX_OPERATIONS:
            return _refusal(compound, Stat.TOO_MANY_OPS)
        return await self._compound(compound)

    async def _compound(self, compound: CompoundCall) -> Packer:
        reply = ReplyBuilder(compound.tag, DIALECT)
        if not compound.more:
            return reply.finish()
        slot: _Slot | None = None
        try:
            op, args = compound.next()
            if op is not CbOp.SEQUENCE:
                raise Nfs4Error(Stat.OP_NOT_IN_SESSION)
            slot = self._slot(args)
            if args.sequenceid == slot.sequence:
                if slot.reply is None:
                    raise Nfs4Error(Stat.DELAY)  # §2.10.6.2: it is being carried out
                packer = Packer()
                packer.fixed(slot.reply)
                return packer
        except Nfs4Error as error:
            reply.add(compound.op, error.status)
            return reply.finish()
        slot.sequence, slot.reply = args.sequenceid, None
        try:
            done = CbSequenceResok(args.sessionid, args.sequenceid, args.slotid, _HIGHEST, _HIGHEST)
            reply.add(op, Stat.OK, done)
            await self._rest(compound, reply)
        finally:
            packer = reply.finish()
            slot.reply = packer.getvalue()
        return packer

    def _slot(self, args: CbSequenceArgs) -> _Slot:
        """§20.9.3: the slot of a request that is new, or was seen."""
        known = self._called.session_known(args.sessionid)
        if not known:
            raise Nfs4Error(Stat.DELAY if known is None else Stat.BADSESSION)
        if args.sessionid != self._session:
            self._session = args.sessionid
            self._slots = [_Slot() for _ in range(limits.CALLBACK_SLOTS)]
        if args.slotid > _HIGHEST:
            raise Nfs4Error(Stat.BADSLOT)
        if args.highest_slotid < args.slotid:
            raise Nfs4Error(Stat.BAD_HIGH_SLOT)
        slot = self._slots[args.slotid]
        if args.sequenceid == (slot.sequence + 1) % _SEQUENCES and slot.reply is not None:
            return slot
        if args.sequenceid == slot.sequence and slot.reply != b"":
            return slot
        raise Nfs4Error(Stat.SEQ_MISORDERED)

    async def _rest(self, compound: CompoundCall, reply: ReplyBuilder) -> None:
        while compound.more:
            result: Any = None
            try:
                op, args = compound.next()
                if op is CbOp.SEQUENCE:
                    raise Nfs4Error(Stat.SEQUENCE_POS)
                if op is CbOp.RECALL:
                    status = await self._called.recall(args.stateid, args.fh)
                    if status is not Stat.OK:
                        raise Nfs4Error(status)
                else:
                    result = _ANSWERS[op](self._called, args)
            except Nfs4Error as error:
                reply.add(compound.op, error.status)
                return
            reply.add(op, Stat.OK, result)


def _refusal(compound: CompoundCall, status: Stat) -> Packer:
    reply = ReplyBuilder(compound.tag, DIALECT)
    reply.status = status
    return reply.finish()


# --- the operations: each gives what travels with OK


def _getattr(called: Called, args: Any) -> CbGetattrResok:
    attributes = called.attributes(args.fh)
    if attributes is None:
        raise Nfs4Error(Stat.BADHANDLE)  # §20.1.4: no write delegation for it here
    return CbGetattrResok(
        {name: value for name, value in attributes.items() if args.attr_request >> name & 1}
    )


def _recall_any(called: Called, args: Any) -> None:
    called.recall_any(args.objects_to_keep, args.type_mask)


def _recall_slot(called: Called, args: Any) -> None:
    called.recall_slots(args.target_highest_slotid)


def _notify_lock(called: Called, args: Any) -> None:
    called.lock_is_free(args.lock_owner.owner)


def _nothing(called: Called, args: Any) -> None:
    """Good to know, and we wait for none of it."""


def _never(status: Stat) -> Callable[[Called, Any], None]:
    def refuse(called: Called, args: Any) -> None:
        raise Nfs4Error(status)

    return refuse


_ANSWERS: Final[dict[CbOp, Callable[[Called, Any], Any]]] = {
    CbOp.GETATTR: _getattr,
    CbOp.RECALL_ANY: _recall_any,
    CbOp.RECALL_SLOT: _recall_slot,
    CbOp.NOTIFY_LOCK: _notify_lock,
    CbOp.RECALLABLE_OBJ_AVAIL: _nothing,
    CbOp.WANTS_CANCELLED: _nothing,
    CbOp.PUSH_DELEG: _never(Stat.REJECT_DELEG),
    CbOp.LAYOUTRECALL: _never(Stat.NOMATCHING_LAYOUT),
    CbOp.NOTIFY: _never(Stat.NOTSUPP),
    CbOp.NOTIFY_DEVICEID: _never(Stat.NOTSUPP),
    CbOp.OFFLOAD: _never(Stat.BAD_STATEID),  # §16.1.3 of RFC 7862: no copy of ours goes on by itself
}

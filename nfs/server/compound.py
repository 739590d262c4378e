"""COMPOUND: one request's operations in their order, until one fails (RFC 8881 §2.10, §16.2).

An operation is one row of the HANDLERS of its family. What must be true of a COMPOUND as a whole is checked here:
where SEQUENCE stands, how many operations there are, how large the reply gets, and that a request that was carried out
before is answered from its slot instead of being carried out again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from quicfs.nfs.rpc.message import Call
from quicfs.nfs.rpc.service import Peer
from quicfs.nfs.server import (
    access,
    attributes,
    clients,
    delegations,
    directories,
    grace,
    io,
    listing,
    locks,
    navigation,
    opens,
    ranges,
    sessions,
    setting,
    xattrs,
)
from quicfs.nfs.server.context import Context, Handler
from quicfs.nfs.server.slots import Begun, Turn
from quicfs.nfs.server.status import STATUS
from quicfs.nfs.v4.compound import CompoundCall, ReplyBuilder
from quicfs.nfs.v4.const import MINOR_VERSIONS, Nfs4Error, Op, Stat
from quicfs.nfs.xdr import Packer
from quicfs.vfs.status import FsError

if TYPE_CHECKING:
    from quicfs.nfs.server.server import NfsServer
    from quicfs.nfs.server.sessions import Session

__all__ = ["HANDLERS", "run"]

_log = logging.getLogger("quicfs.nfs")

_FAMILIES: Final = (
    clients, sessions, grace,
    navigation, access, attributes, setting, directories, listing, xattrs, ranges,
    opens, locks, delegations, io,
)  # fmt: skip
"""The modules with the operations; each has a table HANDLERS."""

HANDLERS: Final[Mapping[Op, Handler]] = {
    op: handler for family in _FAMILIES for op, handler in family.HANDLERS.items()
}

_ALONE: Final = frozenset(
    {Op.EXCHANGE_ID, Op.CREATE_SESSION, Op.BIND_CONN_TO_SESSION, Op.DESTROY_SESSION, Op.DESTROY_CLIENTID}
)
"""What may come without SEQUENCE, and is then the only operation (§2.10.2)."""

_IN_FRONT: Final = _ALONE | {Op.SEQUENCE}

_SMALL: Final = 64
_RESULT_BOUND: Final[Mapping[Op, int]] = {
    Op.OPEN: 1024,
    Op.LOCK: 1152,  # DENIED says who holds it: an owner of up to 1,024 bytes
    Op.CREATE: _SMALL,
    Op.REMOVE: _SMALL,
    Op.RENAME: _SMALL,
    Op.LINK: _SMALL,
    Op.SETATTR: _SMALL,
    Op.WRITE: _SMALL,
    Op.CLOSE: _SMALL,
    Op.LOCKU: _SMALL,
    Op.OPEN_DOWNGRADE: _SMALL,
    Op.DELEGRETURN: _SMALL,
    Op.COPY: 128,
    Op.CLONE: _SMALL,
    Op.ALLOCATE: _SMALL,
    Op.DEALLOCATE: _SMALL,
    Op.SETXATTR: _SMALL,
    Op.REMOVEXATTR: _SMALL,
    Op.EXCHANGE_ID: 2048,
    Op.CREATE_SESSION: 256,
    Op.DESTROY_SESSION: _SMALL,
    Op.DESTROY_CLIENTID: _SMALL,
    Op.RECLAIM_COMPLETE: _SMALL,
    Op.FREE_STATEID: _SMALL,
}
"""Bytes that the result of an operation that changes something may take: it is not begun when they are not there, since
its effect could not be reported (§2.10.6.4)."""

_RPC_REPLY: Final = 24  # xid, direction, accepted, verifier, status: part of ca_maxresponsesize (§18.36.3)


async def run(server: NfsServer, call: Call, peer: Peer) -> Packer:
    """The results of one COMPOUND procedure. XdrError if it is none."""
    unpacker = call.args
    compound = CompoundCall.unpack(unpacker)
    reply = ReplyBuilder(compound.tag)
    plain = compound.minor in MINOR_VERSIONS and compound.count and not compound.tag
    if not plain and not _acceptable(compound, reply):
        return reply.finish()
    ctx = Context(server, peer, call.credential, compound.minor, server.clock())
    try:
        op, args = compound.next()
        if op is Op.SEQUENCE:
            begun = server.sessions.begin(ctx, args, compound.count, unpacker)
        elif op not in _ALONE:
            raise Nfs4Error(Stat.OP_NOT_IN_SESSION)  # §2.10.2
        elif compound.count > 1:
            raise Nfs4Error(Stat.NOT_ONLY_OP)
    except Nfs4Error as error:
        reply.add(compound.op, error.status)
        return reply.finish()
    if op is not Op.SEQUENCE:
        await _carry_out(ctx, op, args, reply)
        return reply.finish()
    if begun.turn is not Turn.NEW:
        return await _again(begun, compound, reply)
    keep: bool = args.cachethis
    try:
        reply.add(Op.SEQUENCE, Stat.OK, begun.result)
        await _in_session(ctx, compound, reply, begun.slot.session, keep=keep)
    except BaseException:
        begun.slot.abandon()
        raise
    packer = reply.finish()
    begun.slot.end(packer, keep=keep)
    return packer


def _acceptable(compound: CompoundCall, reply: ReplyBuilder) -> bool:
    """Whether there is anything to do."""
    if compound.minor not in MINOR_VERSIONS:
        reply.status = Stat.MINOR_VERS_MISMATCH
    else:
        try:
            compound.tag.decode()
        except UnicodeDecodeError:
            reply.status = Stat.INVAL  # §16.2.3: the tag is UTF-8
    return reply.status is Stat.OK and bool(compound.count)


async def _in_session(
    ctx: Context, compound: CompoundCall, reply: ReplyBuilder, session: Session, *, keep: bool
) -> None:
    """The operations after SEQUENCE."""
    limit, too_big = session.max_response - _RPC_REPLY, Stat.REP_TOO_BIG
    if keep and session.max_cached < session.max_response:
        limit, too_big = session.max_cached - _RPC_REPLY, Stat.REP_TOO_BIG_TO_CACHE
    packer = reply.packer
    while compound.more:
        try:
            op, args = compound.next()
            if op in _IN_FRONT:
                _check_place(ctx, op, args, compound)
        except Nfs4Error as error:
            reply.add(compound.op, error.status, error.result)
            return
        room = ctx.room = limit - len(packer)
        if room < _RESULT_BOUND.get(op, 8):
            reply.add(op, too_big)
            return
        mark = packer.mark()
        status = await _carry_out(ctx, op, args, reply)
        if len(packer) > limit:
            reply.replace_last(mark, op, too_big)
            return
        if status is not Stat.OK:
            return


async def _again(begun: Begun, compound: CompoundCall, reply: ReplyBuilder) -> Packer:
    """A request that its slot has seen: the first reply to it, also when that is still being made."""
    slot = begun.slot
    kept = await slot.wait() if begun.turn is Turn.RUNNING else slot.kept
    if kept is not None:
        packer = Packer()
        packer.buffer += kept
        return packer
    # §18.46.3: the reply was not to be kept. SEQUENCE itself is repeated without harm, what follows it is not.
    reply.add(Op.SEQUENCE, Stat.OK, begun.result)
    if compound.more:
        with contextlib.suppress(Nfs4Error):  # its name is all that is wanted
            compound.next()
        reply.add(compound.op, Stat.RETRY_UNCACHED_REP)
    return reply.finish()


def _check_place(ctx: Context, op: Op, args: Any, compound: CompoundCall) -> None:
    """Of operations that have their place at the front: SEQUENCE, and those that may come without it."""
    if op is Op.SEQUENCE:
        raise Nfs4Error(Stat.SEQUENCE_POS)
    if op is Op.BIND_CONN_TO_SESSION:
        raise Nfs4Error(Stat.NOT_ONLY_OP)  # §18.34.3
    if (
        op is Op.DESTROY_SESSION
        and ctx.session is not None
        and args.sessionid == ctx.session.id
        and compound.more
    ):
        raise Nfs4Error(Stat.NOT_ONLY_OP)  # §18.37.3: the session in use goes with the last operation


async def _carry_out(ctx: Context, op: Op, args: Any, reply: ReplyBuilder) -> Stat:
    """One operation; its result is added."""
    handler = HANDLERS.get(op)
    try:
        if handler is None:
            raise Nfs4Error(Stat.NOTSUPP)
        reply.add(op, Stat.OK, await handler(ctx, args))
        return Stat.OK
    except Nfs4Error as error:
        status, result = error.status, error.result
    except FsError as error:
        status, result = STATUS[error.status], None
    except Exception:
        _log.exception("%s: %s failed in an unforeseen way", ctx.peer.name, op.name)
        status, result = Stat.SERVERFAULT, None
    reply.add(op, status, result)
    return status

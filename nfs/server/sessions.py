"""Sessions: CREATE_SESSION, BIND_CONN_TO_SESSION, DESTROY_SESSION, BACKCHANNEL_CTL, SET_SSV, and the work of SEQUENCE
(RFC 8881 §2.10, §18.33 to §18.37, §18.46, §18.47). What the RFC calls a connection is a `Peer`: a stream on QUIC.
"""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Final

from quicfs.nfs import limits
from quicfs.nfs.rpc.message import AuthSys
from quicfs.nfs.rpc.service import Peer
from quicfs.nfs.server.clients import Client, certified, principal_of
from quicfs.nfs.server.context import Context, Handler
from quicfs.nfs.server.slots import Begun, Slot
from quicfs.nfs.v4.const import (
    ChannelDirFromClient,
    ChannelDirFromServer,
    CreateSession,
    Nfs4Error,
    Op,
    Stat,
)
from quicfs.nfs.v4.operations_sessions import (
    BackchannelCtlArgs,
    BindConnToSessionArgs,
    BindConnToSessionResok,
    ChannelAttrs,
    CreateSessionArgs,
    CreateSessionResok,
    DestroySessionArgs,
    SequenceArgs,
    SequenceResok,
    SetSsvArgs,
)
from quicfs.nfs.xdr import Unpacker

if TYPE_CHECKING:
    from quicfs.nfs.server.server import NfsServer

__all__ = ["HANDLERS", "Session", "SessionTable"]

_MARKED: Final = 1024  # bytes of a request that are compared when it is sent again
_WRAP: Final = 0xFFFFFFFF
_MIN_MESSAGE: Final = (
    256  # channels that cannot carry even SEQUENCE and a little more are TOOSMALL (§18.36.3)
)
_MIN_OPERATIONS: Final = 2  # SEQUENCE or CB_SEQUENCE, and one that does something
_CREATE_FLAGS: Final = CreateSession.PERSIST | CreateSession.CONN_BACK_CHAN | CreateSession.CONN_RDMA
_DIRECTIONS: Final = {  # whether the back channel is asked for, and whether nothing else would do
    ChannelDirFromClient.FORE: (False, False),
    ChannelDirFromClient.BACK: (True, True),
    ChannelDirFromClient.FORE_OR_BOTH: (True, False),
    ChannelDirFromClient.BACK_OR_BOTH: (True, True),
}


class Session:
    """`max_request`, `max_response` and `max_cached` count whole RPC messages in bytes (§18.36.3)."""

    __slots__ = (
        "client",
        "fore",
        "id",
        "max_cached",
        "max_operations",
        "max_request",
        "max_response",
        "peers",
        "slots",
    )

    def __init__(self, client: Client, session_id: bytes, fore: ChannelAttrs) -> None:
        self.id: Final = session_id
        self.client: Final = client
        self.fore = fore
        self.max_request = fore.maxrequestsize
        self.max_response = fore.maxresponsesize
        self.max_cached = fore.maxresponsesize_cached
        self.max_operations = fore.maxoperations
        self.slots = [Slot(self, number) for number in range(fore.maxrequests)]
        self.peers: set[Peer] = set()  # bound to the fore channel

    @property
    def reserved(self) -> int:
        """Bytes that its slots and what they keep may take."""
        return len(self.slots) * (self.max_cached + limits.SLOT_SIZE)


class SessionTable:
    """All sessions of a server. What their slots may keep together is at most `limits.REPLY_CACHE`."""

    def __init__(self, server: NfsServer) -> None:
        self._server = server
        self._sessions: dict[bytes, Session] = {}
        self._bound: dict[Peer, set[Session]] = {}
        self._reserved = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, session_id: bytes) -> Session:
        """BADSESSION if there is none."""
        session = self._sessions.get(session_id)
        if session is None:
            raise Nfs4Error(Stat.BADSESSION)
        return session

    def begin(self, ctx: Context, args: SequenceArgs, count: int, unpacker: Unpacker) -> Begun:
        """SEQUENCE (§18.46): the request of `count` operations, of which `unpacker` has read this one, takes its slot.
        When this fails, nothing has changed."""
        session = self._sessions.get(args.sessionid)
        if session is None:
            raise Nfs4Error(Stat.BADSESSION)
        client = session.client
        peer = ctx.peer
        if peer not in session.peers:
            self.bind(session, peer)
        if count > session.max_operations:
            raise Nfs4Error(Stat.TOO_MANY_OPS)
        data = unpacker.data
        if len(data) > session.max_request:
            raise Nfs4Error(Stat.REQ_TOO_BIG)
        slots = session.slots
        highest = len(slots) - 1
        if args.slotid > highest:
            raise Nfs4Error(Stat.BADSLOT)
        if args.highest_slotid < args.slotid:
            raise Nfs4Error(Stat.BAD_HIGH_SLOT)
        slot = slots[args.slotid]
        credential = ctx.credential
        # By these a false retry is told from a retry (§2.10.6.1.3.1); SEQUENCE itself may differ between the two.
        rest = data[unpacker.position : unpacker.position + _MARKED]
        turn = slot.begin(
            args.sequenceid,
            zlib.crc32(rest, len(data) - unpacker.position),
            credential.uid if isinstance(credential, AuthSys) else -1,
        )
        client.lease_until = ctx.now + self._server.lease
        ctx.session = session
        ctx.client = client
        ctx.slot = slot
        result = SequenceResok(
            sessionid=session.id,
            sequenceid=args.sequenceid,
            slotid=args.slotid,
            highest_slotid=highest,
            target_highest_slotid=highest,
            status_flags=client.flags | client.backchannel.status(session),
        )
        return Begun(turn, slot, result)

    def create(self, client: Client, fore: ChannelAttrs) -> Session:
        """NOSPC when the client has enough of them."""
        if (
            len(client.sessions) >= limits.MAX_SESSIONS_PER_CLIENT
            or len(self._sessions) >= limits.MAX_SESSIONS
        ):
            raise Nfs4Error(Stat.NOSPC)
        spare = (limits.REPLY_CACHE - self._reserved) // (fore.maxresponsesize_cached + limits.SLOT_SIZE)
        if spare < fore.maxrequests:
            # One slot there always is, and a small one need not be counted: sessions are.
            fore.maxrequests = max(spare, 1)
            if spare < 1:
                fore.maxresponsesize_cached = min(fore.maxresponsesize_cached, limits.SMALL_REPLY)
        session = Session(client, os.urandom(16), fore)
        self._reserved += session.reserved
        self._sessions[session.id] = client.sessions[session.id] = session
        return session

    def destroy(self, session: Session) -> None:
        if self._sessions.pop(session.id, None) is None:
            return
        self._reserved -= session.reserved
        del session.client.sessions[session.id]
        for peer in session.peers:
            self._bound[peer].discard(session)
        session.peers.clear()
        session.client.backchannel.forget(session)

    def bind(self, session: Session, peer: Peer) -> None:
        """`peer` may carry calls of `session`; CONN_NOT_BOUND_TO_SESSION when it may not."""
        # §2.10.3.1: without state protection, SEQUENCE itself binds a connection. One that proved with a certificate
        # that it is somebody else's is not taken.
        if certified(peer) != session.client.principal[0]:
            raise Nfs4Error(Stat.CONN_NOT_BOUND_TO_SESSION)
        if peer.closed:
            return
        sessions = self._bound.get(peer)
        if sessions is None:
            sessions = self._bound[peer] = set()
            peer.on_close(self._unbind)
        if len(session.peers) >= limits.MAX_CONNECTIONS_PER_SESSION:
            raise Nfs4Error(Stat.CONN_NOT_BOUND_TO_SESSION)
        session.peers.add(peer)
        sessions.add(session)

    def _unbind(self, peer: Peer) -> None:
        """The connection is gone. Its sessions stay (§2.10.10.4)."""
        for session in self._bound.pop(peer, ()):
            session.peers.discard(peer)


# --- operations


async def create_session(ctx: Context, args: CreateSessionArgs) -> CreateSessionResok:
    """§18.36. It has a slot of its own in the client record: sent again, it gives the same answer again."""
    server = ctx.server
    client = server.clients.get(args.clientid)
    if client is None:
        raise Nfs4Error(Stat.STALE_CLIENTID)
    if client.principal != principal_of(ctx.credential, ctx.peer):
        raise Nfs4Error(Stat.CLID_INUSE)
    if args.sequence == client.create_sequence and client.create_reply is not None:
        return _created(ctx, client.create_reply)
    if args.sequence != (client.create_sequence + 1) & _WRAP:
        raise Nfs4Error(Stat.SEQ_MISORDERED)
    if args.flags & ~_CREATE_FLAGS:
        raise Nfs4Error(Stat.INVAL)
    fore, back = _fore(args.fore_chan_attrs), _back(args.back_chan_attrs)
    if client.confirming:
        raise Nfs4Error(Stat.DELAY)
    if not client.confirmed:
        client.confirming = True
        try:
            await server.clients.confirm(client)
        finally:
            client.confirming = False
    session = server.sessions.create(client, fore)
    flags = (
        args.flags & CreateSession.CONN_BACK_CHAN
    )  # nothing else: no RDMA, and replies do not outlive the server
    client.backchannel.add(session, back, args.cb_program, args.sec_parms)
    client.lease_until = ctx.now + server.lease
    client.create_sequence = args.sequence
    client.create_reply = CreateSessionResok(session.id, args.sequence, flags, fore, back)
    return _created(ctx, client.create_reply)


def _created(ctx: Context, reply: CreateSessionResok) -> CreateSessionResok:
    """The connection that it came on serves the session, also when the answer is given a second time."""
    try:
        session = ctx.server.sessions.get(reply.sessionid)
    except Nfs4Error:
        return reply
    if ctx.peer not in session.peers:
        ctx.server.sessions.bind(session, ctx.peer)
    if reply.flags & CreateSession.CONN_BACK_CHAN:
        session.client.backchannel.bind(session, ctx.peer)
    return reply


def _fore(asked: ChannelAttrs) -> ChannelAttrs:
    """What is granted for calls of the client (§18.36.3)."""
    _check(asked)
    return ChannelAttrs(
        headerpadsize=0,
        maxrequestsize=min(asked.maxrequestsize, limits.MAX_REQUEST),
        maxresponsesize=min(asked.maxresponsesize, limits.MAX_RESPONSE),
        maxresponsesize_cached=min(
            asked.maxresponsesize_cached, asked.maxresponsesize, limits.MAX_CACHED_RESPONSE
        ),
        maxoperations=min(asked.maxoperations, limits.MAX_OPERATIONS),
        maxrequests=min(asked.maxrequests, limits.MAX_SLOTS),
        rdma_ird=None,
    )


def _back(asked: ChannelAttrs) -> ChannelAttrs:
    """What callbacks will keep to; the client's word is an upper bound."""
    _check(asked)
    return ChannelAttrs(
        headerpadsize=0,
        maxrequestsize=min(asked.maxrequestsize, limits.MAX_CALLBACK),
        maxresponsesize=min(asked.maxresponsesize, limits.MAX_CALLBACK),
        maxresponsesize_cached=0,
        maxoperations=min(asked.maxoperations, limits.MAX_CALLBACK_OPERATIONS),
        maxrequests=min(asked.maxrequests, limits.MAX_CALLBACK_SLOTS),
        rdma_ird=None,
    )


def _check(asked: ChannelAttrs) -> None:
    if (
        min(asked.maxrequestsize, asked.maxresponsesize) < _MIN_MESSAGE
        or asked.maxoperations < _MIN_OPERATIONS
    ):
        raise Nfs4Error(Stat.TOOSMALL)
    if not asked.maxrequests:
        raise Nfs4Error(Stat.INVAL)


async def bind_conn_to_session(ctx: Context, args: BindConnToSessionArgs) -> BindConnToSessionResok:
    """§18.34: this stream serves the session from now on, for calls, for callbacks, or both."""
    session = ctx.server.sessions.get(args.sessid)
    _own(ctx, session.client)
    if ctx.peer not in session.peers:
        ctx.server.sessions.bind(session, ctx.peer)
    backchannel = session.client.backchannel
    wanted, required = _DIRECTIONS[args.dir]
    granted = ChannelDirFromServer.FORE
    if wanted and backchannel.bind(session, ctx.peer):
        granted = (
            ChannelDirFromServer.BACK if args.dir is ChannelDirFromClient.BACK else ChannelDirFromServer.BOTH
        )
    elif required:
        raise Nfs4Error(Stat.INVAL)
    return BindConnToSessionResok(session.id, granted, use_conn_in_rdma_mode=False)


async def destroy_session(ctx: Context, args: DestroySessionArgs) -> None:
    """§18.37. Requests under way in its slots come to their end; nobody will ask for their replies again."""
    session = ctx.server.sessions.get(args.sessionid)
    _own(ctx, session.client)
    ctx.server.sessions.destroy(session)


async def backchannel_ctl(ctx: Context, args: BackchannelCtlArgs) -> None:
    """§18.33."""
    assert ctx.session is not None
    ctx.need_client().backchannel.control(ctx.session, args.cb_program, args.sec_parms)


async def set_ssv(ctx: Context, args: SetSsvArgs) -> None:
    """§18.47.3: only for clients that chose SP4_SSV, which none can."""
    raise Nfs4Error(Stat.INVAL)


def _own(ctx: Context, client: Client) -> None:
    """A session belongs to the principal that its client ID belongs to: nobody else binds to it or ends it."""
    if client.principal != principal_of(ctx.credential, ctx.peer):
        raise Nfs4Error(Stat.WRONG_CRED)


HANDLERS: Final[dict[Op, Handler]] = {
    Op.CREATE_SESSION: create_session,
    Op.BIND_CONN_TO_SESSION: bind_conn_to_session,
    Op.DESTROY_SESSION: destroy_session,
    Op.BACKCHANNEL_CTL: backchannel_ctl,
    Op.SET_SSV: set_ssv,
}

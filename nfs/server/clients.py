"""Clients: EXCHANGE_ID, DESTROY_CLIENTID, and what a client is to the rest of the server (RFC 8881 §2.4, §18.35).

A client owner (what the client calls itself) has at most one confirmed record, which holds its state, and at most one
unconfirmed record, which CREATE_SESSION confirms. A client ID belongs to the principal that asked for it.

A lease that has run out takes nothing away by itself: the state stays for a client that comes back after a sleep, until
somebody else wants what it holds (`ClientTable.expire`), or for `limits.COURTESY_S`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from quicfs.nfs import limits
from quicfs.nfs.rpc.message import AuthSys, Credential
from quicfs.nfs.rpc.service import Peer
from quicfs.nfs.server.backchannel import BackChannel
from quicfs.nfs.server.context import Context, Handler
from quicfs.nfs.server.stateids import ClientState
from quicfs.nfs.v4.const import ExchangeId, Nfs4Error, Op, Stat
from quicfs.nfs.v4.operations_sessions import (
    CreateSessionResok,
    DestroyClientidArgs,
    ExchangeIdArgs,
    ExchangeIdResok,
    SsvParms,
    StateProtectOps,
)
from quicfs.vfs.status import FsError

if TYPE_CHECKING:
    from quicfs.nfs.server.server import NfsServer
    from quicfs.nfs.server.sessions import Session

__all__ = ["HANDLERS", "Client", "ClientTable", "Principal", "principal_of"]

_log = logging.getLogger("quicfs.nfs")

Principal = tuple[str, int]
"""The name in the verified certificate ("" without), and the user that the call said (-1 for nobody)."""


def certified(peer: Peer) -> str:
    """Whom the connection's certificate names, "" without one. A renewed certificate names the same."""
    certificate = peer.certificate
    if certificate is None:
        return ""
    return "\n".join((certificate.subject, *certificate.dns_names, *certificate.emails))


def principal_of(credential: Credential, peer: Peer) -> Principal:
    return certified(peer), credential.uid if isinstance(credential, AuthSys) else -1


class Client:
    """A client record. `state` is its opens, locks and delegations."""

    __slots__ = (
        "backchannel",
        "confirmed",
        "confirming",
        "create_reply",
        "create_sequence",
        "flags",
        "gone",
        "id",
        "lease_until",
        "name",
        "owner",
        "principal",
        "reclaim_complete",
        "sessions",
        "state",
        "verifier",
    )

    def __init__(
        self, server: NfsServer, number: int, owner: bytes, verifier: bytes, principal: Principal, now: float
    ) -> None:
        self.id: Final = number
        self.owner: Final = owner
        self.verifier = verifier
        self.principal: Final = principal
        self.confirmed = False
        self.confirming = False  # by a CREATE_SESSION under way
        self.lease_until = now + server.lease
        self.sessions: dict[bytes, Session] = {}
        self.create_sequence = 0  # of the last CREATE_SESSION (§18.36.4): EXCHANGE_ID says the next one
        self.create_reply: CreateSessionResok | None = None
        self.reclaim_complete = False
        self.gone = False
        self.flags = (
            0  # bits of SEQUENCE's status (§18.46.3) that the operations set: RECALLABLE_STATE_REVOKED ...
        )
        self.name = owner.decode("ascii", "backslashreplace")[:80]
        self.backchannel = BackChannel(self)
        self.state = ClientState(self, server.files)

    def lease_expired(self, now: float) -> bool:
        """Whether somebody else may have what this client holds. That needs `ClientTable.expire` first."""
        return now >= self.lease_until


class ClientTable:
    """All clients of a server, at most `limits.MAX_CLIENTS`."""

    def __init__(self, server: NfsServer) -> None:
        self._server = server
        self._by_id: dict[int, Client] = {}
        self._confirmed: dict[bytes, Client] = {}
        self._unconfirmed: dict[bytes, Client] = {}
        # §2.4.1: a client ID of an earlier instance of the server must be known as such.
        self._next = (server.epoch << 32) + 1

    def __iter__(self) -> Iterator[Client]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, number: int) -> Client | None:
        return self._by_id.get(number)

    async def exchange(
        self, owner: bytes, verifier: bytes, principal: Principal, *, update: bool, now: float
    ) -> Client:
        """The record that §18.35.4 names for these four; the cases are those of its list."""
        while True:
            known = self._confirmed.get(owner)
            if update:
                return self._to_update(known, verifier, principal)
            if not self._server.grace.may_be(owner, principal):
                raise Nfs4Error(Stat.CLID_INUSE)  # case 3: who had the name before the restart is waited for
            if known is not None and known.principal != principal:
                # Case 3: another principal may take the name over when nothing depends on it any more.
                if (known.state.any or known.sessions) and not known.lease_expired(now):
                    raise Nfs4Error(Stat.CLID_INUSE)
                await self.expire(known)
            elif known is not None and known.verifier == verifier:
                return known  # case 2
            elif len(self._by_id) >= limits.MAX_CLIENTS and owner not in self._unconfirmed:
                await self._make_room(now)
            else:
                break
        # Cases 1, 4 and 5. In case 5, a restarted client, the old record stays until the new one is confirmed.
        replaced = self._unconfirmed.pop(owner, None)
        if replaced is not None:
            del self._by_id[replaced.id]
            replaced.gone = True
        client = Client(self._server, self._next, owner, verifier, principal, now)
        self._next += 1
        self._by_id[client.id] = self._unconfirmed[owner] = client
        return client

    @staticmethod
    def _to_update(known: Client | None, verifier: bytes, principal: Principal) -> Client:
        if known is None:
            raise Nfs4Error(Stat.NOENT)  # case 7
        if known.verifier != verifier:
            raise Nfs4Error(Stat.NOT_SAME)  # case 8
        if known.principal != principal:
            raise Nfs4Error(Stat.PERM)  # case 9
        return known  # case 6

    async def confirm(self, client: Client) -> None:
        """The first CREATE_SESSION of a record: the record of the client's earlier life goes, with all its state
        (§18.36.4, case 5 of §18.35.4)."""
        old = self._confirmed.get(client.owner)
        if old is not None and old is not client:
            await self.remove(old)
        if self._unconfirmed.get(client.owner) is client:
            del self._unconfirmed[client.owner]
        client.confirmed = True
        self._confirmed[client.owner] = client

    async def expire(self, client: Client) -> None:
        """The client has lost what it held. That is on disk before anybody else can get it: after a restart the
        client must not reclaim what others had in the meantime (§8.4.3). DELAY when the disk does not take it."""
        _log.info("client %s: lease expired, its state is gone", client.name)
        if self._server.recovery.known.get(client.owner) == client.principal:
            self._server.grace.completed(client)
            try:
                await self._server.recovery.forget(client.owner)
            except OSError as error:
                _log.error("client %s keeps its state, since its end cannot be noted: %s", client.name, error)
                raise Nfs4Error(Stat.DELAY) from None
        await self.remove(client)

    async def remove(self, client: Client) -> None:
        """Everything of the client goes, but not its right to reclaim after a restart."""
        if self._by_id.pop(client.id, None) is None:
            return
        client.gone = True
        for table in (self._confirmed, self._unconfirmed):
            if table.get(client.owner) is client:
                del table[client.owner]
        for session in list(client.sessions.values()):
            self._server.sessions.destroy(session)
        try:
            await client.state.release_all()
        except FsError as error:
            _log.warning("closing the files of client %s: %s", client.name, error)

    async def sweep(self, now: float) -> None:
        """Ends what is long past: unconfirmed records after a lease, others after the courtesy time, or at once if
        they hold nothing."""
        for client in self:
            if not client.lease_expired(now):
                continue
            if not client.confirmed:
                await self.remove(client)
            elif now >= client.lease_until + limits.COURTESY_S or not client.state.any:
                with contextlib.suppress(Nfs4Error):  # the next time, then
                    await self.expire(client)

    async def _make_room(self, now: float) -> None:
        """DELAY if nobody can be spared: neither a record that was never confirmed nor an expired one."""
        if self._unconfirmed:
            await self.remove(next(iter(self._unconfirmed.values())))
            return
        expired = [client for client in self if client.lease_expired(now)]
        if not expired:
            raise Nfs4Error(Stat.DELAY)
        await self.expire(min(expired, key=lambda client: client.lease_until))


_ASKABLE: Final = (
    ExchangeId.SUPP_MOVED_REFER
    | ExchangeId.SUPP_MOVED_MIGR
    | ExchangeId.SUPP_FENCE_OPS
    | ExchangeId.BIND_PRINC_STATEID
    | ExchangeId.MASK_PNFS
    | ExchangeId.UPD_CONFIRMED_REC_A
)


async def exchange_id(ctx: Context, args: ExchangeIdArgs) -> ExchangeIdResok:
    """§18.35."""
    if args.flags & ~_ASKABLE:
        raise Nfs4Error(Stat.INVAL)
    match args.state_protect:
        case StateProtectOps():
            raise Nfs4Error(Stat.INVAL)  # §18.35.3: it needs RPCSEC_GSS, and the call did not come with that
        case SsvParms():
            raise Nfs4Error(Stat.ENCR_ALG_UNSUPP)
    server = ctx.server
    client = await server.clients.exchange(
        args.clientowner.ownerid,
        args.clientowner.verifier,
        principal_of(ctx.credential, ctx.peer),
        update=bool(args.flags & ExchangeId.UPD_CONFIRMED_REC_A),
        now=ctx.now,
    )
    flags = int(ExchangeId.USE_NON_PNFS)
    if client.confirmed:
        flags |= ExchangeId.CONFIRMED_R
    return ExchangeIdResok(
        clientid=client.id,
        sequenceid=client.create_sequence + 1,
        flags=flags,
        state_protect=None,
        server_owner=server.owner,
        server_scope=server.scope,
        server_impl_id=server.implementation,
    )


async def destroy_clientid(ctx: Context, args: DestroyClientidArgs) -> None:
    """§18.50."""
    client = ctx.server.clients.get(args.clientid)
    if client is None:
        raise Nfs4Error(Stat.STALE_CLIENTID)
    if client.principal != principal_of(ctx.credential, ctx.peer):
        raise Nfs4Error(Stat.WRONG_CRED)
    if client is ctx.client or client.sessions or client.state.any:
        raise Nfs4Error(Stat.CLIENTID_BUSY)
    await ctx.server.clients.expire(client)


HANDLERS: Final[dict[Op, Handler]] = {Op.EXCHANGE_ID: exchange_id, Op.DESTROY_CLIENTID: destroy_clientid}

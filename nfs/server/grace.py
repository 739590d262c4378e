"""The grace period: after a restart, clients get back what they had before others get anything (RFC 8881 §8.4.2).

Only clients that are on the list of the run before may reclaim, until each has said RECLAIM_COMPLETE. When all have, or
the time is over, the others are struck off the list: they must not reclaim after yet another restart (§8.4.3).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from quicfs.nfs.server.context import Context, Handler
from quicfs.nfs.v4.const import Nfs4Error, Op, Stat
from quicfs.nfs.v4.operations_sessions import ReclaimCompleteArgs

if TYPE_CHECKING:
    from quicfs.nfs.server.clients import Client
    from quicfs.nfs.server.server import NfsServer

__all__ = ["HANDLERS", "Grace"]

_log = logging.getLogger("quicfs.nfs")


class Grace:
    """`active`: nobody gets new opens or locks now (GRACE), and reclaims are welcome."""

    def __init__(self, server: NfsServer, duration: float) -> None:
        self.active = False
        self._server = server
        self._duration: Final = duration
        self._end = 0.0
        self._missing: dict[bytes, object] = {}  # owners that may still come, with their principals

    def begin(self, now: float) -> None:
        """At the start of the server. No period when nobody could have anything to reclaim."""
        self._missing = dict(self._server.recovery.known)
        self.active = bool(self._missing)
        self._end = now + self._duration
        if self.active:
            _log.info("%d clients may reclaim their state for %g s", len(self._missing), self._duration)

    def may_reclaim(self, client: Client) -> bool:
        """Whether what `client` claims to have had is believed. A client that others took the place of, or that
        somebody else pretends to be, is not on the list (§8.4.2.1)."""
        return (
            self.active
            and not client.reclaim_complete
            and self._missing.get(client.owner) == client.principal
        )

    def may_be(self, owner: bytes, principal: object) -> bool:
        """Whether a client may call itself `owner` now."""
        return self._missing.get(owner, principal) == principal

    def completed(self, client: Client) -> None:
        if self._missing.get(client.owner) == client.principal:
            del self._missing[client.owner]

    async def sweep(self, now: float) -> None:
        """Ends the period when it is time, or when nobody is missing."""
        if not self.active or (self._missing and now < self._end):
            return
        holding = {client.owner: client.principal for client in self._server.clients if client.state.any}
        gone = [owner for owner, principal in self._missing.items() if holding.get(owner) != principal]
        if gone:
            _log.info("%d clients have not reclaimed their state", len(gone))
        # On disk first: from the end of the period on others may get what the missing clients had.
        await self._server.recovery.forget(*gone)
        self._missing.clear()
        self.active = False
        _log.info("the grace period is over")


async def reclaim_complete(ctx: Context, args: ReclaimCompleteArgs) -> None:
    """§18.51. From here on the client may get new state: that it has some is on disk before it gets any."""
    client = ctx.need_client()
    if args.one_fs:
        ctx.need_current()  # file systems do not move here, so there is nothing to do for a single one
        return
    if client.reclaim_complete:
        raise Nfs4Error(Stat.COMPLETE_ALREADY)
    try:
        await ctx.server.recovery.record(client.owner, client.principal)
    except OSError as error:
        _log.error("client %s has to wait, since it cannot be noted: %s", client.name, error)
        raise Nfs4Error(Stat.DELAY) from None
    client.reclaim_complete = True
    ctx.server.grace.completed(client)
    await ctx.server.grace.sweep(ctx.now)


HANDLERS: Final[dict[Op, Handler]] = {Op.RECLAIM_COMPLETE: reclaim_complete}

"""The calls that have no session yet: EXCHANGE_ID, CREATE_SESSION, BIND_CONN_TO_SESSION (RFC 8881 §18.34 to §18.36)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from quicfs.nfs import limits
from quicfs.nfs.client.channel import Channel, Way
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.v4 import operations_sessions as ops
from quicfs.nfs.v4.const import (
    CALLBACK_PROGRAM,
    ChannelDirFromClient,
    CreateSession,
    ExchangeId,
    Op,
    Stat,
)
from quicfs.nfs.v4.operations_sessions import ChannelAttrs
from quicfs.nfs.v4.types import CbSecNone, ClientOwner

__all__ = ["ClientId", "bind", "create_session", "exchange_id"]

_log = logging.getLogger("quicfs.nfs")

_FORE: Final = ChannelAttrs(
    0,
    limits.CLIENT_MAX_MESSAGE,
    limits.CLIENT_MAX_MESSAGE,
    limits.CLIENT_MAX_CACHED,
    limits.CLIENT_MAX_OPERATIONS,
    limits.CLIENT_SLOTS,
    None,
)
_BACK: Final = ChannelAttrs(
    0,
    limits.CALLBACK_MAX_MESSAGE,
    limits.CALLBACK_MAX_MESSAGE,
    limits.CALLBACK_MAX_CACHED,
    limits.CALLBACK_MAX_OPERATIONS,
    limits.CALLBACK_SLOTS,
    None,
)


@dataclass(slots=True)
class ClientId:
    """What the server calls us. `sequence` is that of the next CREATE_SESSION."""

    id: int
    sequence: int
    server: bytes  # its owner: the same after a restart if it is the same server
    scope: bytes


async def exchange_id(
    channel: Channel, way: Way, owner: ClientOwner, known: ClientId | None, *, timeout: float
) -> tuple[ClientId, bool]:
    """Our ID, and whether the server still has all that it held for it."""
    args = ops.ExchangeIdArgs(owner, ExchangeId.USE_NON_PNFS, None, None)
    reply = await channel.compound(way, [(Op.EXCHANGE_ID, args)], timeout=timeout)
    result = reply.results[0].value
    confirmed = bool(result.flags & ExchangeId.CONFIRMED_R)
    same = confirmed and known is not None and known.id == result.clientid
    # §18.35.4: of a confirmed ID the sequence is what it was.
    sequence = known.sequence if same and known is not None else result.sequenceid
    owner_of_server = result.server_owner.major_id
    return ClientId(result.clientid, sequence, owner_of_server, result.server_scope), same


async def create_session(
    channel: Channel, way: Way, client: ClientId, *, timeout: float
) -> tuple[bytes, ChannelAttrs, int]:
    """Its ID, the limits of the fore channel, and the flags. The stream is bound to it."""
    args = ops.CreateSessionArgs(
        client.id,
        client.sequence,
        CreateSession.CONN_BACK_CHAN,
        _FORE,
        _BACK,
        CALLBACK_PROGRAM,
        [CbSecNone()],
    )
    reply = await channel.compound(way, [(Op.CREATE_SESSION, args)], timeout=timeout)
    client.sequence = (client.sequence + 1) & 0xFFFFFFFF
    result = reply.results[0].value
    way.session = result.sessionid
    return result.sessionid, result.fore_chan_attrs, result.flags


async def bind(channel: Channel, way: Way, session: bytes, *, back: bool, timeout: float) -> bool:
    """Bind a stream to a session that exists; `back`: the server may call us on its connection, too. False when the
    server knows no such session."""
    direction = ChannelDirFromClient.FORE_OR_BOTH if back else ChannelDirFromClient.FORE
    args = ops.BindConnToSessionArgs(session, direction, False)
    try:
        await channel.compound(way, [(Op.BIND_CONN_TO_SESSION, args)], timeout=timeout)
    except CompoundFailed as failed:
        if failed.status in (Stat.BADSESSION, Stat.DEADSESSION, Stat.STALE_CLIENTID):
            return False
        raise
    way.session = session
    return True

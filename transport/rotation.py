"""Connection IDs as an application rotates them: option and event CONNECTION_ID (draft-lxin-quic-socket-apis)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.transport import migration
from quicfs.transport.errors import MisuseError
from quicfs.transport.state import OPEN
from quicfs.transport.uapi import ConnectionIdInfo, Event

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection

_U32: Final = 0xFFFFFFFF  # sequence numbers are 62 bits wide on the wire, 32 in the structure


def info(conn: Connection, *, dest: bool) -> ConnectionIdInfo:
    """Which ID is in use and which is the oldest one: of the peer's (`dest`), or of ours."""
    if dest:
        return ConnectionIdInfo(1, conn.peer_cids.current.sequence & _U32, conn.peer_cids.lowest & _U32)
    active = next((issued.sequence for issued in conn.local_cids if issued.cid == conn.path.dcid), 0)
    return ConnectionIdInfo(0, active, conn.local_cids.lowest)


def apply(conn: Connection, wish: ConnectionIdInfo, now: float) -> None:
    """Use the peer's ID `active` from now on; retire those before `prior_to`, or ask the peer to retire ours.

    A field of 0 asks for nothing. MisuseError for IDs that there are not.
    """
    if conn.state not in OPEN or not conn.recovery.handshake_confirmed:
        raise MisuseError("connection IDs change after the handshake is confirmed")
    if not wish.dest:
        if wish.active:
            raise MisuseError("which of our connection IDs is in use is the peer's choice")
        if wish.prior_to:
            conn.local_cids.retire_before(wish.prior_to)
            conn.offer_cids()
        return
    ids = conn.peer_cids
    if wish.active and wish.active != ids.current.sequence:
        ids.use(wish.active)
    if wish.prior_to:
        ids.retire_before(wish.prior_to)
        migration.on_new_ids(conn, now)
        conn.retire_peer_cids()


def notify(conn: Connection, *, dest: bool) -> None:
    """IDs were retired."""
    if conn.events.wants(Event.CONNECTION_ID):
        conn.emit(Event.CONNECTION_ID, info(conn, dest=dest).pack())

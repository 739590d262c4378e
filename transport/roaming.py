"""A client that changes networks: when its sockets move, and where they go.

A mount has to survive that its machine leaves one network and enters another. The kernel says so in two ways: a
datagram cannot leave any more, or the routing table would now choose another address of ours to speak from.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import Final

from quicfs.transport.conn import Connection
from quicfs.transport.errors import MisuseError
from quicfs.transport.path import Address
from quicfs.transport.state import State
from quicfs.transport.transport_param import PreferredAddress
from quicfs.transport.udp import family_of, source_towards
from quicfs.transport.udp_sockets import UdpSockets

_log = logging.getLogger("quicfs.transport")

_PATIENCE: Final = 0.5  # seconds between two looks at the routing table
_SUSPICIOUS_PTOS: Final = 2  # probe timeouts in a row from which on it may be our network that is gone


class Roaming:
    """Moves the connections of one client's sockets. `bound` is the local address that the application asked for."""

    def __init__(self, sockets: UdpSockets, bound: Address | None) -> None:
        self._sockets = sockets
        self._fixed = bound is not None and bound[0] not in ("", "0.0.0.0", "::")
        self._looked_at = float("-inf")

    def migrate(self, conn: Connection, now: float, local: Address) -> None:
        """Move to a local address (port 0: any free one), once the path is validated.

        OSError if the address is not ours or cannot reach the server, MisuseError if migration is not allowed.
        """
        self._move(conn, now, local, conn.path.remote)

    def _move(
        self,
        conn: Connection,
        now: float,
        local: Address | None,
        remote: Address,
        *,
        invited: bool = False,
        at_once: bool = False,
    ) -> None:
        udp = self._sockets.open(family_of(remote), local, remote)
        try:
            conn.migrate(now, udp.here, remote=remote if invited else None, at_once=at_once)
        except MisuseError:
            self._sockets.close(udp)
            raise

    # --- the network changed

    def after_timeout(self, conn: Connection, now: float) -> None:
        """A timer went off: if nothing has come back for some time, it may be our network that has changed."""
        if conn.recovery.pto_count >= _SUSPICIOUS_PTOS:
            self.look(conn, now)

    def look(self, conn: Connection, now: float) -> None:
        """Move at once if datagrams would leave from another address now."""
        if self._fixed or conn.state is not State.CONNECTED or not conn.recovery.handshake_confirmed:
            return
        if now - self._looked_at < _PATIENCE:
            return
        self._looked_at = now
        current = self._sockets.get(conn.path.local)
        remote = conn.path.remote
        try:
            source = source_towards(remote)
        except OSError:
            return  # no network at all: the next datagram asks again
        if current is not None and current.sock.getsockname()[0] == source:
            return
        try:
            self._move(conn, now, None, remote, at_once=True)
        except (OSError, MisuseError) as error:
            _log.warning("the network changed, and the connection to %s cannot follow: %s", remote[0], error)
        else:
            _log.info("the network changed: the connection to %s goes on from %s", remote[0], source)

    # --- preferred address (RFC 9000 §9.6)

    def accept_invitation(self, conn: Connection, now: float) -> None:
        """Try the server's preferred address; where that does not work, nothing changes."""
        invitation, conn.invitation = conn.invitation, None
        if invitation is None:
            return
        remote = _choose(invitation, conn.path.remote)
        if remote is None:
            return
        here = None
        current = self._sockets.get(conn.path.local)
        if self._fixed and current is not None:
            here = (*current.sock.getsockname()[:1], 0)
        try:
            self._move(conn, now, here, remote, invited=True)
        except (OSError, MisuseError) as error:
            _log.info("the server's preferred address %s port %d: %s", *remote[:2], error)


def _choose(invitation: PreferredAddress, remote: Address) -> Address | None:
    """The address of the family in use. None if there is none, or one that a server elsewhere must not send us to
    (RFC 9000 §21.5.3)."""
    preferred = invitation.ipv6 if ":" in remote[0] else invitation.ipv4
    if preferred is None:
        return None
    host, there = ipaddress.ip_address(preferred[0]), ipaddress.ip_address(remote[0].partition("%")[0])
    inward = host.is_loopback or host.is_link_local
    if (
        host.is_multicast
        or host.is_unspecified
        or (inward and not (there.is_loopback or there.is_link_local))
    ):
        return None
    return (*preferred, 0, 0) if ":" in preferred[0] else preferred

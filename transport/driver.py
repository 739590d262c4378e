"""An endpoint on an event loop: its UDP sockets, read and written in bursts, one timer per connection."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from quicfs.transport import limits
from quicfs.transport.builder import Transmit
from quicfs.transport.bursts import cut, read_trains
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.conn import Connection
from quicfs.transport.endpoint import Endpoint, Listener
from quicfs.transport.errors import MisuseError
from quicfs.transport.path import Address
from quicfs.transport.roaming import Roaming
from quicfs.transport.state import State
from quicfs.transport.udp import UdpSocket, max_payload_towards
from quicfs.transport.udp_sockets import UdpSockets

_log = logging.getLogger("quicfs.transport")

_TIMER_SLACK: Final = 0.0005  # a timer that fires this much too early is not worth an own one


class Driver:
    """Owns the socket and the clock; tells each connection's owner when there is something to look at."""

    def __init__(
        self,
        family: int,
        local: Address | None,
        remote: Address | None = None,
        *,
        reset_key: bytes | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.sockets = UdpSockets(self.loop, self._on_readable)
        self._first = self.sockets.open(family, local, remote, listening=remote is None)
        self.roaming = Roaming(self.sockets, local) if remote is not None else None
        self.endpoint = Endpoint(os.urandom, mtu_of=max_payload_towards, reset_key=reset_key)
        self._owners: dict[Connection, Callable[[], None]] = {}
        self._timers: dict[Connection, asyncio.TimerHandle] = {}
        self._receive_buffer = memoryview(bytearray(limits.TRAIN_BYTES))
        self._send_buffer = memoryview(bytearray(limits.TRAIN_BYTES))
        self._blocked: Transmit | None = None  # waits for room in the socket's buffer
        self._waiting: dict[Connection, None] = {}  # have something to send
        self._flush_scheduled = False
        self._closed = False
        self._ended = self.loop.create_future()
        self._users = 0
        self._error_logged = False
        self._dropped_from: set[str] = set()

    def local_address(self, conn: Connection | None = None) -> Address:
        """Of a connection's socket, or of the listening one."""
        udp = self.sockets.get(conn.path.local) if conn is not None else None
        return (udp or self._first).sock.getsockname()

    # --- users

    @property
    def closed(self) -> bool:
        return self._closed

    def acquire(self) -> None:
        self._users += 1

    def release(self) -> None:
        """The last user takes the socket with it, as soon as the last words of the connections are sent.

        RFC 9000 §10.2: who closes its UDP socket may end the closing and draining states early.
        """
        self._users -= 1
        if not self._users and self._blocked is None:
            self._flush()
            if self._blocked is None:
                for conn in list(self.endpoint.connections):
                    self._forget(conn)
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self._users and not len(self.endpoint) and not self._closed:
            self._closed = True
            self.sockets.close_all()
            self._ended.set_result(None)

    async def wait_closed(self) -> None:
        """Wait until the UDP socket is closed: its last user is gone, and its last connection too."""
        await asyncio.shield(self._ended)

    def listen(self, listener: Listener) -> None:
        """OSError if the preferred address is not one of this machine."""
        for address in (listener.config.preferred_ipv4, listener.config.preferred_ipv6):
            if address is not None:
                self.sockets.also_listen(address)
        self.endpoint.listen(listener)

    def unlisten(self, listener: Listener) -> None:
        self.endpoint.unlisten(listener)

    def connect(
        self, remote: Address, config: ConnectionConfig, owner: Callable[[], None], *, token: bytes = b""
    ) -> Connection:
        now = self.loop.time()
        conn = self.endpoint.connect(now, remote, config, local=self._first.here, token=token)
        self.own(conn, owner)
        return conn

    def restart(self, conn: Connection, owner: Callable[[], None]) -> Connection:
        """A client's connection met Version Negotiation: the one that follows it."""
        again = self.endpoint.restart(self.loop.time(), conn)
        self.own(again, owner)
        return again

    def own(self, conn: Connection, owner: Callable[[], None]) -> None:
        """`owner` is called after anything happened to the connection."""
        self._owners[conn] = owner
        self._arm(conn)

    # --- the application did something

    def kick(self, conn: Connection) -> None:
        """The connection may have something to send; sent together with what else comes up in this turn."""
        self._waiting[conn] = None
        if not self._flush_scheduled and self._blocked is None:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush)

    def replay(self, conn: Connection) -> None:
        """Keys came for the connection."""
        self.endpoint.replay(self.loop.time(), conn)
        self._settle([conn])

    # --- receiving

    def migrate(self, conn: Connection, local: Address) -> None:
        """See `Roaming.migrate`."""
        if self.roaming is None:
            raise MisuseError("only a client migrates (RFC 9000 §9)")
        self.roaming.migrate(conn, self.loop.time(), local)
        self.kick(conn)

    def _on_readable(self, udp: UdpSocket) -> None:
        now = self.loop.time()
        touched: dict[Connection, None] = {}
        trains = read_trains(udp, self._receive_buffer)
        while True:
            try:
                train = next(trains, None)
            except OSError as error:
                self._on_socket_error(error)
                break
            if train is None:
                break
            data, (_, segment_size, remote, local, ecn) = train
            concerned = self.endpoint.handle(now, data, segment_size, remote, local, ecn)
            for conn in concerned:
                touched[conn] = None
            if not concerned and not self.endpoint.has_replies:
                self._note_dropped(remote)
        while (reply := self.endpoint.poll_reply()) is not None:
            self._send(reply)
        if touched:
            self._settle(touched)

    def _note_dropped(self, remote: Address) -> None:
        """Nothing came of a train; said once for each source, so that a scanner does not fill the log."""
        if not self.endpoint.listening or remote[0] in self._dropped_from:
            return
        if len(self._dropped_from) >= limits.MAX_SOURCES_LOGGED:
            self._dropped_from.clear()
        self._dropped_from.add(remote[0])
        _log.warning(
            "%s port %d: dropped what is no QUIC or belongs to no connection (said once for each source)",
            *remote[:2],
        )

    def _on_socket_error(self, error: OSError) -> None:
        """ICMP said that the peer's port is closed; only believed while the handshake goes on."""
        for conn in list(self.endpoint.connections):
            if conn.state is State.HANDSHAKE and not conn.is_server:
                conn.abandon(f"nothing answers there ({error.strerror})")
                self._settle([conn])

    def _settle(self, touched: dict[Connection, None] | list[Connection]) -> None:
        """After events: let owners look, send what is due, arm timers."""
        for conn in touched:
            owner = self._owners.get(conn)
            if owner is not None:
                owner()
            if conn.invitation is not None and self.roaming is not None:
                self.roaming.accept_invitation(conn, self.loop.time())
            self._waiting[conn] = None
        if self._blocked is None:
            self._flush()
        if (
            self.roaming is not None
            and len(self.sockets) > 1
            and len(self.endpoint)
            and self._blocked is None
        ):
            self.sockets.keep(
                {path.local.socket for conn in self.endpoint.connections for path in conn.paths}
            )

    # --- sending

    def _flush(self) -> None:
        self._flush_scheduled = False
        waiting, self._waiting = self._waiting, {}
        for conn in waiting:
            if self._blocked is not None:
                self._waiting[conn] = None
                continue
            if not self._transmit(conn):
                self._waiting[conn] = None
            self._arm(conn)
            if conn.state is State.CLOSED:
                self._forget(conn)
        if self._waiting and self._blocked is None and not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush)

    def _transmit(self, conn: Connection) -> bool:
        """Send what the connection has; False if it has more."""
        now = self.loop.time()
        for _ in range(limits.SEND_BURSTS):
            transmit = conn.poll_transmit(now, self._send_buffer)
            if transmit is None:
                return True
            if not self._send(transmit):
                return False
            if self.roaming is not None and self._lost_route(transmit):
                self.roaming.look(conn, now)
        return False

    def _lost_route(self, transmit: Transmit) -> bool:
        udp = self.sockets.of(transmit)
        if udp is None or not udp.lost_route:
            return False
        udp.lost_route = False
        return True

    def _send(self, transmit: Transmit) -> bool:
        """False if the socket's buffer is full; what is left of the train waits for room then."""
        udp = self.sockets.of(transmit)
        if udp is None:
            return True  # a path that was left
        done = 0
        for piece in cut(transmit):
            if not self._send_piece(udp, piece):
                self._blocked = transmit._replace(data=memoryview(bytes(transmit.data[done:])))
                self.loop.add_writer(udp.fileno(), self._on_writable, udp)
                return False
            done += len(piece.data)
        return True

    def _send_piece(self, udp: UdpSocket, transmit: Transmit) -> bool:
        try:
            return udp.send(transmit)
        except OSError as error:
            if not self._error_logged:
                self._error_logged = True
                _log.warning("sending to %s failed: %s", transmit.remote, error)
            return True

    def _on_writable(self, udp: UdpSocket) -> None:
        blocked, self._blocked = self._blocked, None
        if blocked is not None and not self._send(blocked):
            return
        self.loop.remove_writer(udp.fileno())
        self._flush()

    # --- time

    def _arm(self, conn: Connection) -> None:
        """One timer per connection. It is moved only when it would fire too late; when it fires too early it is
        armed again, which is cheaper than a new one after every train."""
        deadline = conn.next_timeout()
        handle = self._timers.get(conn)
        if deadline is None:
            if handle is not None:
                handle.cancel()
                del self._timers[conn]
            return
        if handle is not None:
            if handle.when() <= deadline + _TIMER_SLACK:
                return
            handle.cancel()
        self._timers[conn] = self.loop.call_at(deadline, self._on_timer, conn)

    def _on_timer(self, conn: Connection) -> None:
        self._timers.pop(conn, None)
        now = self.loop.time()
        deadline = conn.next_timeout()
        if deadline is not None and deadline <= now:
            conn.handle_timeout(now)
            if self.roaming is not None:
                self.roaming.after_timeout(conn, now)
            self._settle([conn])
        else:
            self._arm(conn)

    def _forget(self, conn: Connection) -> None:
        handle = self._timers.pop(conn, None)
        if handle is not None:
            handle.cancel()
        self._owners.pop(conn, None)
        self.endpoint.forget(conn)
        self._close_if_idle()


async def resolve(host: str, port: int) -> tuple[int, Address]:
    """Address family and socket address of the first result; raises OSError (gaierror) with the host's name."""
    try:  # what is an address already needs no thread that may wait for a name server
        results = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        results = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    family, _, _, _, address = results[0]
    return family, address

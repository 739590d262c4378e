"""Connections as the commands make them, with the TLS handshake done by an agent.

What SMB needs (and `perf`) is one bidirectional stream that the client opens; it and its connection begin and
end together. NFS uses the connection with all its streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from quicfs.agents import ClientNet
from quicfs.sessions import KeptSession
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.errors import ClosedError
from quicfs.transport.handshake import HandshakeError, HandshakeRequest
from quicfs.transport.qlog.directory import QlogDirectory
from quicfs.transport.quic_stream import QuicStream
from quicfs.transport.socket import QuicSocket
from quicfs.transport.stats import ConnectionStats
from quicfs.transport.uapi import AuthMode, MessageType, SockOpt
from quicfs.url import Address

__all__ = ["ConnectionStream", "Dialled", "connect_stream", "dial"]

HANDSHAKE_S: Final = 10.0
OTHER_ADDRESS_S: Final = 3.0
"""For a handshake when the host has more addresses to try."""
KEEP_ALIVE_S: Final = 15.0
"""Half of the usual idle timeout: a mount that nobody uses for a while stays connected."""
TICKET_S: Final = 10
"""How long after the handshake a session ticket is taken."""
DRAIN_S: Final = 3.0


class ConnectionStream:
    """The only stream of its connection, which ends with it. Satisfies `ByteStream`. `keep` is called before that."""

    def __init__(
        self,
        conn: QuicSocket,
        stream: QuicStream,
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        self._conn = conn
        self._stream = stream
        self._keep = keep
        # As they are: no call in between for each piece.
        self.recv = stream.recv
        self.send = stream.send
        self.send_eof = stream.send_eof
        self._closing = False

    @property
    def peer(self) -> str:
        return self._stream.peer

    @property
    def secured(self) -> bool:
        return True

    def stats(self) -> ConnectionStats:
        return self._conn.stats()

    async def aclose(self) -> None:
        """End the stream, wait a little until the peer has all of it, and close the connection."""
        if self._closing:
            return
        self._closing = True
        await self._stream.aclose()
        with contextlib.suppress(TimeoutError, ConnectionError):  # the peer is gone; nothing is left to do
            async with asyncio.timeout(DRAIN_S):
                await self._stream.drained()
        self._keep()
        await self._conn.close()


class Dialled(NamedTuple):
    """A connection whose handshake is done. `keep` is to be called before it is closed: it puts away what the server
    gave for the next one."""

    conn: QuicSocket
    keep: Callable[[], None]


async def connect_stream(net: ClientNet, address: Address, alpn: bytes) -> ConnectionStream:
    """Connect to `address`, trying all that its name resolves to, and open the stream.

    Raises ConnectionError with a sentence that names the host.
    """
    conn, keep = await dial(net, address, alpn)
    try:
        return ConnectionStream(conn, await conn.wait_open_stream(), keep)
    except BaseException as error:
        await conn.close()
        if isinstance(error, OSError):
            raise _sentence(error, address) from error
        raise


async def dial(
    net: ClientNet,
    address: Address,
    alpn: bytes,
    shape: Callable[[ConnectionConfig], ConnectionConfig] = lambda config: config,
) -> Dialled:
    """Connect to `address`, trying all that its name resolves to. `shape` makes the protocol's own configuration of
    ours.

    Raises ConnectionError with a sentence that names the host.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise ConnectionError(f"the name {address.host} cannot be resolved: {error.strerror}") from error
    hosts = list(dict.fromkeys(str(result[4][0]) for result in found))
    config = shape(ConnectionConfig(keep_alive=KEEP_ALIVE_S, trace=QlogDirectory.from_environment()))
    failure: OSError | None = None
    for number, host in enumerate(hosts, 1):
        target = (host, address.port)
        limit = HANDSHAKE_S if number == len(hosts) else OTHER_ADDRESS_S
        for auth_mode in net.auth_modes:
            try:
                return await _dial(net, address, target, alpn, auth_mode, limit, config)
            except OSError as error:
                failure = error
                if not (isinstance(error, HandshakeError) and error.errno == errno.ENOENT):
                    break  # it is no lack of a certificate of our own
    assert failure is not None, "a name that resolves has an address"
    raise _sentence(failure, address) from failure


async def _dial(
    net: ClientNet,
    address: Address,
    target: tuple[str, int],
    alpn: bytes,
    auth_mode: AuthMode,
    limit: float,
    config: ConnectionConfig,
) -> Dialled:
    conn = QuicSocket(net.net, config=config)
    where = address, alpn, auth_mode
    kept = net.sessions.take(*where)
    name = address.host.partition("%")[0]

    def keep() -> None:
        session = KeptSession(conn.getsockopt(SockOpt.SESSION_TICKET), conn.getsockopt(SockOpt.TOKEN))
        net.sessions.put(*where, session)

    try:
        conn.setsockopt(SockOpt.ALPN, alpn)
        # No early data: a request that somebody replays would be carried out twice (RFC 9001 §9.2).
        conn.setsockopt(SockOpt.CONFIG, replace(conn.options, receive_session_ticket=TICKET_S).pack())
        conn.setsockopt(SockOpt.SESSION_TICKET, kept.ticket)
        conn.setsockopt(SockOpt.TOKEN, kept.token)
        await conn.connect(target)
        await conn.handshake(HandshakeRequest(MessageType.CLIENTHELLO, int(limit * 1000), auth_mode, name))
    except BaseException:
        await conn.close()
        raise
    return Dialled(conn, keep)


def _sentence(failure: OSError, address: Address) -> ConnectionError:
    if isinstance(failure, HandshakeError):
        return ConnectionError(str(failure))
    reason = failure.reason if isinstance(failure, ClosedError) else failure.strerror
    return ConnectionError(
        f"{address} cannot be reached: {reason or failure}; check the address, and that the server runs"
    )

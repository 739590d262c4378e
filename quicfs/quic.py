"""QUIC as the commands use it: connections of one stream, with the TLS handshake done by an agent.

What SMB needs (and `perf`) is one bidirectional stream that the client opens; it and its connection begin and
end together.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final

from quicfs.agents import ClientNet
from quicfs.sessions import KeptSession
from quicfs.transport.bytestream import ByteStream
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.errors import ClosedError
from quicfs.transport.handshake import HandshakeError, HandshakeNet, HandshakeRequest
from quicfs.transport.qlog.directory import QlogDirectory
from quicfs.transport.quic_stream import QuicStream
from quicfs.transport.socket import QuicSocket
from quicfs.transport.stats import ConnectionStats
from quicfs.transport.uapi import AuthMode, MessageType, SockOpt
from quicfs.url import Address

__all__ = ["ConnectionStream", "QuicListener", "connect_stream", "listen_streams"]

_log = logging.getLogger("quicfs.quic")

HANDSHAKE_S: Final = 10.0
OTHER_ADDRESS_S: Final = 3.0
"""For a handshake when the host has more addresses to try."""
KEEP_ALIVE_S: Final = 15.0
"""Half of the usual idle timeout: a mount that nobody uses for a while stays connected."""
TICKET_S: Final = 10
"""How long after the handshake a session ticket is taken."""
FIRST_STREAM_S: Final = 15.0
"""How long a client may be connected without opening its stream."""
DRAIN_S: Final = 3.0
MAX_CONNECTIONS: Final = 4096


class ConnectionStream:
    """The only stream of its connection, which ends with it. Satisfies `ByteStream`. `keep` gets what the server gave
    for the next connection."""

    def __init__(
        self,
        conn: QuicSocket,
        stream: QuicStream,
        keep: Callable[[KeptSession], None] = lambda session: None,
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
        conn = self._conn
        self._keep(KeptSession(conn.getsockopt(SockOpt.SESSION_TICKET), conn.getsockopt(SockOpt.TOKEN)))
        await conn.close()


async def connect_stream(net: ClientNet, address: Address, alpn: bytes) -> ConnectionStream:
    """Connect to `address`, trying all that its name resolves to, and open the stream.

    Raises ConnectionError with a sentence that names the host.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise ConnectionError(f"the name {address.host} cannot be resolved: {error.strerror}") from error
    hosts = list(dict.fromkeys(str(result[4][0]) for result in found))
    failure: OSError | None = None
    for number, host in enumerate(hosts, 1):
        target = (host, address.port)
        limit = HANDSHAKE_S if number == len(hosts) else OTHER_ADDRESS_S
        for auth_mode in net.auth_modes:
            try:
                return await _connect(net, address, target, alpn, auth_mode, limit)
            except OSError as error:
                failure = error
                if not (isinstance(error, HandshakeError) and error.errno == errno.ENOENT):
                    break  # it is no lack of a certificate of our own
    assert failure is not None, "a name that resolves has an address"
    raise _sentence(failure, address) from failure


async def _connect(
    net: ClientNet, address: Address, target: tuple[str, int], alpn: bytes, auth_mode: AuthMode, limit: float
) -> ConnectionStream:
    config = ConnectionConfig(keep_alive=KEEP_ALIVE_S, trace=QlogDirectory.from_environment())
    conn = QuicSocket(net.net, config=config)
    where = address, alpn, auth_mode
    kept = net.sessions.take(*where)
    name = address.host.partition("%")[0]
    try:
        conn.setsockopt(SockOpt.ALPN, alpn)
        # No early data: an SMB request that somebody replays would be carried out twice (RFC 9001 §9.2).
        conn.setsockopt(SockOpt.CONFIG, replace(conn.options, receive_session_ticket=TICKET_S).pack())
        conn.setsockopt(SockOpt.SESSION_TICKET, kept.ticket)
        conn.setsockopt(SockOpt.TOKEN, kept.token)
        await conn.connect(target)
        await conn.handshake(HandshakeRequest(MessageType.CLIENTHELLO, int(limit * 1000), auth_mode, name))
        return ConnectionStream(conn, await conn.wait_open_stream(), partial(net.sessions.put, *where))
    except BaseException:
        await conn.close()
        raise


def _sentence(failure: OSError, address: Address) -> ConnectionError:
    if isinstance(failure, HandshakeError):
        return ConnectionError(str(failure))
    reason = failure.reason if isinstance(failure, ClosedError) else failure.strerror
    return ConnectionError(
        f"{address} cannot be reached: {reason or failure}; check the address, and that the server runs"
    )


class QuicListener:
    """Listening sockets; each connection runs `on_stream` with its stream in a task of its own."""

    def __init__(
        self,
        net: HandshakeNet,
        alpn: bytes,
        on_stream: Callable[[ByteStream], Awaitable[None]],
        reset_key: bytes | None,
        *,
        session_tickets: bool,
    ) -> None:
        self._net = net
        self._session_tickets = session_tickets
        self._reset_key = reset_key
        self._alpn = alpn
        self._on_stream = on_stream
        self._sockets: list[QuicSocket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> Address:
        """The first of them, with the port that it really has."""
        return Address(*self._sockets[0].getsockname()[:2])

    def add(self, address: tuple[str, int]) -> None:
        """Raises OSError whose text names the address."""
        config = ConnectionConfig(
            trace=QlogDirectory.from_environment(), reset_key=self._reset_key_of(address)
        )
        listener = QuicSocket(self._net, config=config)
        listener.setsockopt(SockOpt.ALPN, self._alpn)
        options = replace(listener.options, no_session_ticket=int(not self._session_tickets))
        listener.setsockopt(SockOpt.CONFIG, options.pack())
        listener.bind(address)
        try:
            listener.listen()
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"cannot listen on UDP {Address(*address)}: {reason}") from error
        self._sockets.append(listener)
        self._accepting.append(asyncio.create_task(self._accept(listener)))

    def _reset_key_of(self, address: tuple[str, int]) -> bytes | None:
        """Each address has its own: a server must not be able to reset what belongs to another (RFC 9000 §21.11)."""
        if self._reset_key is None or not address[1]:
            return None
        return hmac.digest(self._reset_key, "{} {}".format(*address).encode(), "sha256")

    async def aclose(self) -> None:
        """Stop listening and end the connections that are being served."""
        tasks = [*self._accepting, *self._serving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._sockets:
            await listener.close()

    async def _accept(self, listener: QuicSocket) -> None:
        while True:
            conn = await listener.accept()
            if len(self._serving) >= MAX_CONNECTIONS:
                _log.warning("%s: sent away, %d connections are open", conn.peer, MAX_CONNECTIONS)
                await conn.close()
                continue
            task = asyncio.create_task(self._serve(conn))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, conn: QuicSocket) -> None:
        peer = conn.peer
        try:
            request = HandshakeRequest(MessageType.SERVERHELLO, int(HANDSHAKE_S * 1000), AuthMode.X509)
            await conn.handshake(request)
            async with asyncio.timeout(FIRST_STREAM_S):
                stream = ConnectionStream(conn, await conn.accept_stream())
            try:
                await self._on_stream(stream)
            finally:
                await stream.aclose()
        except OSError as error:  # ConnectionError, HandshakeError and TimeoutError are
            _log.info("%s: %s", peer, error or "opened no stream")
        except Exception:
            _log.exception("%s: serving the connection failed", peer)
        finally:
            await conn.close()
            _log.info("%s: %s", peer, conn.stats())


async def listen_streams(
    net: HandshakeNet,
    address: Address,
    alpn: bytes,
    on_stream: Callable[[ByteStream], Awaitable[None]],
    *,
    reset_key: bytes | None = None,
    session_tickets: bool = True,
) -> QuicListener:
    """Listen on every address of `address.host`. Port 0 takes a free one, the same for all of them.

    A server that comes back on the same port with the same `reset_key` resets the connections of its former life.
    `session_tickets` False: clients get none, for those that cannot bear them.

    Raises OSError whose text names the address.
    """
    loop = asyncio.get_running_loop()
    listener = QuicListener(net, alpn, on_stream, reset_key, session_tickets=session_tickets)
    try:
        found = await loop.getaddrinfo(*address.pair, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
    port = address.port
    try:
        for target in dict.fromkeys(result[4][0] for result in found):
            listener.add((str(target), port))
            port = listener.address.port
    except BaseException:
        await listener.aclose()
        raise
    return listener

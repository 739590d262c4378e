"""Listening for QUIC: several protocols on one UDP port, told apart by what clients offer (ALPN)."""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from quicfs.quic import HANDSHAKE_S, ConnectionStream
from quicfs.transport.bytestream import ByteStream
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.handshake import HandshakeNet, HandshakeRequest
from quicfs.transport.qlog.directory import QlogDirectory
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import AuthMode, MessageType, SockOpt
from quicfs.url import Address

__all__ = ["Protocol", "QuicListener", "listen_quic", "listen_streams", "one_stream"]

_log = logging.getLogger("quicfs.quic")

FIRST_STREAM_S: Final = 15.0
"""How long a client may be connected without opening its stream."""
MAX_CONNECTIONS: Final = 4096

OnConnection = Callable[[QuicSocket], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Protocol:
    """`serve` gets connections whose handshake is done, and returns when they are served. `session_tickets` False:
    clients get none, for those that cannot bear them. `shape` makes the protocol's own configuration of ours."""

    alpn: bytes
    serve: OnConnection
    session_tickets: bool = True
    shape: Callable[[ConnectionConfig], ConnectionConfig] = lambda config: config


def one_stream(on_stream: Callable[[ByteStream], Awaitable[None]]) -> OnConnection:
    """For protocols that use one stream of a connection, which ends with it."""

    async def serve(conn: QuicSocket) -> None:
        async with asyncio.timeout(FIRST_STREAM_S):
            stream = ConnectionStream(conn, await conn.accept_stream())
        try:
            await on_stream(stream)
        finally:
            await stream.aclose()

    return serve


class QuicListener:
    """Listening sockets; each connection is served by a task of its own."""

    def __init__(
        self, net: HandshakeNet, reset_key: bytes | None, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self._net = net
        self._reset_key = reset_key
        self._max_connections = max_connections
        self._sockets: list[QuicSocket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> Address:
        """The first of them, with the port that it really has."""
        return Address(*self._sockets[0].getsockname()[:2])

    def add(self, address: tuple[str, int], protocol: Protocol) -> None:
        """Raises OSError whose text names the address."""
        config = ConnectionConfig(
            trace=QlogDirectory.from_environment(), reset_key=self._reset_key_of(address)
        )
        listener = QuicSocket(self._net, config=protocol.shape(config))
        listener.setsockopt(SockOpt.ALPN, protocol.alpn)
        options = replace(listener.options, no_session_ticket=int(not protocol.session_tickets))
        listener.setsockopt(SockOpt.CONFIG, options.pack())
        listener.bind(address)
        try:
            listener.listen()
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"cannot listen on UDP {Address(*address)}: {reason}") from error
        self._sockets.append(listener)
        self._accepting.append(asyncio.create_task(self._accept(listener, protocol)))

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

    async def _accept(self, listener: QuicSocket, protocol: Protocol) -> None:
        while True:
            conn = await listener.accept()
            if len(self._serving) >= self._max_connections:
                _log.warning("%s: sent away, %d connections are open", conn.peer, self._max_connections)
                await conn.close()
                continue
            task = asyncio.create_task(self._serve(conn, protocol))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, conn: QuicSocket, protocol: Protocol) -> None:
        peer = conn.peer
        try:
            request = HandshakeRequest(MessageType.SERVERHELLO, int(HANDSHAKE_S * 1000), AuthMode.X509)
            await conn.handshake(request)
            await protocol.serve(conn)
        except OSError as error:  # ConnectionError, HandshakeError and TimeoutError are
            _log.info("%s: %s", peer, error or "opened no stream")
        except Exception:
            _log.exception("%s: serving the connection failed", peer)
        finally:
            await conn.close()
            _log.info("%s: %s", peer, conn.stats())


async def listen_quic(
    net: HandshakeNet,
    address: Address,
    protocols: Sequence[Protocol],
    *,
    reset_key: bytes | None = None,
    max_connections: int = MAX_CONNECTIONS,
) -> QuicListener:
    """Listen on every address of `address.host`. Port 0 takes a free one, the same for all of them.

    A server that comes back on the same port with the same `reset_key` resets the connections of its former life.

    Raises OSError whose text names the address.
    """
    loop = asyncio.get_running_loop()
    listener = QuicListener(net, reset_key, max_connections)
    try:
        found = await loop.getaddrinfo(*address.pair, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
    port = address.port
    try:
        for target in dict.fromkeys(result[4][0] for result in found):
            for protocol in protocols:
                listener.add((str(target), port), protocol)
                port = listener.address.port
    except BaseException:
        await listener.aclose()
        raise
    return listener


async def listen_streams(
    net: HandshakeNet,
    address: Address,
    alpn: bytes,
    on_stream: Callable[[ByteStream], Awaitable[None]],
    *,
    reset_key: bytes | None = None,
    session_tickets: bool = True,
) -> QuicListener:
    """`listen_quic` for one protocol that uses one stream of a connection."""
    protocol = Protocol(alpn, one_stream(on_stream), session_tickets)
    return await listen_quic(net, address, [protocol], reset_key=reset_key)

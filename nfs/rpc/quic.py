"""RPC on QUIC (draft-cel-nfsv4-rpc-over-quicv1-06).

Both ends are alike: who creates a stream calls on it, and the other end answers there (§3.4). The client's streams
carry its requests; streams that the server creates carry callbacks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from quicfs.nfs import limits
from quicfs.nfs.rpc.certificate import PeerCertificate
from quicfs.nfs.rpc.client import RpcClient
from quicfs.nfs.rpc.errors import RpcErrorCode, give_up
from quicfs.nfs.rpc.service import Peer, Program, serve
from quicfs.transport.early_data import EarlyState
from quicfs.transport.streams import is_unidirectional
from quicfs.transport.uapi import QUIC_VERSION_1

if TYPE_CHECKING:
    from quicfs.transport.config import ConnectionConfig
    from quicfs.transport.conn import Connection
    from quicfs.transport.quic_stream import QuicStream

__all__ = [
    "ALPN",
    "NoMoreStreams",
    "QuicPeer",
    "RpcConnection",
    "RpcErrorCode",
    "rpc_config",
    "serve_connection",
]

_log: Final = logging.getLogger("quicfs.nfs")

ALPN: Final = b"sunrpc"
"""§7.2"""


class NoMoreStreams(BlockingIOError):
    """The other end allows no further stream now (§3.1.1.2). What is open goes on."""


class RpcSocket(Protocol):
    """What is needed of a `QuicSocket` whose handshake is done."""

    channel_binding: bytes
    peer_certificate: bytes

    @property
    def connection(self) -> Connection: ...

    @property
    def peer(self) -> str: ...

    def open_stream(self, *, unidirectional: bool = False, report: bool = True) -> QuicStream: ...

    async def accept_stream(self) -> QuicStream: ...

    async def close(self, code: int | None = None, phrase: str | None = None) -> None: ...


def rpc_config(config: ConnectionConfig) -> ConnectionConfig:
    """With what RPC asks for: QUIC version 1 and no other (§3), as many streams as we serve, and none that go one way
    only (§3.4)."""
    parameters = replace(
        config.parameters, initial_max_streams_bidi=limits.MAX_STREAMS, initial_max_streams_uni=0
    )
    return replace(config, parameters=parameters, versions=(QUIC_VERSION_1,), version=QUIC_VERSION_1)


class QuicPeer(Peer):
    """A stream that the other end created; what TLS knows of it is the same for all streams of the connection."""

    def __init__(self, connection: RpcConnection, stream: QuicStream) -> None:
        super().__init__(
            f"{stream.peer} stream {stream.stream_id}",
            secured=True,
            certificate=connection.certificate,
            binding=connection.binding,
            transport=connection,
        )
        self._connection = connection

    async def open_backchannel(self) -> RpcClient:
        try:
            return await self._connection.open()
        except NoMoreStreams as error:
            raise ConnectionError(f"{self.name} allows us no stream to call it back") from error


class RpcConnection:
    """One end of a QUIC connection whose handshake is done, client or server. `programs` answer on the streams that the
    other end creates: a server's clients, or a client's callbacks. Takes `conn` over.

    `certificate` and `binding` are what `Peer` has of them.
    """

    def __init__(self, conn: RpcSocket, programs: Sequence[Program] = ()) -> None:
        if conn.connection.early.state is not EarlyState.NONE:
            # §6: RPC-over-QUIC implementations MUST NOT use 0-RTT data.
            raise ValueError("RPC is not used on a connection with early data")
        self.conn = conn
        self.alive = True
        self.binding = conn.channel_binding or None
        self.certificate = PeerCertificate.of(conn.peer_certificate) if conn.peer_certificate else None
        self._programs = programs
        self._serving: set[asyncio.Task[None]] = set()
        self._clients: set[RpcClient] = set()
        self._on_close: list[Callable[[RpcConnection], None]] = []
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def open(self) -> RpcClient:
        """A stream of ours. NoMoreStreams when the other end allows none now, ConnectionError when it is gone."""
        try:
            stream = self.conn.open_stream()
        except BlockingIOError as error:
            raise NoMoreStreams(*error.args) from None
        client = RpcClient(stream)
        self._clients.add(client)
        client.on_close(self._clients.discard)
        return client

    @property
    def streams(self) -> int:
        """Streams in use, of both ends."""
        return len(self._clients) + len(self._serving)

    def on_close(self, callback: Callable[[RpcConnection], None]) -> None:
        """Called once, when the connection is over; at once if it is."""
        if self.alive:
            self._on_close.append(callback)
        else:
            callback(self)

    async def wait_closed(self) -> None:
        """Until the connection is over, and what its streams had begun is done."""
        await asyncio.wait({self._accepting})
        while self._serving:
            await asyncio.wait(set(self._serving))

    async def aclose(self, code: RpcErrorCode = RpcErrorCode.NO_ERROR) -> None:
        """Close the connection at once, with all its streams. Twice is allowed."""
        tasks = [self._accepting, *self._serving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in list(self._clients):
            await client.aclose()
        await self.conn.close(code)
        self._over()

    async def _accept(self) -> None:
        try:
            while True:
                stream = await self.conn.accept_stream()
                if stream.early:  # §6
                    _log.warning("%s sent early data", stream.peer)
                    await self.conn.close(RpcErrorCode.PROTOCOL_VIOLATION, "0-RTT is not for RPC")
                elif is_unidirectional(stream.stream_id):
                    stream.stop_sending(RpcErrorCode.PROTOCOL_VIOLATION)  # §3.4: only bidirectional ones
                elif len(self._serving) >= limits.MAX_STREAMS:
                    await give_up(stream, RpcErrorCode.SERVER_BUSY)  # §3.1.1.2
                else:
                    self._serve(stream)
        except ConnectionError as error:
            _log.debug("%s: %s", self.conn.peer, error)
        finally:
            self._over()

    def _serve(self, stream: QuicStream) -> None:
        task = asyncio.get_running_loop().create_task(serve(stream, self._programs, QuicPeer(self, stream)))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    def _over(self) -> None:
        if self.alive:
            self.alive = False
            for client in list(self._clients):
                client.lost(f"the connection to {self.conn.peer} is over")
            callbacks, self._on_close = self._on_close, []
            for callback in callbacks:
                callback(self)


async def serve_connection(conn: RpcSocket, programs: Sequence[Program]) -> None:
    """The server's side of a connection whose handshake is done, until it is over."""
    if conn.connection.version != QUIC_VERSION_1:
        # §3. A server that has other protocols on the same port may have been reached in another version.
        await conn.close(RpcErrorCode.PROTOCOL_VIOLATION, "RPC is defined for QUIC version 1")
        return
    connection = RpcConnection(conn, programs)
    try:
        await connection.wait_closed()
    finally:
        await connection.aclose()

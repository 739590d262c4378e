"""QUIC for clients that have none: each TCP connection is passed on to a stream of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from quicfs.agents import ClientNet, client_net
from quicfs.nfs.rpc.quic import rpc_config
from quicfs.options import AgentOptions
from quicfs.passing import CODES, pass_on
from quicfs.quic import Dialled, dial
from quicfs.service import announce, tell_service_manager, told_to_stop
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.quic_stream import QuicStream
from quicfs.transport.tcp_stream import TcpStream, listen_tcp
from quicfs.url import DEFAULT_PORT, NFS, SMB, Address

__all__ = ["PORTS", "ConnectOptions", "connect_until_told"]

_log = logging.getLogger("quicfs.connect")

PORTS: Final = {NFS: DEFAULT_PORT, SMB: DEFAULT_PORT}
_ALPN: Final = {NFS: b"sunrpc", SMB: b"smb"}


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    listen: Address
    scheme: str  # of PORTS
    server: Address
    max_connections: int
    agent: AgentOptions


async def connect_until_told(options: ConnectOptions) -> None:
    """Until SIGINT or SIGTERM. Prints a line when it listens; whether the server is there shows when somebody comes."""
    async with AsyncExitStack() as cleanup:
        told = told_to_stop()
        net = await cleanup.enter_async_context(client_net(options.agent))
        trunks = _Trunks(net, options)
        listener = await listen_tcp(options.listen.host, options.listen.port, trunks.on_tcp)
        cleanup.push_async_callback(listener.aclose)
        addresses = ", ".join(str(Address(*pair)) for pair in listener.addresses)
        announce(f"passing TCP {addresses} on to {options.scheme}://{options.server}")
        await told.wait()
        tell_service_manager("STOPPING=1")


def _no_incoming(config: ConnectionConfig) -> ConnectionConfig:
    """A stream that the server would open belongs to none of the TCP connections: it is not allowed any."""
    parameters = replace(config.parameters, initial_max_streams_bidi=0, initial_max_streams_uni=0)
    return replace(config, parameters=parameters)


def _nfs_config(config: ConnectionConfig) -> ConnectionConfig:
    return _no_incoming(rpc_config(config))


class _Trunks:
    """The QUIC connections. Those of NFS are shared, as many streams as the server allows; SMB has one stream on
    each."""

    def __init__(self, net: ClientNet, options: ConnectOptions) -> None:
        self._net = net
        self._options = options
        self._alpn = _ALPN[options.scheme]
        self._shared = options.scheme == NFS
        self._users: dict[Dialled, int] = {}
        self._dialling = asyncio.Lock()
        self._open = 0

    async def on_tcp(self, tcp: TcpStream) -> None:
        if self._open >= self._options.max_connections:
            _log.warning("%s: sent away, %d connections are open", tcp.peer, self._open)
            tcp.abort()
            return
        self._open += 1
        try:
            async with self._stream() as stream:
                await pass_on(stream, tcp, CODES[self._alpn])
        except ConnectionError as error:
            _log.warning("%s: %s", tcp.peer, error)
            tcp.abort()
        finally:
            self._open -= 1

    @asynccontextmanager
    async def _stream(self) -> AsyncIterator[QuicStream]:
        trunk, stream = await self._begin()
        try:
            yield stream
        finally:
            self._users[trunk] -= 1
            if not self._users[trunk]:
                del self._users[trunk]
                trunk.keep()
                await trunk.conn.close()

    async def _begin(self) -> tuple[Dialled, QuicStream]:
        async with self._dialling:  # who comes meanwhile shares what the first one gets
            if self._shared:
                for trunk in list(self._users):
                    try:
                        stream = trunk.conn.open_stream()
                    except (BlockingIOError, ConnectionError):
                        continue  # full, or gone
                    self._users[trunk] += 1
                    return trunk, stream
            shape = _nfs_config if self._shared else _no_incoming
            trunk = await dial(self._net, self._options.server, self._alpn, shape)
            self._users[trunk] = 1
        try:
            return trunk, await trunk.conn.wait_open_stream()
        except BaseException:
            del self._users[trunk]
            await trunk.conn.close()
            raise

"""QUIC for servers that have none: each stream is passed on to a TCP connection of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

from quicfs.agents import server_net
from quicfs.listen import Protocol, listen_quic
from quicfs.nfs.rpc.quic import rpc_config
from quicfs.options import AgentOptions
from quicfs.passing import CODES, pass_on, refuse
from quicfs.places import state_directory
from quicfs.reset_key import kept_reset_key
from quicfs.service import announce, reachable, tell_service_manager, told_to_stop
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.quic_stream import QuicStream
from quicfs.transport.socket import QuicSocket
from quicfs.transport.streams import is_unidirectional
from quicfs.transport.tcp_stream import connect_tcp
from quicfs.url import Address, Url

__all__ = ["PORTS", "GatewayOptions", "gateway_until_told"]

_log = logging.getLogger("quicfs.gateway")

PORTS: Final = {"nfs": 2049, "smb": 445}
"""What may stand behind a gateway, and where it usually listens."""
MAX_STREAMS: Final = 64
"""Of one QUIC connection at a time."""
IDLE_S: Final = 60.0
"""How long a QUIC connection may be without a stream."""


def _smb_config(config: ConnectionConfig) -> ConnectionConfig:
    parameters = replace(config.parameters, initial_max_streams_bidi=MAX_STREAMS, initial_max_streams_uni=0)
    return replace(config, parameters=parameters)


@dataclass(frozen=True, slots=True)
class _Kind:
    alpn: bytes
    session_tickets: bool  # Samba's client (4.25) breaks the connection off when one comes
    ends_with_stream: bool  # the connection goes with its last stream
    shape: Callable[[ConnectionConfig], ConnectionConfig]


_KINDS: Final = {
    "nfs": _Kind(b"sunrpc", True, False, rpc_config),
    "smb": _Kind(b"smb", False, True, _smb_config),
}


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    listen: Address
    scheme: str  # of PORTS
    target: Address
    max_connections: int
    agent: AgentOptions


async def gateway_until_told(options: GatewayOptions) -> None:
    """Until SIGINT or SIGTERM. Prints one line when it serves."""
    async with AsyncExitStack() as cleanup:
        told = told_to_stop()
        kind = _KINDS[options.scheme]
        gateway = _Gateway(options.target, kind, options.max_connections)
        net = await cleanup.enter_async_context(server_net(options.agent))
        listener = await listen_quic(
            net,
            options.listen,
            [Protocol(kind.alpn, gateway.serve, kind.session_tickets, kind.shape)],
            reset_key=kept_reset_key(state_directory()),
            max_connections=options.max_connections,
        )
        cleanup.push_async_callback(listener.aclose)
        where = reachable(options.listen, listener.address.port)
        server = str(Url(where, "", scheme=f"{options.scheme}+quic")).removesuffix("/")
        announce(f"passing {server} on to {options.scheme} on TCP {options.target}")
        await told.wait()
        tell_service_manager("STOPPING=1")


class _Gateway:
    """All connections together open at most `limit` TCP connections."""

    def __init__(self, target: Address, kind: _Kind, limit: int) -> None:
        self._target = target
        self._kind = kind
        self._codes = CODES[kind.alpn]
        self._limit = limit
        self._open = 0

    async def serve(self, conn: QuicSocket) -> None:
        """One QUIC connection, until it is over or has had no stream for a while."""
        carried: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        patience = asyncio.timeout(IDLE_S)

        def done(task: asyncio.Task[None]) -> None:
            carried.discard(task)
            if not carried and not patience.expired():
                patience.reschedule(loop.time() + (0 if self._kind.ends_with_stream else IDLE_S))

        try:
            async with patience:
                while True:
                    stream = await conn.accept_stream()
                    if is_unidirectional(stream.stream_id):
                        stream.stop_sending(self._codes.broken)
                        continue
                    patience.reschedule(None)
                    task = loop.create_task(self._carry(stream))
                    carried.add(task)
                    task.add_done_callback(done)
        except TimeoutError:
            _log.info("%s: closed, it has no stream", conn.peer)
        finally:
            for task in carried:
                task.remove_done_callback(done)
                task.cancel()
            await asyncio.gather(*carried, return_exceptions=True)

    async def _carry(self, stream: QuicStream) -> None:
        if self._open >= self._limit:
            _log.warning("%s: a stream was refused, %d connections are open", stream.peer, self._limit)
            refuse(stream, self._codes.busy)
            return
        self._open += 1
        try:
            tcp = await connect_tcp(self._target.host, self._target.port)
        except ConnectionError as error:
            _log.warning("%s: a stream was refused: %s", stream.peer, error)
            refuse(stream, self._codes.broken)
        else:
            await pass_on(stream, tcp, self._codes)
        finally:
            self._open -= 1

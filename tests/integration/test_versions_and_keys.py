"""Versions of QUIC and key updates through the socket interface, with TLS done by a real agent."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable

import pytest

from quicfs.transport.config import ConnectionConfig
from quicfs.transport.handshake import HandshakeRequest
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import (
    QUIC_VERSION_1,
    QUIC_VERSION_2,
    AuthMode,
    Config,
    Event,
    EventOption,
    MessageType,
    MsgFlags,
    SockOpt,
)
from tests.integration.handshake_rig import NAME, Agents, Pki

from .test_quic_socket import net_of


def run(
    agents: Agents,
    pki: Pki,
    body: Callable[[QuicSocket, QuicSocket], Awaitable[None]],
    *,
    client_version: int = 0,
    server_version: int = 0,
    server_config: ConnectionConfig | None = None,
) -> None:
    """`body(client, server)` over a connection whose ends prefer these versions."""

    async def main() -> None:
        async with net_of(agents, pki) as net, asyncio.timeout(60):
            listener = QuicSocket(net, config=server_config)
            client = QuicSocket(net)
            for sock, version in ((listener, server_version), (client, client_version)):
                sock.setsockopt(SockOpt.ALPN, b"one")
                sock.setsockopt(SockOpt.CONFIG, Config(version=version, receive_session_ticket=0).pack())
            listener.bind(("127.0.0.1", 0))
            listener.listen()

            async def serve() -> QuicSocket:
                conn = await listener.accept()
                await conn.handshake(HandshakeRequest(MessageType.SERVERHELLO, auth_mode=AuthMode.X509))
                return conn

            serving = asyncio.ensure_future(serve())
            await client.connect(("127.0.0.1", listener.getsockname()[1]))
            await client.handshake(HandshakeRequest(MessageType.CLIENTHELLO, peername=NAME, timeout_ms=5000))
            server = await serving
            try:
                await body(client, server)
            finally:
                for sock in (client, server, listener):
                    await sock.close()
                await client.wait_closed()
                await listener.wait_closed()

    asyncio.run(main())


async def exchange(client: QuicSocket, server: QuicSocket) -> None:
    stream = client.open_stream()
    await stream.send(b"question")
    other = await server.accept_stream()
    assert bytes(await other.recv()) == b"question"
    await other.send(b"answer")
    assert bytes(await stream.recv()) == b"answer"


@pytest.mark.parametrize(
    ("client_version", "server_version", "in_use"),
    [
        (0, 0, QUIC_VERSION_1),
        (QUIC_VERSION_2, 0, QUIC_VERSION_2),
        (0, QUIC_VERSION_2, QUIC_VERSION_2),
        (QUIC_VERSION_2, QUIC_VERSION_1, QUIC_VERSION_1),
    ],
)
def test_versions(agents: Agents, pki: Pki, client_version: int, server_version: int, in_use: int) -> None:
    async def body(client: QuicSocket, server: QuicSocket) -> None:
        assert client.connection.version == server.connection.version == in_use
        await exchange(client, server)

    run(agents, pki, body, client_version=client_version, server_version=server_version)


def test_begins_anew_in_the_servers_version(agents: Agents, pki: Pki) -> None:
    """RFC 9368 §2.1: a second ClientHello, by a second handshake request."""

    async def body(client: QuicSocket, server: QuicSocket) -> None:
        assert client.connection.version == server.connection.version == QUIC_VERSION_2
        assert client.connection.versions.reacted
        await exchange(client, server)

    run(agents, pki, body, server_config=ConnectionConfig(versions=(QUIC_VERSION_2,)))


def test_key_update(agents: Agents, pki: Pki) -> None:
    async def body(client: QuicSocket, server: QuicSocket) -> None:
        for sock in (client, server):
            sock.setsockopt(SockOpt.EVENT, EventOption(Event.KEY_UPDATE, 1).pack())
        await exchange(client, server)
        client.setsockopt(SockOpt.KEY_UPDATE, b"")
        with pytest.raises(OSError) as caught:
            client.setsockopt(SockOpt.KEY_UPDATE, b"")
        assert caught.value.errno == errno.EINVAL
        for sock in (client, server):
            received = await sock.recvmsg()
            assert bytes(received.data) == bytes((Event.KEY_UPDATE, 1))
            assert received.flags & MsgFlags.NOTIFICATION
        await exchange(client, server)
        assert client.connection.key_phases.updates == server.connection.key_phases.updates == 1

    run(agents, pki, body)


def test_unknown_version(agents: Agents, pki: Pki) -> None:
    async def main() -> None:
        async with net_of(agents, pki) as net:
            sock = QuicSocket(net)
            with pytest.raises(OSError, match="0xff000020 is not spoken"):
                sock.setsockopt(SockOpt.CONFIG, Config(version=0xFF000020, receive_session_ticket=0).pack())

    asyncio.run(main())

"""Migration over real sockets: other local addresses, preferred addresses, IPv4 and IPv6."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

import pytest

from quicfs.transport import sockaddr
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.handshake import HandshakeNet, HandshakeRequest
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import AuthMode, ConnectionIdInfo, Event, EventOption, MessageType, SockOpt
from tests.integration.handshake_rig import NAME, Agents, Pki
from tests.integration.test_quic_socket import net_of

Body = Callable[[QuicSocket, QuicSocket], Awaitable[None]]


def make_listener(
    net: HandshakeNet,
    host: str,
    port: int = 0,
    preferred: tuple[str, int] | None = None,
    key: bytes | None = None,
) -> QuicSocket:
    listener = QuicSocket(net, config=ConnectionConfig(reset_key=key))
    listener.setsockopt(SockOpt.ALPN, b"one")
    listener.setsockopt(SockOpt.EVENT, EventOption(Event.CONNECTION_MIGRATION, 1).pack())
    if preferred is not None:
        listener.setsockopt(SockOpt.CONNECTION_MIGRATION, sockaddr.pack(preferred))
    listener.bind((host, port))
    listener.listen()
    return listener


async def serve(listener: QuicSocket) -> QuicSocket:
    conn = await listener.accept()
    await conn.handshake(HandshakeRequest(MessageType.SERVERHELLO, auth_mode=AuthMode.X509))
    return conn


async def dial(net: HandshakeNet, host: str, port: int) -> QuicSocket:
    conn = QuicSocket(net)
    conn.setsockopt(SockOpt.ALPN, b"one")
    conn.setsockopt(SockOpt.EVENT, EventOption(Event.CONNECTION_MIGRATION, 1).pack())
    await conn.connect((host, port))
    await conn.handshake(HandshakeRequest(MessageType.CLIENTHELLO, peername=NAME, timeout_ms=5000))
    return conn


def with_pair(
    agents: Agents,
    pki: Pki,
    body: Body,
    *,
    bind: str = "127.0.0.1",
    host: str = "127.0.0.1",
    preferred: tuple[str, int] | None = None,
) -> None:
    """Run `body(client, server)` over a connection of their own."""

    async def main() -> None:
        async with net_of(agents, pki) as net:
            listener = make_listener(net, bind, preferred=preferred)
            accepting = asyncio.ensure_future(serve(listener))
            client = await dial(net, host, listener.getsockname()[1])
            server = await accepting
            try:
                async with asyncio.timeout(60):
                    await body(client, server)
            finally:
                for sock in (client, server, listener):
                    await sock.close()
                await client.wait_closed()
                await listener.wait_closed()

    asyncio.run(main())


async def echo(client: QuicSocket, server: QuicSocket, size: int = 300_000) -> None:
    """Bytes to the server and back, on a stream of their own."""
    blob = bytes(range(256)) * (size // 256)
    stream = client.open_stream()

    async def serve_it() -> None:
        theirs = await server.accept_stream()
        while data := await theirs.recv():
            await theirs.send(bytes(data))
        await theirs.send_eof()

    serving = asyncio.ensure_future(serve_it())
    await stream.send(blob)
    await stream.send_eof()
    received = bytearray()
    while data := await stream.recv():
        received += data
    assert received == blob
    await serving


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come about")


@pytest.mark.parametrize(
    ("host", "to"),
    [("127.0.0.1", ("127.0.0.2", 0)), ("127.0.0.1", ("127.0.0.1", 0)), ("::1", ("::1", 0, 0, 0))],
    ids=["another address", "another port", "IPv6"],
)
def test_migration(agents: Agents, pki: Pki, host: str, to: tuple[str, int]) -> None:
    async def body(client: QuicSocket, server: QuicSocket) -> None:
        await echo(client, server)
        before = client.getsockname()
        client.setsockopt(SockOpt.CONNECTION_MIGRATION, sockaddr.pack(to))
        await echo(client, server, 2_000_000)
        await until(lambda: client.getsockname() != before)
        assert client.getsockname()[0] == to[0]
        await echo(client, server)
        assert server.getpeername()[:2] == client.getsockname()[:2]
        assert client.connection.events.popleft() == (Event.CONNECTION_MIGRATION, b"\1")
        assert server.connection.events.popleft() == (Event.CONNECTION_MIGRATION, b"\0")

    with_pair(agents, pki, body, bind=host, host=host)


def test_sockets_of_paths_that_are_left_are_closed(agents: Agents, pki: Pki) -> None:
    async def body(client: QuicSocket, server: QuicSocket) -> None:
        await echo(client, server)
        left = client.getsockname()
        client.setsockopt(SockOpt.CONNECTION_MIGRATION, sockaddr.pack(("127.0.0.3", 0)))
        await until(lambda: client.getsockname() != left)
        await until(lambda: len(client.connection.paths) == 1)
        await echo(client, server)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(left)

    with_pair(agents, pki, body)


def test_a_wildcard_listener_answers_from_where_it_was_spoken_to(agents: Agents, pki: Pki) -> None:
    async def body(client: QuicSocket, server: QuicSocket) -> None:
        await echo(client, server)
        client.setsockopt(SockOpt.CONNECTION_MIGRATION, sockaddr.pack(("127.0.0.4", 0)))
        await echo(client, server, 2_000_000)
        await until(lambda: client.getsockname()[0] == "127.0.0.4")

    with_pair(agents, pki, body, bind="", host="127.0.0.9")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_preferred_address(agents: Agents, pki: Pki, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    there = host if ":" in host else "127.0.0.7"
    with socket.socket(family, socket.SOCK_DGRAM) as free:
        free.bind((there, 0))
        port = free.getsockname()[1]

    async def body(client: QuicSocket, server: QuicSocket) -> None:
        await echo(client, server)
        await until(lambda: client.getpeername()[:2] == (there, port))
        await echo(client, server)
        assert server.connection.path.local.socket != 0

    with_pair(agents, pki, body, bind=host, host=host, preferred=(there, port))


def test_what_cannot_be(agents: Agents, pki: Pki) -> None:
    async def body(client: QuicSocket, server: QuicSocket) -> None:
        await echo(client, server)
        for sock, value, code in (
            (client, sockaddr.pack(("192.0.2.200", 0)), errno.EADDRNOTAVAIL),
            (client, b"\0\0", errno.EINVAL),
            (server, sockaddr.pack(("127.0.0.1", 0)), errno.EINVAL),
        ):
            with pytest.raises(OSError) as caught:
                sock.setsockopt(SockOpt.CONNECTION_MIGRATION, value)
            assert caught.value.errno == code
        await echo(client, server)

    with_pair(agents, pki, body)


def test_a_preferred_address_of_somebody_else_is_refused(agents: Agents, pki: Pki) -> None:
    async def main() -> None:
        async with net_of(agents, pki) as net:
            with pytest.raises(OSError) as caught:
                make_listener(net, "127.0.0.1", preferred=("192.0.2.200", 4433))
            assert caught.value.errno == errno.EADDRNOTAVAIL

    asyncio.run(main())


def test_connection_ids_are_rotated(agents: Agents, pki: Pki) -> None:
    async def body(client: QuicSocket, server: QuicSocket) -> None:
        await echo(client, server)
        client.setsockopt(SockOpt.EVENT, EventOption(Event.CONNECTION_ID, 1).pack())
        client.setsockopt(SockOpt.CONNECTION_ID, ConnectionIdInfo(0, 0, 2).pack())  # ours: the peer is asked
        client.setsockopt(SockOpt.CONNECTION_ID, ConnectionIdInfo(1, 0, 1).pack())  # the peer's
        await echo(client, server)
        ours = ConnectionIdInfo.unpack(client.getsockopt(SockOpt.CONNECTION_ID))
        theirs = ConnectionIdInfo.unpack(
            client.getsockopt(SockOpt.CONNECTION_ID, ConnectionIdInfo(1, 0, 0).pack())
        )
        assert ours.prior_to == 2 and ours.active >= 2
        assert theirs.prior_to >= 1 and theirs.active >= 1
        seen = {ConnectionIdInfo.unpack(payload).dest for _, payload in iter_events(client)}
        assert seen == {0, 1}
        with pytest.raises(OSError):
            client.setsockopt(SockOpt.CONNECTION_ID, ConnectionIdInfo(1, 99, 0).pack())

    with_pair(agents, pki, body)


def iter_events(sock: QuicSocket) -> list[tuple[Event, bytes]]:
    events = sock.connection.events
    return [events.popleft() for _ in range(len(events))]


def test_a_server_that_came_back_resets_the_connections_that_it_forgot(agents: Agents, pki: Pki) -> None:
    key = bytes(range(32))

    async def main() -> None:
        async with net_of(agents, pki) as net:
            listener = make_listener(net, "127.0.0.1", key=key)
            port = listener.getsockname()[1]
            accepting = asyncio.ensure_future(serve(listener))
            client = await dial(net, "127.0.0.1", port)
            server = await accepting
            await echo(client, server)
            server.connection.abandon("its process dies")
            await server.close()
            await listener.close()
            await listener.wait_closed()
            again = make_listener(net, "127.0.0.1", port, key=key)
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionError, match="lost its state"):
                    stream = client.open_stream()
                    while True:
                        await stream.send(bytes(1000))
                        await asyncio.sleep(0.01)
            for sock in (client, again):
                await sock.close()
            await client.wait_closed()
            await again.wait_closed()

    asyncio.run(main())

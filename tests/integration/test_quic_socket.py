"""The socket interface over real UDP, with TLS done by a real agent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from quicfs.transport.errors import ClosedError
from quicfs.transport.handshake import HandshakeError, HandshakeNet, HandshakeRequest
from quicfs.transport.quic_stream import StreamResetError
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import (
    AuthMode,
    Config,
    ErrInfo,
    MessageType,
    SockOpt,
    StreamFlags,
    TlsCipher,
    TransportParam,
)
from tests.integration.handshake_rig import NAME, Agents, Pki, toml


@contextlib.asynccontextmanager
async def net_of(agents: Agents, pki: Pki) -> AsyncIterator[HandshakeNet]:
    net = HandshakeNet()
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))
    net.attach(bus)
    try:
        yield net
    finally:
        net.close()


def listen(net: HandshakeNet, alpn: bytes, port: int = 0, host: str = "127.0.0.1") -> QuicSocket:
    listener = QuicSocket(net)
    listener.setsockopt(SockOpt.ALPN, alpn)
    listener.bind((host, port))
    listener.listen()
    return listener


async def serve_one(listener: QuicSocket) -> QuicSocket:
    conn = await listener.accept()
    await conn.handshake(HandshakeRequest(MessageType.SERVERHELLO, auth_mode=AuthMode.X509))
    return conn


async def dial(
    net: HandshakeNet, port: int, alpn: bytes, host: str = "127.0.0.1", config: Config | None = None
) -> QuicSocket:
    conn = QuicSocket(net)
    if config is not None:
        conn.setsockopt(SockOpt.CONFIG, config.pack())
    conn.setsockopt(SockOpt.ALPN, alpn)
    await conn.connect((host, port))
    try:
        await conn.handshake(HandshakeRequest(MessageType.CLIENTHELLO, peername=NAME, timeout_ms=5000))
    except BaseException:
        await conn.close()
        raise
    return conn


def with_pair(
    agents: Agents,
    pki: Pki,
    body: Callable[[QuicSocket, QuicSocket], Awaitable[None]],
    *,
    host: str = "127.0.0.1",
    config: Config | None = None,
) -> None:
    """Run `body(client, server)` over a connection of their own."""

    async def main() -> None:
        async with net_of(agents, pki) as net:
            listener = listen(net, b"one", host=host)
            accepting = asyncio.ensure_future(serve_one(listener))
            client = await dial(net, listener.getsockname()[1], b"one", host, config)
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


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_streams_both_ways(agents: Agents, pki: Pki, host: str) -> None:
    async def body(client: QuicSocket, server: QuicSocket) -> None:
        blob = bytes(range(256)) * 8192  # 2 MiB: more than the first windows
        for opener, acceptor in ((client, server), (server, client)):
            stream = opener.open_stream()

            async def write(stream=stream) -> None:  # type: ignore[no-untyped-def]
                await stream.send(blob[:1000], memoryview(blob)[1000:])
                await stream.send_eof()
                await stream.drained()

            writing = asyncio.ensure_future(write())
            other = await acceptor.accept_stream()
            assert other.stream_id == stream.stream_id and other.secured
            got = bytearray()
            while piece := await other.recv():
                got += piece
            assert got == blob
            await writing
            await other.send(b"thanks")
            assert bytes(await stream.recv()) == b"thanks"
            await other.aclose()
            assert bytes(await stream.recv()) == b""
        await client.close(7, "enough")
        with pytest.raises(ClosedError) as caught:
            await server.accept_stream()
        assert (caught.value.code, caught.value.is_application, caught.value.reason) == (7, True, "enough")

    with_pair(agents, pki, body, host=host)


def test_messages_as_linux_has_them(agents: Agents, pki: Pki) -> None:
    """sendmsg and recvmsg with STREAM_INFO, unidirectional streams, options that act on streams."""

    async def body(client: QuicSocket, server: QuicSocket) -> None:
        flags = StreamFlags.NEW | StreamFlags.UNI | StreamFlags.FIN
        assert await client.send(b"one", -1, flags) == (3, 2)
        assert await client.send(b"two", -1, StreamFlags.NEW) == (3, 0)
        assert await client.send(b" more", 0, StreamFlags.FIN) == (5, 0)
        found: dict[int, bytes] = {}
        ended: set[int] = set()
        while len(ended) < 2:
            data, stream_id, flag, *_ = await server.recv()
            found[stream_id] = found.get(stream_id, b"") + data
            if flag & StreamFlags.FIN:
                ended.add(stream_id)
        assert found == {2: b"one", 0: b"two more"}
        with pytest.raises(OSError) as caught:
            await client.send(b"x", 40)
        assert caught.value.errno == errno.EINVAL
        # RESET and STOP_SENDING reach the other end with their codes.
        stream = client.open_stream()
        await stream.send(b"never read")
        other = await server.accept_stream()
        while other.stream_id != stream.stream_id:
            other = await server.accept_stream()
        client.setsockopt(SockOpt.STREAM_RESET, ErrInfo(stream.stream_id, 5).pack())
        with pytest.raises(StreamResetError) as reset:
            while await other.recv():
                pass
        assert reset.value.code == 5
        client.setsockopt(SockOpt.STREAM_STOP_SENDING, ErrInfo(stream.stream_id, 6).pack())
        with pytest.raises(StreamResetError) as stopped:
            while True:
                await other.send(bytes(1 << 20))
        assert stopped.value.code == 6
        theirs = TransportParam.unpack(client.getsockopt(SockOpt.TRANSPORT_PARAM))
        assert theirs.max_streams_bidi and theirs.max_data
        with pytest.raises(OSError) as unknown:
            client.getsockopt(99)
        assert unknown.value.errno == errno.ENOPROTOOPT

    with_pair(agents, pki, body)


def test_more_streams_than_the_limit(agents: Agents, pki: Pki) -> None:
    """RFC 9000 §4.6: who has to wait for a stream gets one as soon as others are done."""

    async def body(client: QuicSocket, server: QuicSocket) -> None:
        count = 600  # the limit is 256 at one time

        async def echo() -> None:
            for _ in range(count):
                stream = await server.accept_stream()
                data = b""
                while piece := await stream.recv():
                    data += piece
                await stream.send(data)
                await stream.send_eof()

        async def ask(number: int) -> None:
            stream = await client.wait_open_stream()
            await stream.send(b"question %d" % number)
            await stream.send_eof()
            data = b""
            while piece := await stream.recv():
                data += piece
            assert data == b"question %d" % number

        serving = asyncio.ensure_future(echo())
        await asyncio.gather(*(ask(number) for number in range(count)))
        await serving

    with_pair(agents, pki, body)


@pytest.mark.parametrize(
    "cipher", [TlsCipher.AES_GCM_128, TlsCipher.AES_GCM_256, TlsCipher.CHACHA20_POLY1305]
)
def test_every_cipher(agents: Agents, pki: Pki, cipher: TlsCipher) -> None:
    async def body(client: QuicSocket, server: QuicSocket) -> None:
        keys = server.connection.application.keys_in
        assert (
            keys is not None
            and keys.suite.name
            == {
                TlsCipher.AES_GCM_128: "AES_128_GCM",
                TlsCipher.AES_GCM_256: "AES_256_GCM",
                TlsCipher.CHACHA20_POLY1305: "CHACHA20_POLY1305",
            }[cipher]
        )
        stream = client.open_stream()
        await stream.send(bytes(300_000))
        await stream.send_eof()
        other = await server.accept_stream()
        size = 0
        while piece := await other.recv():
            size += len(piece)
        assert size == 300_000

    with_pair(agents, pki, body, config=Config(payload_cipher_type=cipher))


def test_one_port_routes_by_alpn(agents: Agents, pki: Pki) -> None:
    async def main() -> None:
        async with net_of(agents, pki) as net:
            first = listen(net, b"one")
            port = first.getsockname()[1]
            second = listen(net, b"two", port)
            for listener, alpn in ((second, b"two"), (first, b"one"), (first, b"zero,one")):
                accepting = asyncio.ensure_future(serve_one(listener))
                client = await dial(net, port, alpn)
                server = await accepting
                stream = server.open_stream()
                await stream.send(alpn)
                assert bytes(await (await client.accept_stream()).recv()) == alpn
                await client.close()
                await server.close()
            with pytest.raises(HandshakeError) as caught:
                await dial(net, port, b"three")
            assert caught.value.errno == errno.EPROTONOSUPPORT
            await first.close()
            await second.close()
            await first.wait_closed()

    asyncio.run(main())


def test_a_client_that_must_prove_its_address(agents: Agents, pki: Pki) -> None:
    """RFC 9000 §8.1.2: Retry, and the handshake goes on with the token."""

    async def main() -> None:
        async with net_of(agents, pki) as net:
            listener = QuicSocket(net)
            listener.setsockopt(SockOpt.CONFIG, Config(validate_peer_address=1).pack())
            listener.setsockopt(SockOpt.ALPN, b"one")
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            accepting = asyncio.ensure_future(serve_one(listener))
            client = await dial(net, listener.getsockname()[1], b"one")
            assert client.connection.retry_scid is not None
            for sock in (client, await accepting, listener):
                await sock.close()
            await listener.wait_closed()

    asyncio.run(main())


def test_nonsense_is_dropped_and_said_once(
    agents: Agents, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with net_of(agents, pki) as net:
            listener = listen(net, b"one")
            address = listener.getsockname()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as scanner:
                for nonsense in (
                    b"",
                    b"\x00",
                    b"\x40short",
                    b"\xc0" + bytes(1199),
                    b"GET / HTTP/1.1\r\n\r\n",
                ):
                    scanner.sendto(nonsense, address)
            accepting = asyncio.ensure_future(serve_one(listener))
            client = await dial(net, address[1], b"one")
            for sock in (client, await accepting, listener):
                await sock.close()
            await listener.wait_closed()

    asyncio.run(main())
    assert ["no QUIC" in record.message for record in caplog.records] == [True]


def test_nobody_listens(agents: Agents, pki: Pki) -> None:
    """The kernel says so at once, and nobody waits for a timeout."""

    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        async with net_of(agents, pki) as net:
            async with asyncio.timeout(3):
                with pytest.raises(ClosedError):
                    await dial(net, port, b"one")

    asyncio.run(main())


def test_a_silent_server_is_given_up(agents: Agents, pki: Pki) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            async with net_of(agents, pki) as net:
                conn = QuicSocket(net)
                conn.setsockopt(SockOpt.ALPN, b"one")
                await conn.connect(silent.getsockname())
                with pytest.raises(HandshakeError) as caught:
                    await conn.handshake(HandshakeRequest(peername=NAME, timeout_ms=700))
                assert caught.value.errno == errno.ETIMEDOUT
                await conn.close()

    asyncio.run(main())


def test_misuse_is_told_apart(agents: Agents, pki: Pki, tmp_path: Path) -> None:
    async def main() -> None:
        net = HandshakeNet()
        sock = QuicSocket(net)
        for wrong, number in (
            (sock.listen, errno.EINVAL),
            (sock.getsockname, errno.EBADF),
            (sock.getpeername, errno.ENOTCONN),
            (lambda: sock.setsockopt(SockOpt.ALPN, b""), errno.EINVAL),
            (lambda: sock.setsockopt(SockOpt.CONFIG, b"short"), errno.EINVAL),
        ):
            with pytest.raises(OSError) as caught:
                wrong()
            assert caught.value.errno == number
        sock.setsockopt(SockOpt.ALPN, b"one")
        await sock.connect(("127.0.0.1", 9))
        with pytest.raises(HandshakeError) as none:
            await sock.handshake(HandshakeRequest(peername=NAME))
        assert none.value.errno == errno.ESRCH  # no agent
        await sock.close()
        net.close()

    asyncio.run(main())

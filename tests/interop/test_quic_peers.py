"""One stream each way with QUIC stacks that we did not write, as clients and as servers: aioquic and qh3.

Peers are processes (`peers/quic_peer.py`); our side is a QuicSocket in the test with a real agent process. Both
sides hash what they send and what they receive. aioquic moves some 9 MB/s, hence minutes rather than seconds.
"""

import asyncio
import hashlib
import importlib.util
import json
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quicfs.agents import AgentOptions, client_net, server_net
from quicfs.certs import CertificateFiles
from quicfs.transport.handshake import HandshakeRequest
from quicfs.transport.quic_stream import QuicStream
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import AuthMode, Config, MessageType, SockOpt, TlsCipher

PROGRAM = Path(__file__).with_name("peers") / "quic_peer.py"
ALPN = b"perf"
HEADER_SIZE = 8
SIZE = 100_000_000
DUPLEX_SIZE = 20_000_000
SMALL_SIZE = 1_000_000
DEFAULTS = Config()
BLOCK = memoryview(random.Random(2).randbytes(1 << 20))
STALL_S = 30.0  # without a byte of progress; how long all of it takes is the machine's business

Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """For transfers that take a moment."""


pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

TRANSFERS = pytest.mark.parametrize(
    ("upload", "download"),
    [
        pytest.param(SIZE, 0, id="upload"),
        pytest.param(0, SIZE, id="download"),
        pytest.param(DUPLEX_SIZE, DUPLEX_SIZE, id="both-at-once"),
    ],
)


@pytest.fixture(params=["aioquic", "qh3"])
def stack(request: pytest.FixtureRequest, need: Callable[[bool, str], None]) -> str:
    name: str = request.param
    need(importlib.util.find_spec(name) is not None, f"{name} (pip install -e '.[peers]')")
    return name


class Half:
    """One direction of a stream: what went by, and its hash."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.sha256()

    def add(self, piece: bytes | memoryview) -> None:
        self.count += len(piece)
        self._hash.update(piece)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


@dataclass(frozen=True)
class Transferred:
    sent: Half
    received: Half


async def send_content(stream: QuicStream, size: int, half: Half, tell: Callable[[], None]) -> None:
    while half.count < size:
        piece = BLOCK[: min(len(BLOCK), size - half.count)]
        async with asyncio.timeout(STALL_S):
            await stream.send(piece)
        half.add(piece)
        tell()


async def receive_all(stream: QuicStream, half: Half, tell: Callable[[], None]) -> None:
    while True:
        async with asyncio.timeout(STALL_S):
            piece = await stream.recv()
        if not piece:
            return
        half.add(piece)
        tell()


async def request(stream: QuicStream, upload: int, download: int, progress: Progress) -> Transferred:
    """The client's end of the protocol "perf" (peers/README.md)."""
    sent, received = Half(), Half()

    def tell() -> None:
        progress(sent.count + received.count, upload + download)

    async def send() -> None:
        await stream.send(download.to_bytes(HEADER_SIZE, "big"))
        await send_content(stream, upload, sent, tell)
        await stream.send_eof()

    await asyncio.gather(send(), receive_all(stream, received, tell))
    return Transferred(sent, received)


async def answer(stream: QuicStream, total: int, progress: Progress) -> Transferred:
    """The server's end of it."""
    sent, received = Half(), Half()

    def tell() -> None:
        progress(sent.count + received.count, total)

    header = b""
    while len(header) < HEADER_SIZE:
        piece = await stream.recv(HEADER_SIZE - len(header))
        assert piece, "the peer ended the stream before its header was complete"
        header += piece
    size = int.from_bytes(header, "big")
    await asyncio.gather(send_content(stream, size, sent, tell), receive_all(stream, received, tell))
    await stream.send_eof()  # the client closes the connection when it has read this
    return Transferred(sent, received)


class Peer:
    """A process of the peer's program."""

    def __init__(self, process: asyncio.subprocess.Process, errors: "asyncio.Task[bytes]") -> None:
        self._process = process
        self._errors = errors

    async def line(self) -> str:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), STALL_S)
        assert line, (await self._errors).decode()
        return line.decode().strip()

    async def result(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(await self.line())
        return result


@asynccontextmanager
async def running(stack: str, arguments: Sequence[str | Path]) -> AsyncIterator[Peer]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        PROGRAM,
        stack,
        *arguments,
        "--checksum",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    errors = asyncio.create_task(process.stderr.read())
    try:
        yield Peer(process, errors)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
        await errors


def assert_equal(ours: Transferred, peer: dict[str, Any], sent: int, received: int) -> None:
    """`sent` and `received` as we see it; what we sent is what the peer received."""
    assert (ours.sent.count, ours.received.count) == (sent, received)
    assert (peer["received"], peer["sent"]) == (sent, received)
    assert (peer["received_sha256"], peer["sent_sha256"]) == (ours.sent.sha256, ours.received.sha256)


@asynccontextmanager
async def our_server(certificates: CertificateFiles, config: Config) -> AsyncIterator[QuicSocket]:
    """A listening socket with an agent of its own."""
    async with server_net(AgentOptions(cert=certificates.cert, key=certificates.key)) as net:
        listener = QuicSocket(net)
        listener.setsockopt(SockOpt.ALPN, ALPN)
        listener.setsockopt(SockOpt.CONFIG, config.pack())
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        try:
            yield listener
        finally:
            await listener.close()
            await listener.wait_closed()


@asynccontextmanager
async def our_client(port: int, certificates: CertificateFiles, config: Config) -> AsyncIterator[QuicSocket]:
    """A connected socket, its handshake done by an agent of its own."""
    async with client_net(AgentOptions(ca=certificates.ca)) as net:
        connection = QuicSocket(net.net)
        connection.setsockopt(SockOpt.ALPN, ALPN)
        connection.setsockopt(SockOpt.CONFIG, config.pack())
        try:
            await connection.connect(("127.0.0.1", port))
            await connection.handshake(HandshakeRequest(MessageType.CLIENTHELLO, peername="localhost"))
            yield connection
        finally:
            await connection.close()
            await connection.wait_closed()


async def serve_peer(
    stack: str,
    certificates: CertificateFiles,
    upload: int,
    download: int,
    *,
    config: Config = DEFAULTS,
    peer_arguments: Sequence[str] = (),
    progress: Progress = silent,
) -> QuicSocket:
    """The peer is the client. Returns our end of the connection, which is over."""
    async with our_server(certificates, config) as listener:
        arguments = ["client", "--port", str(listener.getsockname()[1]), "--ca", certificates.ca]
        arguments += ["--upload", str(upload), "--download", str(download), *peer_arguments]
        async with running(stack, arguments) as client:
            connection = await asyncio.wait_for(listener.accept(), STALL_S)
            await connection.handshake(HandshakeRequest(MessageType.SERVERHELLO, auth_mode=AuthMode.X509))
            stream = await asyncio.wait_for(connection.accept_stream(), STALL_S)
            ours = await answer(stream, upload + download, progress)
            assert_equal(ours, await client.result(), sent=download, received=upload)
        await connection.close()
        return connection


async def ask_peer(
    stack: str,
    certificates: CertificateFiles,
    upload: int,
    download: int,
    *,
    config: Config = DEFAULTS,
    peer_arguments: Sequence[str] = (),
    progress: Progress = silent,
) -> QuicSocket:
    """The peer is the server. Returns our end of the connection, which is over."""
    arguments = ["server", "--cert", certificates.cert, "--key", certificates.key, *peer_arguments]
    async with running(stack, arguments) as server:
        port = int((await server.line()).removeprefix("ready "))
        async with our_client(port, certificates, config) as connection:
            ours = await request(connection.open_stream(), upload, download, progress)
            assert_equal(ours, await server.result(), sent=upload, received=download)
        return connection


@TRANSFERS
def test_peer_as_client(
    stack: str, certificates: CertificateFiles, progress: Progress, upload: int, download: int
) -> None:
    asyncio.run(serve_peer(stack, certificates, upload, download, progress=progress))


@TRANSFERS
def test_peer_as_server(
    stack: str, certificates: CertificateFiles, progress: Progress, upload: int, download: int
) -> None:
    asyncio.run(ask_peer(stack, certificates, upload, download, progress=progress))


@pytest.mark.parametrize("cipher", TlsCipher, ids=lambda cipher: cipher.name)
def test_ciphers(stack: str, certificates: CertificateFiles, cipher: TlsCipher) -> None:
    """Each AEAD of RFC 9001 §5.3, asked for on our side."""
    config = Config(payload_cipher_type=cipher)
    asyncio.run(serve_peer(stack, certificates, SMALL_SIZE, SMALL_SIZE, config=config))
    asyncio.run(ask_peer(stack, certificates, SMALL_SIZE, SMALL_SIZE, config=config))


def test_peer_proves_its_address(stack: str, certificates: CertificateFiles) -> None:
    """RFC 9000 §8.1.2: our Retry, the peer's token."""
    config = Config(validate_peer_address=1)
    connection = asyncio.run(serve_peer(stack, certificates, SMALL_SIZE, SMALL_SIZE, config=config))
    assert connection.connection.retry_scid is not None


def test_we_prove_our_address(stack: str, certificates: CertificateFiles) -> None:
    """RFC 9000 §8.1.2: the peer's Retry, our token."""
    connection = asyncio.run(
        ask_peer(stack, certificates, SMALL_SIZE, SMALL_SIZE, peer_arguments=["--retry"])
    )
    assert connection.connection.retry_scid is not None


def test_peer_begins_with_an_unknown_version(stack: str, certificates: CertificateFiles) -> None:
    """RFC 9000 §6: our Version Negotiation brings it to version 1."""
    version = ["--first-version", "0x1a2a3a4a"]
    asyncio.run(serve_peer(stack, certificates, SMALL_SIZE, SMALL_SIZE, peer_arguments=version))

"""Commands resume the sessions of earlier commands, and only those that they may."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from quicfs import certs
from quicfs.agents import client_net, server_net
from quicfs.listen import listen_streams
from quicfs.options import AgentOptions
from quicfs.quic import dial
from quicfs.transport.bytestream import ByteStream
from quicfs.transport.uapi import SockOpt
from quicfs.url import Address
from tests.integration.cli import Site, quicfs

ALPN = b"echo"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("site"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "quicfs" / "sessions"


async def echo(stream: ByteStream) -> None:
    while piece := await stream.recv():
        await stream.send(bytes(piece))


async def tls_bytes(address: Address, options: AgentOptions, *, tickets: bool = True) -> int:
    """What the server sent of TLS in a connection like that of a command, which lasts until a ticket has come."""
    async with client_net(options) as net:
        conn, keep = await dial(net, address, ALPN)
        try:
            stream = await conn.wait_open_stream()
            await stream.send(b"words")
            await stream.send_eof()
            while await stream.recv():
                pass
            async with asyncio.timeout(10):
                while tickets and not conn.getsockopt(SockOpt.SESSION_TICKET):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            keep()
            return conn.stats().tls_bytes_received
        finally:
            await conn.close()


def serving(site: Site, body: Callable[[Address], Awaitable[None]], *, tickets: bool = True) -> None:
    async def main() -> None:
        async with server_net(AgentOptions(cert=site.files.cert, key=site.files.key)) as net:
            listener = await listen_streams(net, Address("localhost", 0), ALPN, echo, session_tickets=tickets)
            try:
                await body(Address("localhost", listener.address.port))
            finally:
                await listener.aclose()

    asyncio.run(main())


def test_the_second_connection_is_resumed(site: Site, cache: Path) -> None:
    options = AgentOptions(ca=site.files.ca)

    async def body(address: Address) -> None:
        sizes = [await tls_bytes(address, options) for _ in range(3)]
        assert max(sizes[1:]) < sizes[0] - 300  # reserved parameters make them differ by a few bytes
        assert len(os.listdir(cache)) == 1

    serving(site, body)


def test_a_server_without_tickets(site: Site, cache: Path) -> None:
    options = AgentOptions(ca=site.files.ca)

    async def body(address: Address) -> None:
        sizes = [await tls_bytes(address, options, tickets=False) for _ in range(2)]
        assert sizes[1] > sizes[0] - 50  # a signature is longer or shorter

    serving(site, body, tickets=False)


def test_other_authorities_mean_a_full_handshake(site: Site, cache: Path, tmp_path: Path) -> None:
    """Also when the file has the same name; and an authority that the server is not of refuses it as ever."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(site.files.ca.read_bytes())
    options = AgentOptions(ca=ca)
    stranger = certs.create(tmp_path / "stranger", ["localhost"]).ca.read_bytes()

    async def body(address: Address) -> None:
        full = await tls_bytes(address, options)
        ca.write_bytes(site.files.ca.read_bytes() + stranger)
        assert await tls_bytes(address, options) > full - 50  # a signature is longer or shorter
        ca.write_bytes(stranger)
        with pytest.raises(ConnectionError, match="not signed by a trusted CA"):
            await tls_bytes(address, options)

    serving(site, body)


def test_a_server_that_was_started_again(site: Site, cache: Path) -> None:
    """Its tickets are forgotten, and the connection is made all the same."""
    with site.serving() as url:
        assert quicfs("ls", url, "--ca", site.files.ca).returncode == 0
        (kept,) = cache.iterdir()
        assert kept.stat().st_mode & 0o777 == 0o600
        before = kept.read_bytes()
        assert quicfs("ls", url, "--ca", site.files.ca).returncode == 0
        assert kept.read_bytes() != before
        first = kept.read_bytes()
    with site.serving() as url:
        kept.rename(kept.with_suffix(".away"))
        assert quicfs("ls", url, "--ca", site.files.ca).returncode == 0
        for path in cache.glob("*.session"):
            path.write_bytes(first)
        assert quicfs("ls", url, "--ca", site.files.ca).returncode == 0

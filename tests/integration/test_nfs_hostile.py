"""A real NFS server on real sockets, QUIC and TCP, a neighbour who works, and somebody who means ill.

Each attack goes on for a while. The neighbour's calls are answered all along; the server's memory grows by no more than
the attack's bounds, and nothing is in its log that nobody foresaw.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from quicfs import certs
from quicfs.agents import client_net
from quicfs.client_nfs import ALPN, rpc_config
from quicfs.nfs import limits
from quicfs.nfs.rpc.client import RpcClient
from quicfs.nfs.rpc.message import AuthSys, call_header
from quicfs.nfs.v3 import nfs3
from quicfs.nfs.v4.const import PROGRAM, VERSION, Op
from quicfs.nfs.v4.operations_directories import LookupArgs
from quicfs.nfs.v4.operations_files import PutfhArgs
from quicfs.nfs.v4.operations_sessions import ExchangeIdArgs
from quicfs.nfs.v4.types import ClientOwner
from quicfs.nfs.xdr import Packer
from quicfs.options import AgentOptions
from quicfs.quic import dial
from quicfs.transport.bytestream import ByteStream
from quicfs.transport.tcp_stream import connect_tcp
from quicfs.url import Address
from tests.integration.nfs_rig import serving
from tests.perf.memory import resident
from tests.sim.nfs_rig import packed, sequence

ATTACK_S = 2.0
PAUSE_S = 0.01
SLOW_S, SLOWEST_S = 2.0, 20.0
"""Calls of the neighbour, half of them and every one: on a machine that does much else besides."""

MEMORY = 64 << 20
"""What the server may grow by: the largest attack keeps 16 streams with a piece of 1 MiB each, and their replies."""

SOMEBODY = AuthSys(1, "somebody", 1000, 1000, ())
LAST = 0x80000000
COMPOUND, GETATTR3 = 1, 1


class Site(Protocol):
    """How streams to the server are made. A stream is whatever `connect` gives, on a connection of its own or not."""

    async def stream(self) -> ByteStream: ...

    async def close(self) -> None: ...


class Tcp:
    def __init__(self, port: int) -> None:
        self._port = port

    async def stream(self) -> ByteStream:
        return await connect_tcp("127.0.0.1", self._port)

    async def close(self) -> None:
        """Each stream was closed by itself."""


class Quic:
    """A new connection when the server allows no further stream on the old one, or has closed it."""

    def __init__(self, port: int, net: object) -> None:
        self._address = Address("localhost", port)
        self._net = net
        self._conn = None

    async def stream(self) -> ByteStream:
        for _ in range(3):
            if self._conn is not None:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    return self._conn.open_stream()
                await self._conn.close()
            self._conn, _ = await dial(self._net, self._address, ALPN, rpc_config)
        raise ConnectionError("no stream")

    async def close(self) -> None:
        if self._conn is not None:
            await self._conn.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> certs.CertificateFiles:
    return certs.create(tmp_path_factory.mktemp("certificates"), ["localhost", "127.0.0.1"])


def record(message: bytes, claimed: int | None = None) -> bytes:
    return struct.pack(">I", LAST | (len(message) if claimed is None else claimed)) + message


def call(
    args: bytes, number: int = 1, *, program: int = PROGRAM, version: int = VERSION, procedure: int = 1
) -> bytes:
    return record(call_header(number, program, version, procedure, SOMEBODY) + args)


def opaque(data: bytes) -> bytes:
    packer = Packer()
    packer.opaque(data)
    return packer.getvalue()


# --- attacks: each does something once, on a stream, and may leave it open


async def half_a_record(stream: ByteStream, turn: int) -> None:
    await stream.send(call(bytes(16))[: 1 + turn % 40])


async def a_giant_that_never_comes(stream: ByteStream, turn: int) -> None:
    await stream.send(record(bytes(1000), limits.MAX_MESSAGE - turn % 4))


async def noise(stream: ByteStream, turn: int) -> None:
    await stream.send(os.urandom(32 << 10))


async def too_long(stream: ByteStream, turn: int) -> None:
    await stream.send(record(b"", 0x7FFFFFFF) + bytes(64 << 10))


async def empty_records(stream: ByteStream, turn: int) -> None:
    await stream.send((record(b"") if turn % 2 else bytes(4)) * 50_000)


async def huge_compounds(stream: ByteStream, turn: int) -> None:
    operations = [sequence(os.urandom(16), 1), *[(Op.PUTROOTFH, None)] * 10_000]
    await stream.send(call(packed(operations).getvalue()))


async def forged_handles(stream: ByteStream, turn: int) -> None:
    for number in range(50):
        handle = opaque(os.urandom(number + 14))
        await stream.send(call(handle, program=nfs3.PROGRAM, version=nfs3.VERSION, procedure=GETATTR3))
        operations = [sequence(bytes(16), 1), (Op.PUTFH, PutfhArgs(os.urandom(64)))]
        await stream.send(call(packed(operations).getvalue()))


async def new_clients(stream: ByteStream, turn: int) -> None:
    for number in range(20):
        owner = ClientOwner(os.urandom(8), f"{turn} {number}".encode() * 50)
        await stream.send(call(packed([(Op.EXCHANGE_ID, ExchangeIdArgs(owner, 0, None, None))]).getvalue()))


async def lengths(stream: ByteStream, turn: int) -> None:
    for length in (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 65):
        field = struct.pack(">I", length)
        await stream.send(call(field), call(field + bytes(100)))
        await stream.send(call(field + bytes(60), program=nfs3.PROGRAM, version=3, procedure=GETATTR3))
        lookup = packed([sequence(bytes(16), 1), (Op.LOOKUP, LookupArgs("name"))]).getvalue()
        await stream.send(call(lookup[:-8] + field + lookup[-4:]))


async def replies_that_nobody_reads(stream: ByteStream, turn: int) -> None:
    null = call(b"", procedure=0)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await stream.send(null * ((1 << 20) // len(null)))


Attack = Callable[[ByteStream, int], Awaitable[None]]
ATTACKS: tuple[tuple[Attack, int], ...] = (
    # ... and how many streams of it stay open at most
    (half_a_record, 100),
    (a_giant_that_never_comes, 100),
    (noise, 4),
    (too_long, 4),
    (empty_records, 2),
    (huge_compounds, 4),
    (forged_handles, 4),
    (new_clients, 4),
    (lengths, 4),
    (replies_that_nobody_reads, 16),
)


class Neighbour:
    """Calls one after the other, and notes how long each took."""

    def __init__(self, rpc: RpcClient) -> None:
        self.rpc = rpc
        self.took: list[float] = []

    async def work(self) -> None:
        while True:
            began = time.perf_counter()
            packer = Packer()
            packer.opaque(bytes(32))
            reply = await self.rpc.call(
                nfs3.PROGRAM, nfs3.VERSION, GETATTR3, SOMEBODY, packer, timeout=SLOWEST_S
            )
            assert reply.uint32() == 10001  # BADHANDLE: it is answered, which is what counts here
            self.took.append(time.perf_counter() - began)
            await asyncio.sleep(0.005)


async def attack(site: Site, kind: Attack, at_once: int) -> int:
    """For a while; how often."""
    streams: list[ByteStream] = []
    turns = 0
    end = time.monotonic() + ATTACK_S
    try:
        while time.monotonic() < end:
            turns += 1
            try:
                stream = await site.stream()
                streams.append(stream)
                await kind(stream, turns)
            except ConnectionError:
                pass  # the server has had enough of it
            if len(streams) >= at_once:
                with contextlib.suppress(ConnectionError):
                    await streams.pop(0).aclose()
            await asyncio.sleep(PAUSE_S)
    finally:
        for stream in streams:
            with contextlib.suppress(ConnectionError):
                await stream.aclose()
    return turns


@asynccontextmanager
async def sites(transport: str, port: int, files: certs.CertificateFiles) -> AsyncIterator[tuple[Site, Site]]:
    """Two that have nothing in common."""
    if transport == "tcp":
        yield Tcp(port), Tcp(port)
        return
    async with client_net(AgentOptions(ca=files.ca)) as net:
        both = Quic(port, net), Quic(port, net)
        try:
            yield both
        finally:
            for one in both:
                await one.close()


@pytest.mark.parametrize("transport", ["tcp", "quic"])
def test_a_neighbour_goes_on(
    tmp_path: Path, files: certs.CertificateFiles, transport: str, require: Callable[..., None]
) -> None:
    require("libgnutls")
    folder, state, log = tmp_path / "folder", tmp_path / "state", tmp_path / "log"
    folder.mkdir()
    state.mkdir()
    certificate = {"cert": files.cert, "key": files.key} if transport == "quic" else {}

    async def main(pid: int, port: int) -> None:
        async with sites(transport, port, files) as (own, hostile):
            neighbour = Neighbour(RpcClient(await own.stream()))
            working = asyncio.create_task(neighbour.work())
            await asyncio.sleep(1.0)
            alone = statistics.median(neighbour.took)
            before = resident(pid)
            for kind, at_once in ATTACKS:
                neighbour.took.clear()
                turns = await attack(hostile, kind, at_once)
                assert not working.done(), working.exception()
                assert neighbour.took, f"{kind.__name__}: not one call was answered in {ATTACK_S} s"
                during = statistics.median(neighbour.took)
                grown = resident(pid) - before
                print(
                    f"{transport} {kind.__name__}: {turns} times; a neighbour's call took {during * 1000:.1f} ms "
                    f"(alone {alone * 1000:.1f}, at most {max(neighbour.took) * 1000:.0f}), "
                    f"{grown / 2**20:.1f} MiB more"
                )
                assert during < SLOW_S, kind.__name__
                assert grown < MEMORY, f"{kind.__name__}: {grown >> 20} MiB"
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await neighbour.rpc.aclose()

    with serving(folder, state, log=str(log), **certificate) as (process, port):
        asyncio.run(main(process.pid, port))
        assert process.poll() is None
    said = log.read_text()
    assert "Traceback" not in said and "unforeseen" not in said, said[-2000:]

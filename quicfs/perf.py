"""Throughput of one stream, after draft-banks-quic-performance: ALPN "perf".

The client opens a bidirectional stream and writes, in 8 bytes of network order, how many bytes it wants; then
as many bytes as it likes to send, and the end. The server reads to the end, sends what was asked for, and
ends. The content is zeros. The clock runs from the first byte to the peer's end of stream, so what is
counted has arrived.
"""

from __future__ import annotations

import struct
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from quicfs import certs
from quicfs.agents import client_net, server_net
from quicfs.errors import UserError
from quicfs.listen import listen_streams
from quicfs.options import AgentOptions
from quicfs.places import existing_certificate
from quicfs.quic import ConnectionStream, connect_stream
from quicfs.service import announce, reachable, told_to_stop
from quicfs.transport.bytestream import ByteStream
from quicfs.transport.protection import IMPLEMENTATION
from quicfs.transport.stats import ConnectionStats
from quicfs.url import Address

__all__ = ["MAX_BYTES", "Result", "run", "serve"]

ALPN: Final = b"perf"
MAX_BYTES: Final = 1 << 50
_HEADER: Final = struct.Struct(">Q")
_CHUNK: Final = memoryview(bytes(1 << 20))


@dataclass(frozen=True, slots=True)
class Result:
    bytes: int
    seconds: float
    reverse: bool
    stats: ConnectionStats
    """Of this end of the connection, when all had arrived."""

    @property
    def gbit_per_s(self) -> float:
        return self.bytes * 8 / self.seconds / 1e9

    def as_dict(self) -> dict[str, Any]:
        return {
            "bytes": self.bytes,
            "seconds": round(self.seconds, 6),
            "gbit_per_s": round(self.gbit_per_s, 6),
            "direction": "download" if self.reverse else "upload",
            "protection": IMPLEMENTATION,
            "connection": self.stats.as_dict(),
        }


async def serve(listen: Address, agent: AgentOptions) -> None:
    """Until SIGINT or SIGTERM. Prints one line when it serves."""
    async with AsyncExitStack() as cleanup:
        told = told_to_stop()
        trust = ""
        if agent.socket is None and agent.cert is None and existing_certificate() is None:
            place = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="quicfs-perf-"))
            files = certs.create(Path(place), certs.own_names())
            agent = replace(agent, cert=files.cert, key=files.key)
            trust = f" --ca {files.ca}"
        net = await cleanup.enter_async_context(server_net(agent))
        listener = await listen_streams(net, listen, ALPN, _answer)
        cleanup.push_async_callback(listener.aclose)
        client = f"quicfs perf client {reachable(listen, listener.address.port)}{trust}"
        announce(f"measuring on UDP {listener.address}; run: {client}")
        await told.wait()


async def run(address: Address, count: int, agent: AgentOptions, *, reverse: bool) -> Result:
    """Move `count` bytes to the server, or with `reverse` from it. Raises ConnectionError."""
    async with client_net(agent) as net:
        stream = await connect_stream(net, address, ALPN)
        try:
            begin = time.perf_counter()
            arrived = await _download(stream, count) if reverse else await _upload(stream, count)
            seconds = time.perf_counter() - begin
            stats = stream.stats()
        finally:
            await stream.aclose()
    if arrived != (count if reverse else 0):
        raise UserError(f"{address} ended after {arrived:,} bytes: is it a quicfs perf server?")
    return Result(count, seconds, reverse, stats)


async def _download(stream: ConnectionStream, count: int) -> int:
    await stream.send(_HEADER.pack(count))
    await stream.send_eof()
    return await _to_the_end(stream)


async def _upload(stream: ConnectionStream, count: int) -> int:
    await stream.send(_HEADER.pack(0))
    await _zeros(stream, count)
    await stream.send_eof()
    return await _to_the_end(stream)


async def _answer(stream: ByteStream) -> None:
    header = b""
    while len(header) < _HEADER.size:
        piece = await stream.recv(_HEADER.size - len(header))
        if not piece:
            return
        header += piece
    (wanted,) = _HEADER.unpack(header)
    await _to_the_end(stream)
    await _zeros(stream, wanted)


async def _to_the_end(stream: ByteStream) -> int:
    count = 0
    while piece := await stream.recv():
        count += len(piece)
    return count


async def _zeros(stream: ByteStream, count: int) -> None:
    while count:
        piece = _CHUNK[:count]
        await stream.send(piece)
        count -= len(piece)

"""Bytes passed on between a QUIC stream and a TCP connection. Nothing is parsed."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final, Protocol

from quicfs.nfs.rpc.errors import RpcErrorCode
from quicfs.quic import DRAIN_S
from quicfs.transport.quic_stream import QuicStream
from quicfs.transport.tcp_stream import TcpStream

__all__ = ["CODES", "Codes", "pass_on"]


@dataclass(frozen=True, slots=True)
class Codes:
    """What a stream is reset with: its TCP connection broke or did not come about; there are too many."""

    broken: int
    busy: int


CODES: Final = {
    b"sunrpc": Codes(RpcErrorCode.UNSPECIFIED_ERROR, RpcErrorCode.SERVER_BUSY),
    b"smb": Codes(0, 0),  # SMB over QUIC has none
}


class _End(Protocol):
    async def recv(self, limit: int = 1 << 20) -> memoryview: ...

    async def send(self, *parts: bytes | memoryview) -> None: ...

    async def send_eof(self) -> None: ...


async def pass_on(stream: QuicStream, tcp: TcpStream, codes: Codes) -> None:
    """Both ways until both ends have ended. Who ends one direction still gets the other; when either breaks, so does
    the other. A side that does not read holds up the one that sends."""
    ways = [asyncio.ensure_future(_one_way(stream, tcp)), asyncio.ensure_future(_one_way(tcp, stream))]
    whole = False
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
        whole = all(way.done() and way.exception() is None for way in ways)
        if whole:
            with contextlib.suppress(ConnectionError, TimeoutError):  # it is gone, or takes no more
                async with asyncio.timeout(DRAIN_S):
                    await stream.drained()
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        if not whole:
            refuse(stream, codes.broken)
            tcp.abort()
        await stream.aclose()
        await tcp.aclose()


def refuse(stream: QuicStream, code: int) -> None:
    """Reset both directions."""
    with contextlib.suppress(ConnectionError):  # it is gone with its connection
        stream.reset(code)
        stream.stop_sending(code)


async def _one_way(source: _End, target: _End) -> None:
    while piece := await source.recv():
        await target.send(piece)
    await target.send_eof()

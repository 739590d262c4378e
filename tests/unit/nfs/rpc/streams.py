"""Two byte streams in memory, and programs to call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from quicfs.nfs.rpc.message import AcceptStat, Call, RpcFault
from quicfs.nfs.rpc.service import Peer
from quicfs.nfs.xdr import Packer


class MemoryStream:
    """One end. What is sent arrives at `other` at once, each write as one piece."""

    def __init__(self, name: str = "memory") -> None:
        self.peer = name
        self.secured = False
        self.other: MemoryStream = self
        self.writes: list[bytes] = []
        self._arrived: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self.closed = False
        self.error: ConnectionError | None = None

    async def recv(self, limit: int = 1 << 20) -> memoryview:
        while not self._arrived:
            if self.error is not None:
                raise self.error
            if self._ended:
                return memoryview(b"")
            self._wake.clear()
            await self._wake.wait()
        piece = self._arrived.popleft()
        if len(piece) > limit:
            self._arrived.appendleft(piece[limit:])
        return memoryview(piece[:limit])

    async def send(self, *parts: bytes | memoryview) -> None:
        if self.error is not None or self.closed:
            raise self.error or ConnectionError("closed here")
        data = b"".join(parts)
        self.writes.append(data)
        self.other.arrive(data)

    def arrive(self, data: bytes) -> None:
        self._arrived.append(data)
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    def breaks(self, why: str = "reset") -> None:
        self.error = ConnectionError(why)
        self._wake.set()

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            self.other.end()
            self.end()


def stream_pair() -> tuple[MemoryStream, MemoryStream]:
    left, right = MemoryStream("left"), MemoryStream("right")
    left.other, right.other = right, left
    return left, right


class Echo:
    """Procedure 0 does nothing, 1 gives back what it got, 2 waits until it is let go; others are the test's."""

    number = 400_000
    versions = range(2, 4)

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.peers: list[Peer] = []
        self.go = asyncio.Event()
        self.tasks: set[asyncio.Task[None] | None] = set()
        self.procedures: dict[int, Callable[[Call, Peer], Awaitable[Packer]]] = {}

    async def call(self, call: Call, peer: Peer) -> Packer:
        self.calls.append(call)
        self.peers.append(peer)
        self.tasks.add(asyncio.current_task())
        results = Packer()
        match call.procedure:
            case 0:
                pass
            case 1:
                results.opaque(call.args.view(4 << 20))
            case 2:
                await self.go.wait()
            case other if other in self.procedures:
                return await self.procedures[other](call, peer)
            case _:
                raise RpcFault(AcceptStat.PROC_UNAVAIL)
        return results


def opaque(data: bytes) -> Packer:
    packer = Packer()
    packer.opaque(data)
    return packer

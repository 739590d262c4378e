"""The streams of one connection: RPC over QUIC calls each of them a connection of its own, and so do sessions.

A server may allow fewer streams than we should like, or close one: what is left carries the calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from quicfs.nfs.client.errors import CompoundFailed, NfsProtocolError
from quicfs.nfs.rpc.client import RpcClient, RpcLost
from quicfs.nfs.rpc.errors import RpcError
from quicfs.nfs.rpc.message import AuthNone, Credential
from quicfs.nfs.rpc.service import Program
from quicfs.nfs.v4.compound import Compound, CompoundReply, unpack_reply
from quicfs.nfs.v4.const import PROGRAM, VERSION, Op, Procedure
from quicfs.nfs.xdr import Packer, Struct, Unpacker, XdrError

__all__ = ["Channel", "Connect", "Connection", "Operation", "Way"]

_log = logging.getLogger("quicfs.nfs")

Operation = tuple[Op, Struct | None]
"""What a COMPOUND asks for: the operation and its arguments."""

_CHECKS: Final = 4  # how often a timeout's length is looked at
_NEXT_STREAM_S: Final = 5.0  # until a stream is asked for again after the server allowed no more


class Connection(Protocol):
    """What `Connect` gives: `RpcConnection` on QUIC, `TcpConnection` on TCP."""

    @property
    def alive(self) -> bool: ...

    async def open(self) -> RpcClient:
        """A further stream. ConnectionError when there is none to be had (now)."""

    async def aclose(self) -> None: ...


Connect = Callable[[Sequence[Program]], Awaitable[Connection]]
"""Makes a connection. What the server calls on it goes to the programs. ConnectionError or OSError."""


class Way:
    """One stream, and the session that it is bound to."""

    __slots__ = ("calls", "client", "session")

    def __init__(self, client: RpcClient) -> None:
        self.client = client
        self.session = b""
        self.calls = 0


Bind = Callable[["Channel", Way], Awaitable[None]]


class Channel:
    """Made for a connection that has just come about; gone for good once `alive` is off."""

    def __init__(
        self, connection: Connection, credential: Credential, *, minor: int, limit: int, timeout: float
    ) -> None:
        self._connection = connection
        self._credential = credential
        self.minor = minor
        self._limit = limit
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._ways: list[Way] = []
        self._lost = False
        self._heard = self._loop.time()
        self._calls = 0
        self._checking = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._bind: Bind | None = None
        self._growing = False

    @property
    def alive(self) -> bool:
        return not self._lost and self._connection.alive

    # Streams

    async def first(self) -> Way:
        """A stream that is there. ConnectionError when there is none."""
        for way in self._ways:
            if way.client.alive:
                return way
        return await self._open()

    async def _open(self) -> Way:
        way = Way(await self._connection.open())
        self._ways.append(way)
        way.client.on_close(lambda _: self._gone(way))
        return way

    def _gone(self, way: Way) -> None:
        if way in self._ways:
            self._ways.remove(way)
        self.grow()

    def pick(self, session: bytes) -> Way | None:
        """The stream of this session with the least to do."""
        best = None
        for way in self._ways:
            if way.session == session and way.client.alive and (best is None or way.calls < best.calls):
                best = way
                if not way.calls:
                    break
        return best

    def serve(self, bind: Bind) -> None:
        """From now on streams are for the session that `bind` binds them to; more of them are opened."""
        self._bind = bind
        self.grow()

    def grow(self) -> None:
        if self._bind is not None and not self._growing and self.alive:
            self._growing = True
            self._spawn(self._grow())

    async def _grow(self) -> None:
        try:
            bind = self._bind
            assert bind is not None
            while self.alive and bind is self._bind:
                unbound = next((way for way in self._ways if not way.session), None)
                if unbound is None and len(self._ways) >= self._limit:
                    return
                await bind(self, unbound or await self._open())
        except (OSError, NfsProtocolError, CompoundFailed) as error:  # also TimeoutError, NoMoreStreams
            _log.debug("no further stream: %s", error)
            if self._ways:
                self._loop.call_later(_NEXT_STREAM_S, self.grow)
            else:
                self.lose(f"no stream is left: {error}")
        finally:
            self._growing = False

    async def wait_for_way(self, session: bytes, timeout: float) -> None:
        """After `pick` found none: until there may be one again."""
        self.grow()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(min(timeout, 0.05))

    def unbind(self) -> None:
        """The session of the streams is gone."""
        self._bind = None
        for way in self._ways:
            way.session = b""

    # Calls

    async def call(self, way: Way, credential: Credential, packer: Packer, timeout: float) -> Unpacker:
        """One COMPOUND on one stream. RpcLost, RpcError, TimeoutError."""
        way.calls += 1
        self._calls += 1
        if self._timer is None:
            self._arm()
        try:
            results = await way.client.call(
                PROGRAM, VERSION, Procedure.COMPOUND, credential, packer, timeout=timeout
            )
        finally:
            way.calls -= 1
            self._calls -= 1
        self._heard = self._loop.time()
        return results

    async def compound(self, way: Way, operations: Sequence[Operation], *, timeout: float) -> CompoundReply:
        """One that has no SEQUENCE; it goes once. CompoundFailed, ConnectionError, TimeoutError, NfsProtocolError."""
        compound = Compound()
        for op, args in operations:
            compound.add(op, args)
        packer = Packer()
        compound.pack(packer, self.minor)
        try:
            reply = unpack_reply(await self.call(way, self._credential, packer, timeout))
        except (XdrError, RpcError) as error:
            raise NfsProtocolError(str(error)) from error
        if reply.status:
            raise CompoundFailed(reply.status, reply.results, operations[0][0].name)
        return reply

    # Life

    def _arm(self) -> None:
        self._timer = self._loop.call_later(self._timeout / _CHECKS, self._check)

    def _check(self) -> None:
        """While calls wait: has the server been heard of lately?"""
        self._timer = None
        if not self.alive or not self._calls:
            return
        self._arm()
        silent = self._loop.time() - self._heard
        if silent >= self._timeout / _CHECKS and not self._checking:
            self._checking = True
            self._spawn(self._ping())

    async def _ping(self) -> None:
        way = min(self._ways, key=lambda way: way.calls, default=None)
        try:
            if way is not None:
                await way.client.call(
                    PROGRAM,
                    VERSION,
                    Procedure.NULL,
                    AuthNone(),
                    Packer(),
                    timeout=self._timeout / _CHECKS,
                )
                self._heard = self._loop.time()
        except TimeoutError:
            if self._loop.time() - self._heard >= self._timeout / _CHECKS:
                self.lose("the server does not answer")
        except (RpcLost, RpcError) as error:
            _log.debug("asked whether the server lives: %s", error)
        finally:
            self._checking = False

    def lose(self, reason: str) -> None:
        """Give the connection up: calls in flight are lost."""
        if self._lost:
            return
        self._lost = True
        _log.info("connection given up: %s", reason)
        self._spawn(self._connection.aclose())

    async def aclose(self) -> None:
        self._lost = True
        self._bind = None
        if self._timer is not None:
            self._timer.cancel()
        me = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not me]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.aclose()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.log(logging.DEBUG if isinstance(error, OSError) else logging.ERROR, "%r", error)

"""The requester on one stream (RFC 5531)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from quicfs.nfs.rpc.errors import RpcError, RpcErrorCode, RpcLost, RpcStreamError, give_up
from quicfs.nfs.rpc.exchange import Exchange
from quicfs.nfs.rpc.message import Credential, call_header, unpack_reply
from quicfs.nfs.rpc.record import Gather
from quicfs.nfs.rpc.service import Peer, Program, Responder
from quicfs.nfs.xdr import Packer, Unpacker, XdrError
from quicfs.transport.bytestream import ByteStream

__all__ = ["RpcClient", "RpcError", "RpcLost"]

_log: Final = logging.getLogger("quicfs.nfs")
_FOREVER: Final = contextlib.nullcontext()


class RpcClient:
    """Any number of calls at one time; replies are matched by their XID.

    `programs`: for calls of the other direction, which share a TCP connection; on QUIC they are discarded
    (draft-cel-nfsv4-rpc-over-quicv1-06 §3.4), so there are none. `shared`: somebody else reads the stream, hands
    replies over (`on_reply`) and tells of its end (`lost`); the stream is not ours to close.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        programs: Sequence[Program] = (),
        peer: Peer | None = None,
        shared: bool = False,
    ) -> None:
        self.stream = stream
        self.alive = True
        self.peer = peer if peer is not None else Peer(stream.peer, secured=stream.secured)
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, asyncio.Future[memoryview]] = {}
        self._xid = random.getrandbits(32)
        self._on_close: list[Callable[[RpcClient], None]] = []
        self._reading: asyncio.Task[None] | None = None
        if not shared:
            answer = Responder(programs, self.peer).answer if programs else None
            exchange = Exchange(stream, answer=answer, on_reply=self.on_reply, on_end=self._ended)
            self._reading = self._loop.create_task(self._read(exchange))

    @property
    def outstanding(self) -> int:
        """Calls that wait for their reply."""
        return len(self._pending)

    async def call(
        self,
        program: int,
        version: int,
        procedure: int,
        credential: Credential,
        args: Packer,
        *,
        timeout: float | None = None,
    ) -> Unpacker:
        """The results. `args` must not be used afterwards.

        Raises RpcError when the answer is none, RpcLost when the stream ends first, TimeoutError after `timeout`
        seconds: the call may be carried out all the same, and a late reply is thrown away.
        """
        if not self.alive:
            raise RpcLost(f"the stream to {self.peer.name} has ended", sent=False)
        xid = self._next_xid()
        gather = Gather()
        gather.add(call_header(xid, program, version, procedure, credential), args.parts())
        reply = self._pending[xid] = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout) if timeout is not None else _FOREVER:
                await self._send(gather)
                message = await reply
        finally:
            self._pending.pop(xid, None)
            if reply.done() and not reply.cancelled():
                reply.exception()  # may have come while the call was still being sent
        return self._results(message)

    async def _send(self, gather: Gather) -> None:
        try:
            await self.stream.send(*gather.take())
        except ConnectionError as error:
            # At once, and not only when the reader hears of it: nobody else is to try this stream.
            self.lost(why := f"the stream to {self.peer.name} broke: {error}")
            raise RpcLost(why, sent=True) from error

    def _results(self, message: memoryview) -> Unpacker:
        try:
            reply = unpack_reply(message)
        except XdrError as error:
            raise RpcLost(f"{self.peer.name} sent a reply that makes no sense: {error}", sent=True) from error
        if reply.fault is not None:
            raise RpcError(reply.fault)
        return reply.results

    def _next_xid(self) -> int:
        while True:
            self._xid = (self._xid + 1) & 0xFFFFFFFF
            if self._xid not in self._pending:
                return self._xid

    def on_close(self, callback: Callable[[RpcClient], None]) -> None:
        """Called once, when the stream has ended; at once if that is so already."""
        if self.alive:
            self._on_close.append(callback)
        else:
            callback(self)

    async def aclose(self) -> None:
        """End the stream; calls that wait are lost. Twice is allowed. A shared stream stays."""
        if self._reading is None:
            return
        self.lost("the stream was closed here")
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        with contextlib.suppress(ConnectionError):  # it is gone already
            await self.stream.aclose()

    # --- by whoever reads the stream

    def on_reply(self, xid: int, message: memoryview) -> None:
        waiting = self._pending.get(xid)
        if waiting is not None and not waiting.done():  # else nobody waits any more
            waiting.set_result(message)

    def lost(self, why: str) -> None:
        """Calls in flight are lost with their stream (§3.3 of the draft)."""
        if not self.alive:
            return
        self.alive = False
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_exception(RpcLost(why, sent=True))
        self.peer.close()
        callbacks, self._on_close = self._on_close, []
        for callback in callbacks:
            callback(self)

    def _ended(self) -> None:
        self.lost(f"{self.peer.name} has ended the stream")

    async def _read(self, exchange: Exchange) -> None:
        code = RpcErrorCode.NO_ERROR
        try:
            await exchange.run()
        except RpcStreamError as error:
            _log.info("%s: %s", self.peer.name, error)
            code = error.code
        except ConnectionError as error:
            _log.debug("%s: %s", self.peer.name, error)
        with contextlib.suppress(ConnectionError):  # it is gone already
            if code is RpcErrorCode.NO_ERROR:
                await self.stream.aclose()
            else:
                await give_up(self.stream, code)

"""What happens on one stream: messages in, calls carried out, replies out.

One task leads: it reads a burst of messages and carries their calls out itself, one after the other, so that a call
which waits for nothing costs no task. When one does wait, the event loop turns, and that hands the lead to another
task, which goes on with the rest of the burst and with reading; whoever was held up sends its reply and is done.
Replies that are ready together go out as one write.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from quicfs.nfs import limits
from quicfs.nfs.rpc.errors import RpcErrorCode, RpcStreamError
from quicfs.nfs.rpc.message import Direction, peek
from quicfs.nfs.rpc.record import Gather, MessageReader
from quicfs.nfs.xdr import XdrError
from quicfs.transport.bytestream import ByteStream

_log: Final = logging.getLogger("quicfs.nfs")

Answer = Callable[[memoryview, Gather], Awaitable[None]]
"""Carries out the call in a message and adds the reply. RpcStreamError ends the stream."""


class Exchange:
    """`answer`: who takes calls; None: they are discarded. `on_reply(xid, message)`: who takes replies. `on_end` is
    called once, when nothing more is read; calls may still be under way."""

    def __init__(
        self,
        stream: ByteStream,
        *,
        answer: Answer | None = None,
        on_reply: Callable[[int, memoryview], None] | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._stream = stream
        self._answer = answer
        self._on_reply = on_reply
        self._on_end = on_end
        self._reader = MessageReader(stream)
        self._loop = asyncio.get_running_loop()
        self._queue: deque[memoryview] = deque()  # calls that have not begun
        self._replies = Gather()
        self._workers: set[asyncio.Task[None]] = set()
        self._leader: asyncio.Task[None] | None = None
        self._calling = False  # the leader is within a call
        self._watched = False  # `_look` comes when the loop turns
        self._turns = 0
        self._misdirected = 0
        self._ended = False
        self._error: ConnectionError | None = None
        self._done: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Until the stream has ended and all its calls are done. Raises ConnectionError for an end that was no proper
        one: RpcStreamError if the peer is to be told why. What was called then is still done, but not answered."""
        self._hire()
        try:
            await self._done
        finally:
            workers = list(self._workers)
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            self._end()
        if self._error is not None:
            raise self._error

    # --- who leads

    def _hire(self) -> None:
        self._leader = task = self._loop.create_task(self._work())
        self._workers.add(task)
        task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._workers.discard(task)
        if self._leader is task:
            self._leader = None
        if not self._workers and not self._done.done():
            self._done.set_result(None)

    def _look(self) -> None:
        """The loop turned. If that is because the leader's call waits, somebody else leads."""
        self._watched = False
        if not self._calling:
            return
        self._calling = False
        if len(self._workers) <= limits.MAX_CALLS:
            self._hire()
        else:
            self._leader = None  # the first that is done takes the lead: nothing is read until then

    async def _work(self) -> None:
        me = asyncio.current_task()
        try:
            while self._leader is me:
                if self._queue:
                    await self._carry_out(me)
                elif self._replies.size:
                    await self._send()
                elif self._ended:
                    return
                elif burst := await self._reader.read():
                    self._sort(burst)
                else:
                    self._end()
            if self._error is None:
                await self._send_with_others()
        except ConnectionError as error:
            self._fail(error)
        except XdrError as error:
            self._fail(RpcStreamError(f"what came is no RPC message: {error}"))
        except Exception as error:
            _log.exception("%s: an RPC stream failed in an unforeseen way", self._stream.peer)
            self._fail(RpcStreamError(str(error), RpcErrorCode.UNSPECIFIED_ERROR))

    async def _carry_out(self, me: asyncio.Task[None] | None) -> None:
        """The calls that were read, until one of them waits and somebody else leads."""
        answer, queue, replies = self._answer, self._queue, self._replies
        assert answer is not None
        while queue:
            if not self._watched:
                self._watched = True
                self._loop.call_soon(self._look)
            self._calling = True
            try:
                await answer(queue.popleft(), replies)
            finally:
                if self._leader is me:
                    self._calling = False
            if self._leader is None and not self._ended:
                self._leader = me
            if self._leader is not me:
                return
            self._turns += 1
            if replies.size >= limits.GATHERED:
                await self._send()
            if self._turns >= limits.FAIR_CALLS:
                self._turns = 0
                await asyncio.sleep(0)

    def _sort(self, burst: list[memoryview]) -> None:
        for message in burst:
            xid, direction = peek(message)
            if direction == Direction.CALL and self._answer is not None:
                self._queue.append(message)
            elif direction == Direction.REPLY and self._on_reply is not None:
                self._on_reply(xid, message)
            elif direction > Direction.REPLY:
                raise RpcStreamError(f"a message that is neither a call nor a reply: {direction}")
            else:
                # draft-cel-nfsv4-rpc-over-quicv1-06 §3.4: what does not match our role is discarded silently, and
                # the stream may be reset.
                self._misdirected += 1
                if self._misdirected > limits.MAX_MISDIRECTED:
                    raise RpcStreamError("the peer goes on sending messages of the wrong direction")

    # --- replies

    async def _send(self) -> None:
        await self._stream.send(*self._replies.take())

    async def _send_with_others(self) -> None:
        """A call that was held up is done. Others may be done in the same turn of the loop."""
        if len(self._workers) > 2:
            await asyncio.sleep(0)
        if self._replies.size and self._error is None:
            await self._send()

    # --- the end

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_end()

    def _fail(self, error: ConnectionError) -> None:
        """Calls under way go on, since what they change is changed; nobody hears of it."""
        if self._error is None:
            self._error = error
            self._queue.clear()
            self._reader.drop()
            self._end()
            if self._leader is not None and not self._calling:
                self._leader.cancel()

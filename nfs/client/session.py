"""One session (RFC 8881 §2.10): requests in slots, each carried out exactly once, whatever becomes of the streams.

A request whose stream is lost goes out again, on another stream or another connection, with the same slot and the same
sequence ID: the server carries it out if it had not, and else gives the reply that it kept. A caller who goes away
leaves the slot to a task that finds out what became of the request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from quicfs.nfs.client.channel import Channel, Operation
from quicfs.nfs.client.errors import NfsProtocolError, SessionGone
from quicfs.nfs.client.slots import Slot, SlotTable
from quicfs.nfs.client.transfer import Pace
from quicfs.nfs.rpc.client import RpcLost
from quicfs.nfs.rpc.errors import RpcError
from quicfs.nfs.rpc.message import Credential
from quicfs.nfs.v4.compound import Compound, CompoundReply, Result, unpack_reply
from quicfs.nfs.v4.const import Op, Stat
from quicfs.nfs.v4.operations_sessions import ChannelAttrs, SequenceArgs
from quicfs.nfs.xdr import Packer, XdrError
from quicfs.vfs.status import FsError, Status

__all__ = ["Session"]

_log = logging.getLogger("quicfs.nfs")

_FIRST_DELAY_S: Final = 0.01
_LONGEST_DELAY_S: Final = 1.0
_MAX_LOSSES: Final = 8
"""Of streams of one connection that carry the same request: then it is the request that breaks them. A server that is
started again and again breaks no more than there are streams each time."""

_GONE: Final = frozenset({Stat.BADSESSION, Stat.DEADSESSION, Stat.STALE_CLIENTID, Stat.EXPIRED})
# The server has carried out nothing of it, and the sequence ID of the slot is as before (§18.46.3).
_REFUSED: Final = frozenset(
    {Stat.REQ_TOO_BIG, Stat.REP_TOO_BIG, Stat.TOO_MANY_OPS, Stat.REP_TOO_BIG_TO_CACHE, Stat.SEQUENCE_POS}
)

Orphaned = Callable[[Sequence[Result]], None]
Reconnect = Callable[["Session", float], Awaitable[None]]


class _Request:
    __slots__ = (
        "cache", "credential", "losses", "operations", "orphaned", "sendings", "slot", "unknown", "way_of_loss",
    )  # fmt: skip

    def __init__(
        self,
        slot: Slot,
        operations: Sequence[Operation],
        credential: Credential,
        cache: bool,
        orphaned: Orphaned | None,
    ) -> None:
        self.slot = slot
        self.operations = operations
        self.credential = credential
        self.cache = cache
        self.orphaned = orphaned
        self.sendings = 0
        self.losses = 0  # of streams of this channel, while the request was on them
        self.way_of_loss: Channel | None = None
        self.unknown = False  # whether the server has seen it

    def lost(self, channel: Channel) -> int:
        """Count the loss of a stream: how many it were of this channel."""
        if self.way_of_loss is not channel:
            self.way_of_loss, self.losses = channel, 0
        self.losses += 1
        return self.losses


class Session:
    """Made after CREATE_SESSION. `reconnect(session, deadline)` returns when there is a channel again; it raises
    FsError, or SessionGone. `on_flags` hears `sr_status_flags` that are not 0."""

    def __init__(
        self,
        session_id: bytes,
        minor: int,
        limits: ChannelAttrs,
        credential: Credential,
        reconnect: Reconnect,
        on_flags: Callable[[int], None],
    ) -> None:
        self.id = session_id
        self.minor = minor
        self.limits = limits
        self.slots = SlotTable(limits.maxrequests)
        self.pace = Pace()
        self.channel: Channel | None = None
        self.used_at = (
            0.0  # loop time of the last request that the server answered: its lease was renewed then
        )
        self._credential = credential
        self._reconnect = reconnect
        self._on_flags = on_flags
        self._loop = asyncio.get_running_loop()
        self._ended: str | None = None
        self.unusable = False  # ended by us: the server still has it
        self._settling: set[asyncio.Task[None]] = set()

    @property
    def alive(self) -> bool:
        return self._ended is None

    def attach(self, channel: Channel) -> None:
        """Streams of this channel are bound to the session, or will be."""
        self.channel = channel

    def end(self, reason: str) -> None:
        """The server knows this session no more."""
        if self._ended is None:
            self._ended = reason
            self.slots.close(reason)

    async def aclose(self) -> None:
        self.end("the file system was closed")
        tasks = list(self._settling)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def call(
        self,
        operations: Sequence[Operation],
        *,
        deadline: float,
        cache: bool = False,
        credential: Credential | None = None,
        orphaned: Orphaned | None = None,
    ) -> CompoundReply:
        """SEQUENCE and `operations`; the reply without SEQUENCE's result, whatever its status.

        `cache`: the server is to keep the reply, because doing it twice would not do. `orphaned` gets the results
        when the caller has gone away meanwhile, to undo what must not stay. Raises SessionGone, FsError and
        NfsProtocolError.
        """
        slot = await self._slot(deadline)
        request = _Request(slot, operations, credential or self._credential, cache, orphaned)
        try:
            reply = await self._carry(request, deadline)
        except BaseException:
            if request.unknown and self.alive:
                self._settle(request)
            else:
                self.slots.release(slot, consumed=False)
            raise
        self.slots.release(slot, consumed=True)
        if reply is None:
            raise SessionGone("the reply is lost, and the server kept none", sent=True)
        return reply

    async def _slot(self, deadline: float) -> Slot:
        slots = self.slots
        if slots.in_use < slots.target:
            return await slots.acquire()
        try:
            async with asyncio.timeout_at(deadline):
                return await slots.acquire()
        except TimeoutError:
            raise FsError(Status.TIMEOUT, "the server is busy with other calls") from None

    def _pack(self, request: _Request) -> Packer:
        slot = request.slot
        compound = Compound()
        sequence = SequenceArgs(self.id, slot.seqid, slot.number, self.slots.highest, request.cache)
        compound.add(Op.SEQUENCE, sequence)
        for op, args in request.operations:
            compound.add(op, args)
        packer = Packer()
        compound.pack(packer, self.minor)
        return packer

    async def _carry(self, request: _Request, deadline: float) -> CompoundReply | None:
        """Until there is a reply; None if the server has carried it out and kept no reply."""
        delay = _FIRST_DELAY_S
        while True:
            reply = await self._send(request, deadline)
            if reply is None:
                continue
            first = reply.results[0] if reply.results else None
            if first is None or first.op is not Op.SEQUENCE:
                raise NfsProtocolError(f"a reply without SEQUENCE ({reply.status.name})")
            status = first.status
            if not status:
                self._heed(first.value.status_flags, first.value.target_highest_slotid)
                results = reply.results[1:]
                # §18.46.3: servers say it with the operation after SEQUENCE, others with SEQUENCE itself.
                if results and results[0].status is Stat.RETRY_UNCACHED_REP:
                    return None
                return CompoundReply(reply.status, reply.tag, results)
            if status is Stat.RETRY_UNCACHED_REP:
                return None
            if status in _GONE:
                self.end(f"the server ended the session ({status.name})")
                raise SessionGone(f"the session is gone ({status.name})", sent=request.unknown)
            if status is Stat.DELAY:  # §15.1.1.3; also while the request that this one repeats is under way
                if self._loop.time() + delay > deadline:
                    raise FsError(Status.TIMEOUT, "the server is busy")
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY_S)
            elif status is Stat.CONN_NOT_BOUND_TO_SESSION:
                if self.channel is not None:
                    self.channel.unbind()
                    self.channel = None
            elif status in _REFUSED and request.sendings == 1:
                request.unknown = False
                raise NfsProtocolError(f"the server takes no such request ({status.name})")
            else:
                # SEQ_MISORDERED, SEQ_FALSE_RETRY, BADSLOT and the like: we and the server do not agree on the slots.
                # A new session of the same client keeps all state.
                self.unusable = True
                self.end(f"slots are out of step ({status.name})")
                raise SessionGone(f"the session is of no use ({status.name})", sent=request.sendings > 1)

    async def _send(self, request: _Request, deadline: float) -> CompoundReply | None:
        """One reply; None if the stream was lost and the request is to be sent again."""
        channel = self.channel
        way = channel.pick(self.id) if channel is not None and channel.alive else None
        if channel is None or way is None:
            await self._find_way(channel, deadline)
            return None
        if self._ended is not None:
            raise SessionGone(self._ended, sent=request.unknown)
        left = deadline - self._loop.time()
        if left <= 0:
            raise FsError(Status.TIMEOUT, "the server did not answer in time")
        before = request.unknown
        request.unknown = True
        request.sendings += 1
        try:
            packer = self._pack(request)
            size, began = len(packer), self._loop.time()
            unpacker = await channel.call(way, request.credential, packer, left)
            self.pace.note(self._loop.time() - began, size + unpacker.size)
            return unpack_reply(unpacker)
        except RpcLost as lost:
            request.unknown = before or lost.sent
            if request.lost(channel) >= _MAX_LOSSES:
                raise FsError(Status.IO, f"the server ends every stream that carries this: {lost}") from lost
            return None
        except TimeoutError:
            raise FsError(Status.TIMEOUT, "the server did not answer in time") from None
        except (RpcError, XdrError) as error:
            raise NfsProtocolError(str(error)) from error

    async def _find_way(self, channel: Channel | None, deadline: float) -> None:
        if self._ended is not None:
            raise SessionGone(self._ended, sent=False)
        if channel is None or not channel.alive:
            await self._reconnect(self, deadline)
            return
        left = deadline - self._loop.time()
        if left <= 0:
            raise FsError(Status.TIMEOUT, "no stream to the server came free in time")
        await channel.wait_for_way(self.id, left)

    def _heed(self, flags: int, target: int) -> None:
        self.used_at = self._loop.time()
        self.slots.aim(target)
        if flags:
            self._on_flags(flags)

    # Requests whose caller has gone

    def _settle(self, request: _Request) -> None:
        task = self._loop.create_task(self._find_out(request))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _find_out(self, request: _Request) -> None:
        """Learn which sequence ID comes next: the request is repeated as it was. Another in its place, be it SEQUENCE
        alone, is a false retry while the server works on the first (§2.10.6.1.3.1)."""
        request.sendings = 0
        while True:
            try:
                reply = await self._carry(request, self._loop.time() + 60)
            except SessionGone:
                return
            except (FsError, NfsProtocolError, ConnectionError) as error:
                _log.debug("slot %d: %s", request.slot.number, error)
                await asyncio.sleep(_LONGEST_DELAY_S)
                continue
            break
        if self.alive:
            self.slots.release(request.slot, consumed=True)
        if request.orphaned is not None and reply is not None:
            request.orphaned(reply.results)

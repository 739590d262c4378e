"""The slots of a session (RFC 8881 §2.10.6.1): each carries one request at a time, and counts them.

The lowest free slot is used first, so that the server can give back what it holds for those above.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import Final

from quicfs.nfs import limits
from quicfs.nfs.client.errors import SessionGone

__all__ = ["Slot", "SlotTable"]

_WRAP: Final = 1 << 32


class Slot:
    __slots__ = ("number", "seqid")

    def __init__(self, number: int) -> None:
        self.number = number
        self.seqid = 1  # of the request that comes next (§18.36.3: the first is 1)


class SlotTable:
    """`count`: as many as the session was made with. Each slot that was acquired is released or discarded."""

    def __init__(self, count: int) -> None:
        self._slots = [Slot(number) for number in range(max(1, min(count, limits.CLIENT_SLOTS)))]
        self._target = len(self._slots)
        self._free = list(range(len(self._slots)))  # a heap
        self._used: set[int] = set()
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._closed: str | None = None

    @property
    def highest(self) -> int:
        """`sa_highest_slotid`: the highest slot that has a request under way."""
        return max(self._used, default=0)

    @property
    def target(self) -> int:
        """How many requests the server wants at once at most."""
        return self._target

    @property
    def in_use(self) -> int:
        return len(self._used)

    @property
    def exhausted(self) -> bool:
        """Nothing is left but slots that were discarded."""
        return not self._free and not self._used

    async def acquire(self) -> Slot:
        """Suspends while all are in use; first come, first served. SessionGone when the table was closed."""
        if self._closed is not None:
            raise SessionGone(self._closed, sent=False)
        if self._free and self._free[0] < self._target:
            return self._take()  # then nobody waits
        future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result(), consumed=False)
            elif future in self._waiting:
                self._waiting.remove(future)
            raise

    def _take(self) -> Slot:
        number = heapq.heappop(self._free)
        self._used.add(number)
        return self._slots[number]

    def release(self, slot: Slot, *, consumed: bool) -> None:
        """`consumed`: the server carried out, or began to, the request with the slot's sequence ID."""
        if consumed:
            slot.seqid = (slot.seqid + 1) % _WRAP
        self._used.discard(slot.number)
        heapq.heappush(self._free, slot.number)
        if self._waiting:
            self._hand_out()

    def discard(self, slot: Slot) -> None:
        """Nobody knows what the server expects on this slot: it is not used any more."""
        self._used.discard(slot.number)

    def aim(self, target_highest: int) -> None:
        """`sr_target_highest_slotid`: fewer, or more again, are welcome (§2.10.6.1). At least one is used."""
        target = max(1, min(target_highest + 1, limits.CLIENT_SLOTS))
        if target == self._target:
            return
        for number in range(len(self._slots), target):
            self._slots.append(Slot(number))
            heapq.heappush(self._free, number)
        self._target = target
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self._free and self._free[0] < self._target:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(self._take())

    def close(self, reason: str) -> None:
        """The session is gone: whoever waits hears of it."""
        self._closed = reason
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(SessionGone(reason, sent=False))

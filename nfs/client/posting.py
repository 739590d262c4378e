"""What nobody needs to wait for, CLOSE above all: requests that come together travel in one COMPOUND."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from quicfs.nfs import limits
from quicfs.nfs.client.channel import Operation
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.link import Link
from quicfs.nfs.rpc.message import Credential
from quicfs.nfs.v4.const import Op, Stat
from quicfs.nfs.v4.operations_files import PutfhArgs
from quicfs.nfs.v4.operations_open import CloseArgs
from quicfs.nfs.v4.types import StateId
from quicfs.vfs.status import FsError

__all__ = ["Outcome", "Poster"]

_log = logging.getLogger("quicfs.nfs")

_TOGETHER: Final = 8  # requests in one COMPOUND
_BYTES: Final = 512 << 10  # of data in it
_LATER_S: Final = 0.05  # the longest that what is in no hurry waits for company

Outcome = list[Any] | CompoundFailed | FsError
"""The values of a request, or why there are none; `results` and `index` of CompoundFailed count from its beginning."""


@dataclass(slots=True)
class _Letter:
    operations: Sequence[Operation]
    credential: Credential
    done: Callable[[Outcome], None]
    size: int


def _unread(outcome: Outcome) -> None:
    """An open that the server has forgotten, with its lease or its life, is closed."""
    if isinstance(outcome, CompoundFailed):
        _log.debug("CLOSE: %s", outcome.status.name)
    elif isinstance(outcome, FsError):
        _log.debug("an open stays with the server until it gives up: %s", outcome)


class Poster:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._queue: deque[_Letter] = deque()
        self._unhurried: list[_Letter] = []
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def post(
        self,
        operations: Sequence[Operation],
        credential: Credential,
        done: Callable[[Outcome], None] = _unread,
        *,
        size: int = 0,
        hurry: bool = True,
    ) -> bool:
        """Do it soon, after what was posted before, and all in one COMPOUND; without `hurry` it waits a moment for
        others. `done` hears what came of it. `size`: bytes of data in it. False if too much waits already: then the
        caller does it."""
        if len(self._queue) >= limits.POSTED:
            return False
        letter = _Letter(operations, credential, done, size)
        if hurry:
            self._hurry()
            self._begin(letter)
            return True
        self._unhurried.append(letter)
        if len(self._unhurried) >= _TOGETHER:
            self._hurry()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LATER_S, self._hurry)
        return True

    def _begin(self, *letters: _Letter) -> None:
        self._queue.extend(letters)
        if self._task is None and letters:
            self._task = asyncio.get_running_loop().create_task(self._work())

    def _hurry(self) -> None:
        """What waits for company waits no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        letters, self._unhurried = self._unhurried, []
        self._begin(*letters)

    async def together(self, operations: Sequence[Operation], credential: Credential) -> Outcome:
        """For those who do wait: what came of it."""
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if not answered.done():
                answered.set_result(outcome)

        if self.post(operations, credential, done):
            outcome = await answered
            if not isinstance(outcome, CompoundFailed) or outcome.status is not Stat.FHEXPIRED:
                return outcome
            # Alone it can be sent again with the handle that the object has now.
        try:
            return await self._link.compound(operations, "a call", credential=credential, cache=True)
        except (CompoundFailed, FsError) as error:
            return error

    def post_close(self, fh: bytes, stateid: StateId, credential: Credential, *, hurry: bool = True) -> bool:
        operations = [(Op.PUTFH, PutfhArgs(fh)), (Op.CLOSE, CloseArgs(0, stateid))]
        return self.post(operations, credential, hurry=hurry)

    async def _work(self) -> None:
        await asyncio.sleep(0)
        try:
            while self._queue:
                await self._send(self._batch())
        finally:
            self._task = None

    def _batch(self) -> list[_Letter]:
        queue = self._queue
        batch = [queue.popleft()]
        size = batch[0].size
        while queue and len(batch) < _TOGETHER and queue[0].credential == batch[0].credential:
            size += queue[0].size
            if size > _BYTES:
                break
            batch.append(queue.popleft())
        return batch

    async def _send(self, batch: list[_Letter]) -> None:
        while batch:
            operations = [operation for letter in batch for operation in letter.operations]
            try:
                values = await self._link.compound(
                    operations, "what was put off", cache=True, credential=batch[0].credential
                )
            except CompoundFailed as failed:
                batch = self._deliver(batch, [result.value for result in failed.results[:-1]], failed)
            except FsError as error:
                for letter in batch:
                    letter.done(error)
                return
            else:
                batch = self._deliver(batch, values, None)

    @staticmethod
    def _deliver(batch: list[_Letter], values: list[Any], failed: CompoundFailed | None) -> list[_Letter]:
        """Those that are left: what stands behind one that failed was not done."""
        at = 0
        for number, letter in enumerate(batch):
            count = len(letter.operations)
            if len(values) < at + count:
                assert failed is not None
                letter.done(CompoundFailed(failed.status, failed.results[at:], failed.what))
                return batch[number + 1 :]
            letter.done(values[at : at + count])
            at += count
        return []

    async def drain(self) -> None:
        self._hurry()
        while self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def aclose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

"""CLOSE, which nobody needs to wait for: those that come together travel in one COMPOUND."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

from quicfs.nfs import limits
from quicfs.nfs.client.channel import Operation
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.link import Link
from quicfs.nfs.v4.const import Op
from quicfs.nfs.v4.operations_files import PutfhArgs
from quicfs.nfs.v4.operations_open import CloseArgs
from quicfs.nfs.v4.types import StateId
from quicfs.vfs.status import FsError

__all__ = ["Closer"]

_log = logging.getLogger("quicfs.nfs")

_TOGETHER: Final = 8


class Closer:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._queue: deque[tuple[bytes, StateId]] = deque()
        self._task: asyncio.Task[None] | None = None

    def post(self, fh: bytes, stateid: StateId) -> bool:
        """Close it soon. False if too many wait already: then the caller does."""
        if len(self._queue) >= limits.POSTED_CLOSES:
            return False
        self._queue.append((fh, stateid))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
        return True

    async def _work(self) -> None:
        await asyncio.sleep(0)
        try:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(_TOGETHER, len(self._queue)))]
                await self._close(batch)
        finally:
            self._task = None

    async def _close(self, batch: list[tuple[bytes, StateId]]) -> None:
        while batch:
            operations: list[Operation] = []
            for fh, stateid in batch:
                operations += [(Op.PUTFH, PutfhArgs(fh)), (Op.CLOSE, CloseArgs(0, stateid))]
            try:
                await self._link.compound(operations, "closing", cache=True)
                return
            except CompoundFailed as failed:
                # An open that the server has forgotten, with its lease or its life: it is closed.
                _log.debug("CLOSE: %s", failed.status.name)
                batch = batch[failed.index // 2 + 1 :]
            except FsError as error:
                _log.debug("%d opens stay with the server until it gives up: %s", len(batch), error)
                return

    async def drain(self) -> None:
        while self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

"""Tasks that wait for something to change."""

from __future__ import annotations

import asyncio


class Waiters:
    """Whoever waits looks again after `wake`: any number of tasks, in the order in which they came."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: dict[asyncio.Future[None], None] = {}

    async def wait(self) -> None:
        """Until the next `wake`."""
        future = self.add()
        try:
            await future
        finally:
            self.discard(future)

    def add(self) -> asyncio.Future[None]:
        """A future that the next `wake` resolves; give it back with `discard`."""
        future = asyncio.get_running_loop().create_future()
        self._futures[future] = None
        return future

    def discard(self, future: asyncio.Future[None]) -> None:
        self._futures.pop(future, None)

    def wake(self) -> None:
        for future in self._futures:
            if not future.done():
                future.set_result(None)

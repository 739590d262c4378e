"""An event loop whose clock jumps to the next timer as soon as there is nothing else to do. Threads take no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual. RuntimeError when all wait and nobody will wake them. Time does not go on before that is
    done which thread pools were given while the loop runs."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.jobs = 0  # of threads
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now

    def run_forever(self) -> None:
        submit = ThreadPoolExecutor.submit

        def counted(pool: Any, call: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
            self.jobs += 1
            outcome: Future[Any] = Future()
            submit(pool, self._work, outcome, call, args, options)
            return outcome

        ThreadPoolExecutor.submit = counted  # type: ignore[method-assign, assignment]
        try:
            super().run_forever()
        finally:
            ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]

    async def shutdown_default_executor(self) -> None:
        self.jobs += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self.jobs -= 1

    def _work(self, outcome: Future[Any], call: Callable[..., Any], args: Any, options: Any) -> None:
        """In a thread. Whoever waits for the outcome has been told of it before the job no longer counts."""
        try:
            if outcome.set_running_or_notify_cancel():
                outcome.set_result(call(*args, **options))
        except BaseException as error:
            outcome.set_exception(error)
        finally:
            if not self.is_closed():
                self.call_soon_threadsafe(self._count_down)

    def _count_down(self) -> None:
        self.jobs -= 1


class _Selector(selectors.EpollSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._loop.jobs and timeout != 0:
            return super().select(60.0)
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("everything waits, and nothing will happen")
        self._loop.now += timeout
        return []


def run(work: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, in virtual time. What is left over is cancelled."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)

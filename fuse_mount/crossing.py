"""From the FUSE threads to the event loop and back.

A thread leaves a call in a queue and wakes the loop only if nobody woke it since it last looked; it sleeps
on a bare lock that the loop gives back when the call is done. Several calls of one thread may be under way
(read-ahead, write-behind). Every wait has an end: the deadline, or the death of the caller.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

from quicfs.vfs import FsError, Status

_log = logging.getLogger("quicfs.fuse_mount")

T = TypeVar("T")

_TICK_S: Final = 0.2
"""How often a thread that waits looks whether its caller still wants the answer."""

_PAUSE_S: Final = 5.0
"""After a missed deadline, calls get no more than a tick for so long; then the next one waits again. The kernel
lets programs that look into one directory wait for each other where nothing can kill them (libfuse 3.14
cannot ask it for parallel look-ups), so their waits must not add up."""


class CallAbandoned(Exception):
    """The program that asked was killed, or (for a lock) interrupted; answer EINTR."""


class Pending(Generic[T]):
    """One call of the file system, under way or done."""

    __slots__ = ("_lock", "args", "error", "function", "kwargs", "on_done", "started", "task", "value")

    def __init__(self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.value: T
        self.error: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self.started = False
        self.on_done: Callable[[Pending[T]], None] | None = None
        self._lock = threading.Lock()
        self._lock.acquire()

    @property
    def done(self) -> bool:
        return not self._lock.locked()

    def wait(self, seconds: float) -> bool:
        """Sleep until it is done, for `seconds` at most; whether it is. Any number of threads may."""
        if not self._lock.acquire(timeout=seconds):
            return False
        self._lock.release()
        return True

    def failure(self) -> FsError | None:
        """What went wrong; a new object each time, as several threads may raise it."""
        error = self.error
        if isinstance(error, FsError):
            return FsError(error.status, error.detail)
        return None if error is None else FsError(Status.IO, str(error))

    def result(self) -> T:
        """Only when done. Raises FsError."""
        error = self.failure()
        if error is not None:
            raise error
        return self.value

    def finish(self) -> None:
        """`on_done` comes first: who is woken finds its work done."""
        self.args = ()
        self.kwargs = {}
        try:
            if self.on_done is not None:
                self.on_done(self)
        finally:
            self._lock.release()


class Crossing:
    """The way of all calls of one mount.

    `deadline` bounds a wait; `retry_deadline` does while nothing was answered since a deadline was missed, and only
    now and then: in between, calls to a silent server fail almost at once. `abandoned(interruptible)` says,
    in a waiting thread, whether the caller has gone; `blocked(count)` is told how many threads wait now.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        deadline: float,
        retry_deadline: float,
        *,
        abandoned: Callable[[bool], bool] = lambda interruptible: False,
        blocked: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._loop = loop
        self._deadline = deadline
        self._retry_deadline = min(retry_deadline, deadline)
        self._abandoned = abandoned
        self._blocked = blocked
        self._queue: deque[Pending[Any]] = deque()
        self._woken = False
        self._silent = False  # a deadline was missed and nothing was answered since
        self._pause_until = 0.0
        self._waiting = 0
        self._waiting_lock = threading.Lock()
        self._under_way: set[Pending[Any]] = set()  # and so their tasks, which the loop alone would forget

    def submit(
        self,
        function: Callable[..., Awaitable[T]],
        *args: Any,
        **kwargs: Any,
    ) -> Pending[T]:
        """Start a call."""
        return self.start(Pending(function, args, kwargs))

    def prepare(self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> Pending[T]:
        """A call to `start` later. Its `on_done` may be set, and will be called in the loop."""
        return Pending(function, args, kwargs)

    def start(self, pending: Pending[T]) -> Pending[T]:
        self._queue.append(pending)
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop is closed: nobody will ever answer
                self._woken = False
                while self._queue:
                    orphan = self._queue.popleft()
                    orphan.error = FsError(Status.DISCONNECTED, "the mount is shutting down")
                    orphan.finish()
        return pending

    def call(self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Start a call and wait for what comes of it. Raises FsError or CallAbandoned."""
        return self.wait(self.submit(function, *args, **kwargs))

    def wait(self, pending: Pending[T], *, forever: bool = False, keep: bool = False) -> T:
        """What came of the call.

        `forever`: no deadline, and any signal to the caller ends it. `keep`: the death of the caller does not
        cancel the call, for others want it too; a missed deadline does.
        """
        if not pending.done:
            with self._waiting_lock:
                self._waiting += 1
                count = self._waiting
            try:
                self._blocked(count)
                self._sleep(pending, forever, keep)
            finally:
                with self._waiting_lock:
                    self._waiting -= 1
        return pending.result()

    def _sleep(self, pending: Pending[Any], forever: bool, keep: bool) -> None:
        if pending.wait(_TICK_S):
            self._silent = False
            return
        start = time.monotonic() - _TICK_S
        while True:
            now = time.monotonic()
            limit = self._limit(now)
            if not forever and now - start >= limit:
                if limit > _TICK_S:
                    self._pause_until = now + _PAUSE_S
                self._silent = True
                self.cancel(pending)
                raise FsError(Status.TIMEOUT, f"no answer within {limit:g} s")
            if self._abandoned(forever):
                if not keep:
                    self.cancel(pending)
                raise CallAbandoned
            if pending.wait(_TICK_S):
                self._silent = False
                return

    def _limit(self, now: float) -> float:
        if not self._silent:
            return self._deadline
        return _TICK_S if now < self._pause_until else self._retry_deadline

    def cancel(self, pending: Pending[Any]) -> None:
        """Stop working on it. Whether it still took effect is not known."""
        try:
            self._loop.call_soon_threadsafe(self._cancel, pending)
        except RuntimeError:
            return  # the loop is closed, the call gone with it

    def _cancel(self, pending: Pending[Any]) -> None:
        if pending.task is None or pending.done:
            return
        pending.task.cancel()
        if not pending.started:  # then its first step never comes
            self._end(pending, FsError(Status.TIMEOUT, "given up"))

    def _drain(self) -> None:
        self._woken = False  # before looking: what comes later wakes us again
        queue = self._queue
        create_task = self._loop.create_task
        while queue:
            pending = queue.popleft()
            self._under_way.add(pending)
            pending.task = create_task(self._run(pending))

    async def _run(self, pending: Pending[Any]) -> None:
        pending.started = True
        error: Exception | None = None
        try:
            pending.value = await pending.function(*pending.args, **pending.kwargs)
        except FsError as failure:
            error = failure
        except asyncio.CancelledError:
            error = FsError(Status.TIMEOUT, "given up")
        except Exception as failure:
            _log.exception("a call of the file system failed in a way that its contract does not know")
            error = failure
        self._end(pending, error)

    def _end(self, pending: Pending[Any], error: Exception | None) -> None:
        pending.error = error
        self._under_way.discard(pending)
        pending.finish()

    def cancel_all(self) -> None:
        """In the loop, when no thread is left: end what nobody waits for."""
        for pending in list(self._under_way):
            self._cancel(pending)

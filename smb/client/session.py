"""One session on one stream: login, and calls that many tasks make at once.

A single task reads. Requests go out as soon as there are credits for them, without waiting for answers.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from quicfs.smb.client.connection import MAX_ANSWER, ClientConnection, Packet
from quicfs.smb.client.errors import RequestFailed, SessionLost
from quicfs.smb.client.login import Login, SessionSettings, connect_error
from quicfs.smb.client.operation import Answer, Operation
from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.framing import MessageStream
from quicfs.smb.messages.header import Command
from quicfs.smb.messages.simple import EMPTY_BODY
from quicfs.smb.ntstatus import NtStatus
from quicfs.transport.bytestream import ByteStream

__all__ = ["Session"]

_log = logging.getLogger("quicfs.smb")

_CHECKS: Final = 4  # how often a timeout's length is looked at
_CLOSE_S: Final = 2.0  # for a polite LOGOFF

_SESSION_GONE: Final = frozenset(
    {
        NtStatus.USER_SESSION_DELETED,
        NtStatus.NETWORK_SESSION_EXPIRED,
        NtStatus.NETWORK_NAME_DELETED,
        NtStatus.CONNECTION_DISCONNECTED,
    }
)


class _Waiting:
    """A request that the server has; a compound is one."""

    __slots__ = ("answers", "future", "left", "orphaned", "patient", "since")

    def __init__(
        self,
        future: asyncio.Future[list[Answer]] | None,
        count: int,
        since: float,
        patient: bool,
        orphaned: Callable[[list[Answer]], None] | None,
    ) -> None:
        self.future = future
        self.answers: list[Answer | None] = [None] * count
        self.left = count
        self.since = since
        self.patient = patient
        self.orphaned = orphaned


class Session:
    """An established session with its tree. Made by `connect`; gone for good once `alive` is off."""

    def __init__(self, stream: ByteStream, settings: SessionSettings) -> None:
        self._settings = settings
        self._messages = MessageStream(stream)
        self._loop = asyncio.get_running_loop()
        self.connection = ClientConnection(
            client_guid=settings.client_guid or os.urandom(16),
            host=settings.host,
            secured=stream.secured,
            salt=os.urandom(32),
            encrypt=settings.encrypt,
        )
        self._waiting: dict[int, tuple[_Waiting, int]] = {}
        self._short_of_credits: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._reserved = 0  # credits of those who were let go on and have not yet run
        self._posted: list[Sequence[bytes | memoryview]] = []
        self._lost: SessionLost | None = None
        self._reader: asyncio.Task[None] | None = None
        self._heard = self._loop.time()
        self._asked_for_life = False
        self._timer: asyncio.TimerHandle | None = None
        self.is_guest = False
        self.clock_offset_ns = 0
        """What to add to our clock to get the server's."""

    @property
    def alive(self) -> bool:
        return self._lost is None

    @classmethod
    async def connect(cls, stream: ByteStream, settings: SessionSettings) -> Session:
        """Negotiate, log in and connect to the share. ConnectError with a sentence otherwise.

        The stream is closed when this fails.
        """
        session = cls(stream, settings)
        session._reader = session._loop.create_task(session._read())
        session._check_life()
        login = Login(session.connection, settings, session._ask)
        try:
            await login.run()
        except BaseException as error:
            await session.aclose()
            problem = connect_error(error, settings.host)
            if problem is None or problem is error:
                raise
            raise problem from error
        session.is_guest = login.is_guest
        session.clock_offset_ns = login.clock_offset_ns
        return session

    async def _ask(self, packet: Packet) -> Answer:
        """The answer to one request that was built elsewhere: those of the login."""
        future: asyncio.Future[list[Answer]] = self._loop.create_future()
        waiting = _Waiting(future, 1, self._loop.time(), False, None)
        self._waiting[packet.message_ids[0]] = (waiting, 0)
        await self._write(packet)
        return (await future)[0]

    # Calls

    async def call(self, operation: Operation, *, patient: bool = False) -> Answer:
        """One request; SmbError unless it succeeded. `patient`: it may wait as long as the server lives."""
        answers = await self.exchange((operation,), patient=patient)
        self.check(answers[0])
        return answers[0]

    async def compound(self, operations: Sequence[Operation]) -> list[Answer]:
        """Several related requests in one packet; SmbError for the first that failed."""
        answers = await self.exchange(operations)
        for answer in answers:
            self.check(answer)
        return answers

    def check(self, answer: Answer) -> None:
        """SmbError unless the answer says SUCCESS."""
        status = answer.header.status
        if status:
            if status in _SESSION_GONE:
                raise self._lose(f"the server ended the session (NTSTATUS 0x{status:08x})", sent=False)
            raise RequestFailed(answer)

    async def exchange(
        self,
        operations: Sequence[Operation],
        *,
        patient: bool = False,
        orphaned: Callable[[list[Answer]], None] | None = None,
    ) -> list[Answer]:
        """The answers of one compound, whatever their status.

        `orphaned` gets them when the caller was cancelled meanwhile, to undo what must not stay.
        Raises SessionLost.
        """
        charge = operations[0].charge if len(operations) == 1 else sum(op.charge for op in operations)
        if self._short_of_credits or self.connection.credits - self._reserved < charge:
            await self._credits(charge)
        if self._lost is not None:
            raise SessionLost(str(self._lost), sent=False)
        packet = self.connection.build(operations)
        future: asyncio.Future[list[Answer]] = self._loop.create_future()
        waiting = _Waiting(future, len(operations), self._loop.time(), patient, orphaned)
        for index, message_id in enumerate(packet.message_ids):
            self._waiting[message_id] = (waiting, index)
        try:
            await self._write(packet)
            return await future
        except asyncio.CancelledError:
            future.cancel()  # so that the answer goes to `orphaned`
            if patient:
                self._cancel(packet.message_ids)
            raise

    def post(self, operations: Sequence[Operation]) -> bool:
        """Send without waiting for an answer, if that is possible now: for CLOSE.

        It goes out with the next request, or by itself when there is none right now; order is kept.
        """
        if self._lost is not None or self._short_of_credits:
            return False
        if self.connection.credits - self._reserved < sum(op.charge for op in operations):
            return False
        packet = self.connection.build(operations)
        waiting = _Waiting(None, len(operations), self._loop.time(), False, None)
        for index, message_id in enumerate(packet.message_ids):
            self._waiting[message_id] = (waiting, index)
        self._post_packet(packet)
        return True

    def _post_packet(self, packet: Packet) -> None:
        if not self._posted:
            self._loop.call_soon(self._flush_soon)
        self._posted.append(packet.parts)

    def _flush_soon(self) -> None:
        if self._posted and self._lost is None:
            task = self._loop.create_task(self._flush())
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)

    async def _flush(self) -> None:
        if self._posted:
            posted, self._posted = self._posted, []
            try:
                await self._messages.write_messages(posted)
            except ConnectionError as error:
                self._lose(str(error), sent=True)  # whoever needs the session hears of it

    async def _write(self, packet: Packet) -> None:
        try:
            if self._posted:
                posted, self._posted = self._posted, []
                posted.append(packet.parts)
                await self._messages.write_messages(posted)
            else:
                await self._messages.write_message(*packet.parts)
        except ConnectionError as error:
            raise self._lose(str(error), sent=True) from error

    async def _credits(self, charge: int) -> None:
        """Wait for our turn and for enough credits. They are reserved for us until `build`."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._short_of_credits.append((charge, waiter))
        if not self._waiting:
            raise self._lose("the server gives too few credits to go on", sent=False)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._reserved -= charge
            self._grant()
            raise
        self._reserved -= charge

    def _grant(self) -> None:
        """Let those go on for whom there are credits now, in the order in which they came."""
        queue = self._short_of_credits
        while queue:
            charge, waiter = queue[0]
            if not waiter.done():
                if self._lost is None and self.connection.credits - self._reserved < charge:
                    return
                self._reserved += charge
                waiter.set_result(None)
            queue.popleft()

    def _cancel(self, message_ids: Sequence[int]) -> None:
        for message_id in message_ids:
            if message_id in self._waiting and self._lost is None:
                self._post_packet(self.connection.cancel(message_id))

    # The reader and the watch over it

    async def _read(self) -> None:
        reason, violation = "the server ended the connection", False
        try:
            while (packet := await self._messages.read_message(MAX_ANSWER)) is not None:
                self._heard = self._loop.time()
                self._asked_for_life = False
                for answer in self.connection.handle_packet(packet):
                    self._deliver(answer)
                if self._short_of_credits:
                    self._grant()
        except (ConnectionError, SmbProtocolError) as error:
            reason = str(error)
            violation = isinstance(error, SmbProtocolError)
            if violation and self.connection.established:
                _log.warning("%s: %s", self._settings.host, error)
        finally:
            self._lose(reason, sent=True, violation=violation)

    def _deliver(self, answer: Answer) -> None:
        waiting, index = self._waiting.pop(answer.header.message_id)
        waiting.answers[index] = answer
        waiting.left -= 1
        if waiting.left or waiting.future is None:
            return
        answers = [answer for answer in waiting.answers if answer is not None]
        if not waiting.future.done():
            waiting.future.set_result(answers)
        elif waiting.orphaned is not None:
            waiting.orphaned(answers)

    def _check_life(self) -> None:
        """Give up on a server that keeps silent, and on a call that it forgot.

        Before the first: an ECHO, so that a slow call alone is no reason.
        """
        if self._lost is not None:
            return
        now, limit = self._loop.time(), self._settings.timeout
        for waiting, _ in list(self._waiting.values())[:64]:  # the oldest come first
            if now - waiting.since <= limit / 2:
                break
            if now - max(self._heard, waiting.since) > limit:
                self._lose(f"the server said nothing for {limit:g} s", sent=True)
                return
            if now - self._heard > limit / 2 and not self._asked_for_life:
                self._asked_for_life = self.post((Operation(Command.ECHO, (EMPTY_BODY,)),))
        self._give_up_forgotten(now - 2 * limit)
        self._timer = self._loop.call_later(limit / _CHECKS, self._check_life)

    def _give_up_forgotten(self, before: float) -> None:
        for message_id, (waiting, _) in list(self._waiting.items()):
            if waiting.since > before:
                break
            if waiting.patient or self.connection.is_pending(message_id):
                continue
            if waiting.future is not None and not waiting.future.done():
                waiting.future.set_exception(TimeoutError("the server did not answer this request"))

    def _lose(self, reason: str, *, sent: bool, violation: bool = False) -> SessionLost:
        """The session is over: fail everybody who waits."""
        if self._lost is None:
            self._lost = SessionLost(reason, sent=True, violation=violation)
            waiting, self._waiting = self._waiting, {}
            for one, _ in waiting.values():
                if one.future is not None and not one.future.done():
                    one.future.set_exception(SessionLost(reason, sent=True, violation=violation))
            self._grant()
            if self._timer is not None:
                self._timer.cancel()
            self._close_soon()
        return SessionLost(reason, sent=sent)

    def _close_soon(self) -> None:
        task = self._loop.create_task(self._messages.aclose())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    async def aclose(self) -> None:
        """Log off if that takes no time, and give the stream back."""
        if self._lost is None and self.connection.established:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await self._answered()
                    await self.exchange((Operation(Command.LOGOFF, (EMPTY_BODY,)),))
            except (TimeoutError, SessionLost):
                pass  # it ends with the connection anyway
        self._lose("the session was closed here", sent=False)
        await self._messages.aclose()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _answered(self) -> None:
        """Wait for the answers to what was posted: LOGOFF would overtake it."""
        posted = [waiting for waiting, _ in self._waiting.values() if waiting.future is None]
        for waiting in posted:
            if waiting.left:
                waiting.future = self._loop.create_future()
        await asyncio.gather(*(waiting.future for waiting in posted if waiting.future is not None))


_tasks: set[asyncio.Task[None]] = set()  # the loop itself holds tasks only weakly

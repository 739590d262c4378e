"""One session on one stream: login, and calls that many tasks make at once.

A single task reads. Requests go out as soon as there are credits for them, without waiting for answers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from quicfs.smb.client.connection import MAX_ANSWER, ClientConnection, Packet
from quicfs.smb.client.errors import (
    ConnectError,
    ConnectProblem,
    RequestFailed,
    SessionLost,
    known_status,
)
from quicfs.smb.client.logon import Logon, LogonRefused
from quicfs.smb.client.operation import Answer, Operation
from quicfs.smb.errors import SmbError, SmbProtocolError
from quicfs.smb.filetime import ns_from_filetime
from quicfs.smb.framing import MessageStream
from quicfs.smb.limits import MAX_SETUP_ROUNDS
from quicfs.smb.messages.header import Command
from quicfs.smb.messages.session import SessionFlags, SessionSetupRequest, SessionSetupResponse
from quicfs.smb.messages.simple import EMPTY_BODY
from quicfs.smb.messages.tree import ShareFlags, ShareType, TreeConnectRequest, TreeConnectResponse
from quicfs.smb.ntlm import Credentials
from quicfs.smb.ntstatus import NtStatus
from quicfs.transport.bytestream import ByteStream

__all__ = ["Session", "SessionSettings"]

_log = logging.getLogger("quicfs.smb")

_CHECKS: Final = 4  # how often a timeout's length is looked at
_CLOSE_S: Final = 2.0  # for a polite LOGOFF
_IPC: Final = "IPC$"
_GUEST: Final = "guest"

_LOGON_FAILURES: Final = frozenset(
    {
        NtStatus.LOGON_FAILURE,
        NtStatus.NO_SUCH_USER,
        NtStatus.WRONG_PASSWORD,
        NtStatus.ACCESS_DENIED,
        NtStatus.ACCOUNT_RESTRICTION,
    }
)
_SESSION_GONE: Final = frozenset(
    {
        NtStatus.USER_SESSION_DELETED,
        NtStatus.NETWORK_SESSION_EXPIRED,
        NtStatus.NETWORK_NAME_DELETED,
        NtStatus.CONNECTION_DISCONNECTED,
    }
)


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """`timeout` is in seconds: how long one call may wait for a server that says nothing."""

    host: str
    share: str
    credentials: Credentials
    timeout: float = 30.0
    encrypt: bool = False
    client_guid: bytes = b""


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
        self.read_only = False
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
        try:
            await session._log_in()
            await session._connect_tree()
        except BaseException as error:
            await session.aclose()
            problem = session._connect_error(error)
            if problem is None:
                raise
            raise problem from error
        return session

    def _connect_error(self, error: BaseException) -> ConnectError | None:
        host = self._settings.host
        match error:
            case ConnectError():
                return None
            case SessionLost(violation=False):
                sentence = f"{host} hung up during the login: {error}"
                return ConnectError(ConnectProblem.UNREACHABLE, sentence)
            case SmbProtocolError() | SessionLost():
                sentence = f"{host} does not speak SMB 3.1.1 as it should: {error}"
                return ConnectError(ConnectProblem.PROTOCOL, sentence)
            case LogonRefused():
                return ConnectError(ConnectProblem.LOGON, f"logging in at {host}: {error}")
            case SmbError():
                sentence = f"{host} refused the connection: {error}"
                return ConnectError(ConnectProblem.PROTOCOL, sentence, error.status)
        return None

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
            if violation and self.connection.tree_id:
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
        if self._lost is None and self.connection.session_id:
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

    # Login

    async def _log_in(self) -> None:
        connection, settings = self.connection, self._settings
        packet = connection.negotiate_request()
        answer = await self._first(packet)
        if answer.status == NtStatus.NOT_SUPPORTED:
            raise ConnectError(
                ConnectProblem.PROTOCOL,
                f"{settings.host} speaks no SMB 3.1.1: newer settings or a newer server are needed",
            )
        if answer.status:
            raise SmbError(known_status(answer.status), "NEGOTIATE")
        hint = connection.handle_negotiate(answer)
        self._set_clock()
        logon = Logon(settings.credentials, settings.host)
        token = logon.first(hint)
        for _ in range(MAX_SETUP_ROUNDS):
            body = SessionSetupRequest(token, security_mode=1).pack()
            packet = connection.build((Operation(Command.SESSION_SETUP, (body,)),))
            connection.note_setup_request(packet)
            answer = await self._first(packet)
            if answer.status == NtStatus.SUCCESS:
                self._finish_login(logon, answer)
                return
            if answer.status != NtStatus.MORE_PROCESSING_REQUIRED:
                raise self._logon_error(answer.status)
            connection.note_setup_response(answer)
            token = logon.answer(bytes(SessionSetupResponse.parse(answer.message).security_buffer))
        raise SmbProtocolError("a login without an end")

    async def _first(self, packet: Packet) -> Answer:
        """The answer to a request of the login, which is built outside of `exchange`."""
        future: asyncio.Future[list[Answer]] = self._loop.create_future()
        waiting = _Waiting(future, 1, self._loop.time(), False, None)
        self._waiting[packet.message_ids[0]] = (waiting, 0)
        await self._write(packet)
        return (await future)[0]

    def _set_clock(self) -> None:
        if self.connection.server_time:
            self.clock_offset_ns = ns_from_filetime(self.connection.server_time) - time.time_ns()

    def _finish_login(self, logon: Logon, answer: Answer) -> None:
        response = SessionSetupResponse.parse(answer.message)
        flags = SessionFlags(response.session_flags & 7)
        anonymous = not self._settings.credentials.user
        self.is_guest = bool(flags & SessionFlags.IS_GUEST)
        trusted = not (self.is_guest or anonymous or flags & SessionFlags.IS_NULL)
        if self.is_guest and self._settings.credentials.user.lower() not in ("", _GUEST):
            # A guest's session has no key, so anybody in between could have made a guest of us.
            user = self._settings.credentials.user
            raise LogonRefused(
                f"user {user!r} is not known there, and guests have to say that they are guests"
            )
        if self._settings.encrypt and not trusted:
            raise LogonRefused("encryption was asked for, which takes a user with a password")
        logon.finish(bytes(response.security_buffer), guest=not trusted)
        encrypt = bool(flags & SessionFlags.ENCRYPT_DATA)
        self.connection.establish(answer, logon.session_key, trusted=trusted, encrypt=encrypt)

    def _logon_error(self, status: int) -> ConnectError:
        user, host = self._settings.credentials.user, self._settings.host
        if status in _LOGON_FAILURES and not user:
            sentence = f"{host} lets nobody in without a name and a password: give a user, as in user@{host}"
        elif status in _LOGON_FAILURES:
            sentence = f"user {user!r} was refused by {host}: check the name and the password"
        elif status == NtStatus.ACCOUNT_DISABLED:
            sentence = f"the account of user {user!r} is disabled at {host}: its administrator can enable it"
        elif status == NtStatus.PASSWORD_EXPIRED:
            sentence = f"the password of user {user!r} has expired at {host}: set a new one there"
        else:
            sentence = f"{host} refused the login of user {user!r}: {SmbError(known_status(status))}"
        return ConnectError(ConnectProblem.LOGON, sentence, status)

    async def _connect_tree(self) -> None:
        host, share = self._settings.host, self._settings.share
        body = TreeConnectRequest(f"\\\\{host}\\{share}").pack()
        answer = (await self.exchange((Operation(Command.TREE_CONNECT, (body,)),)))[0]
        if answer.status == NtStatus.BAD_NETWORK_NAME:
            raise ConnectError(
                ConnectProblem.SHARE,
                f"share {share!r} is not on {host}: `quicfs ls smb+quic://{host}` lists the shares",
                answer.status,
            )
        if answer.status:
            raise ConnectError(
                ConnectProblem.ACCESS,
                f"{host} does not let user {self._settings.credentials.user or 'anonymous'!r} use share "
                f"{share!r}: {SmbError(known_status(answer.status))}",
                answer.status,
            )
        response = TreeConnectResponse.parse(answer.message)
        if response.share_type != ShareType.DISK and share.upper() != _IPC:
            raise ConnectError(
                ConnectProblem.SHARE, f"share {share!r} on {host} is no folder: choose another"
            )
        self.connection.tree_id = answer.header.tree_id
        if response.share_flags & ShareFlags.ENCRYPT_DATA:
            self.connection.start_encryption()


_tasks: set[asyncio.Task[None]] = set()  # the loop itself holds tasks only weakly

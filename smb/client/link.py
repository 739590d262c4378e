"""The way to the server: a session that comes back after it was lost.

    DOWN --connect--> UP --lost--> DOWN ...

A call waits for the session, at most as long as the server may take to answer one call, counted from the
moment the link went down. When the server has been away for that long, one call a second tries again,
and the others fail at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeVar

from quicfs.smb.client.errors import ConnectError, ConnectProblem, SessionLost
from quicfs.smb.client.login import SessionSettings
from quicfs.smb.client.session import Session
from quicfs.smb.errors import SmbError, SmbProtocolError
from quicfs.smb.status import fs_error
from quicfs.transport.bytestream import ByteStream
from quicfs.vfs.status import FsError, Status

__all__ = ["Connect", "Link"]

_log = logging.getLogger("quicfs.smb")

Connect = Callable[[], Awaitable[ByteStream]]
T = TypeVar("T")

_FIRST_DELAY_S: Final = 0.2
_LONGEST_DELAY_S: Final = 1.0
_LEAST_WAIT_S: Final = 2.0  # for a call that tries whether the server is back

# What the user has to change; trying again and again could lock the account.
_PERMANENT: Final = {
    ConnectProblem.LOGON: Status.ACCESS,
    ConnectProblem.ACCESS: Status.ACCESS,
    ConnectProblem.SHARE: Status.NOT_FOUND,
    ConnectProblem.PROTOCOL: Status.IO,
}


class Link:
    """Owns the session. `on_change` hears (host, whether it is up) when the link goes down or up again."""

    def __init__(self, connect: Connect, settings: SessionSettings) -> None:
        self._connect = connect
        self.settings = replace(settings, client_guid=settings.client_guid or os.urandom(16))
        self._session: Session | None = None
        self._attempt: asyncio.Task[Session] | None = None
        self._delay = 0.0
        self._not_before = 0.0
        self._down_since: float | None = None
        self._failed: ConnectError | None = None  # the last attempt since then
        self._closed = False

    async def open(self) -> Session:
        """Connect now. ConnectError with a sentence when that fails."""
        try:
            stream = await self._connect()
        except ConnectionError as error:
            raise ConnectError(ConnectProblem.UNREACHABLE, str(error)) from error
        except OSError as error:
            sentence = f"{self.settings.host} cannot be reached: {error.strerror or error}"
            raise ConnectError(ConnectProblem.UNREACHABLE, sentence) from error
        # Only one that was lost is replaced; the server gives up what it held, locks above all.
        lost = self._session.connection.session_id if self._session is not None else 0
        session = await Session.connect(stream, replace(self.settings, previous_session_id=lost))
        if self._closed:
            await session.aclose()
            raise ConnectError(ConnectProblem.UNREACHABLE, "the file system was closed")
        self._session = session
        self._down_since = self._failed = None
        self._delay = 0.0
        return session

    async def session(self) -> Session:
        """A session that works, connecting if need be. FsError when none is there in time."""
        session = self._session
        if session is not None and session.alive:
            return session
        if self._closed:
            raise FsError(Status.DISCONNECTED, "the file system was closed")
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._down_since is None:
            self._down_since = now
        deadline = self._down_since + self.settings.timeout
        if now >= deadline and self._failed is not None and now < self._not_before:
            raise self._failure()
        deadline = max(deadline, now + _LEAST_WAIT_S)
        while True:
            if self._attempt is None:
                self._attempt = loop.create_task(self._attempt_once())
            attempt = self._attempt
            done, _ = await asyncio.wait((attempt,), timeout=max(0.0, deadline - loop.time()))
            if not done:
                raise self._failure()
            if attempt.cancelled():
                raise FsError(Status.DISCONNECTED, "the file system was closed")
            error = attempt.exception()
            if error is None:
                return attempt.result()
            if not isinstance(error, ConnectError):
                raise error
            if error.problem in _PERMANENT or loop.time() >= deadline:
                raise self._failure()

    def _failure(self) -> FsError:
        last = self._failed
        if last is None:
            return FsError(Status.DISCONNECTED, self.settings.host)
        return FsError(_PERMANENT.get(last.problem, Status.DISCONNECTED), str(last))

    async def _attempt_once(self) -> Session:
        """One attempt for all who wait, not too soon after the last one."""
        loop = asyncio.get_running_loop()
        try:
            if (pause := self._not_before - loop.time()) > 0:
                await asyncio.sleep(pause)
            async with asyncio.timeout(self.settings.timeout):
                session = await self.open()
        except TimeoutError as error:
            sentence = f"{self.settings.host} does not answer"
            self._failed = ConnectError(ConnectProblem.UNREACHABLE, sentence)
            self._back_off()
            raise self._failed from error
        except ConnectError as error:
            if self._delay == 0:
                _log.warning("cannot connect: %s", error)
            self._failed = error
            self._back_off()
            raise
        finally:
            self._attempt = None
        return session

    def _back_off(self) -> None:
        self._delay = min(_LONGEST_DELAY_S, self._delay * 2 or _FIRST_DELAY_S)
        self._not_before = asyncio.get_running_loop().time() + self._delay

    async def run(self, operation: Callable[[Session], Awaitable[T]], what: str, *, again: bool = True) -> T:
        """`operation` with a session; its failures become FsErrors that name `what`.

        When the session is lost under it, it runs once more in a new one, if `again` says that doing it
        twice does no harm, or if the server cannot have seen it.
        """
        session = self._session
        for last in (False, True):
            if session is None or not session.alive:
                session = await self.session()
            try:
                return await operation(session)
            except SmbError as error:
                raise fs_error(error.status, what) from error
            except SessionLost as lost:
                if last or (lost.sent and not again):
                    raise FsError(Status.DISCONNECTED, f"{what}: {lost}") from lost
                _log.info("%s: %s; connecting again", self.settings.host, lost)
                session = None
            except SmbProtocolError as error:
                raise FsError(Status.IO, f"{what}: {error}") from error
            except TimeoutError as error:
                raise FsError(Status.TIMEOUT, what) from error
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        self._closed = True
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.gather(self._attempt, return_exceptions=True)
        if self._session is not None:
            await self._session.aclose()

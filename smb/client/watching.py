"""Changes below a directory, by CHANGE_NOTIFY ([MS-SMB2] §2.2.35)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Final

from quicfs.smb.client import requests
from quicfs.smb.client.link import Link
from quicfs.smb.client.node import SmbNode
from quicfs.smb.client.operation import Answer, Operation, close
from quicfs.smb.client.session import Session
from quicfs.smb.errors import SmbError
from quicfs.smb.messages.access import CreateOptions
from quicfs.smb.messages.change_notify import (
    WATCH_TREE,
    ChangeNotifyRequest,
    NotifyAction,
    parse_notifications,
)
from quicfs.smb.messages.header import Command
from quicfs.smb.messages.output import parse_output
from quicfs.smb.names import path_from_wire
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.status import fs_error
from quicfs.vfs.api import Change, Watch
from quicfs.vfs.status import FsError, Status

__all__ = ["SmbWatch"]

_EVERYTHING: Final = 0x17F  # names, attributes, size, times, EAs, security
_DIRECTORY: Final = int(CreateOptions.DIRECTORY_FILE)
_BUFFER: Final = 65536
MAX_QUEUED: Final = 4096
"""Changes that wait for their reader; beyond that they become one "look at everything"."""
_MISSED: Final = Change("", modified=True)


class SmbWatch(Watch):
    """Asks the server at once, and again after each answer, in a task of its own.

    When the connection was lost, changes may have been missed, and the empty name says so.
    """

    def __init__(self, link: Link, node: SmbNode, *, recursive: bool) -> None:
        self._link = link
        self._node = node
        self._flags = WATCH_TREE if recursive else 0
        self._session: Session | None = None
        self._handle = b""
        self._posix = False
        self._queue: deque[Change] = deque()
        self._more = asyncio.Event()
        self._error: FsError | None = None
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def __anext__(self) -> Change:
        while not self._queue:
            if self._task.done():
                if self._error is not None:
                    error, self._error = self._error, None
                    raise error
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        return self._queue.popleft()

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while True:
                answer = await self._link.run(self._notified, self._node.shown)
                if answer is None or answer.status == NtStatus.NOTIFY_ENUM_DIR:
                    self._put((_MISSED,))
                elif answer.status in (NtStatus.NOTIFY_CLEANUP, NtStatus.DELETE_PENDING):
                    return  # the directory was removed
                elif answer.status:
                    raise fs_error(answer.status, self._node.shown)
                else:
                    changes = parse_notifications(parse_output(answer.message))
                    self._put(_changes(changes, posix=self._posix))
        except FsError as error:
            if error.status not in (Status.NOT_FOUND, Status.STALE):
                self._error = error
        finally:
            if self._session is not None:
                self._session.post((close(self._handle),))
            self._more.set()

    def _put(self, changes: Iterator[Change] | tuple[Change, ...]) -> None:
        self._queue.extend(changes)
        if len(self._queue) > MAX_QUEUED:
            self._queue.clear()
            self._queue.append(_MISSED)
        self._more.set()

    async def _notified(self, session: Session) -> Answer | None:
        """The next answer; None when the directory had to be opened again."""
        first = self._session is None
        if session is not self._session:
            await self._open(session)
            if not first:
                return None
        body = ChangeNotifyRequest(self._handle, _EVERYTHING, _BUFFER, self._flags).pack()
        operation = Operation(Command.CHANGE_NOTIFY, (body,), _BUFFER)
        return (await session.exchange((operation,), patient=True))[0]

    async def _open(self, session: Session) -> None:
        def close_again(answers: list[Answer]) -> None:
            if not answers[0].status:
                session.post((close(requests.create_response(answers[0])[0].file_id),))

        self._posix = session.connection.posix
        request = requests.create(self._node.path, requests.LIST, posix=self._posix, options=_DIRECTORY)
        answers = await session.exchange((request,), orphaned=close_again)
        session.check(answers[0])
        self._session, self._handle = session, requests.create_response(answers[0])[0].file_id


def _changes(notified: list[tuple[int, str]], *, posix: bool) -> Iterator[Change]:
    old_name = None
    for action, wire in notified:
        try:
            name = path_from_wire(wire, posix=posix)
        except SmbError:  # no name that a file could have: look for yourself
            yield _MISSED
            continue
        match action:
            case NotifyAction.ADDED:
                yield Change(name, created=True)
            case NotifyAction.REMOVED:
                yield Change(name, removed=True)
            case NotifyAction.RENAMED_OLD_NAME:
                old_name = name
            case NotifyAction.RENAMED_NEW_NAME:
                yield Change(name, renamed_from=old_name)
                old_name = None
            case _:
                yield Change(name, modified=True)
    if old_name is not None:
        yield Change(old_name, removed=True)

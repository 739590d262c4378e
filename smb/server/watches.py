"""One watched directory behind an open ([MS-SMB2] §3.3.5.19; [MS-FSA] §2.1.5.11)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from quicfs.smb.limits import MAX_NOTIFICATIONS
from quicfs.smb.messages.change_notify import NotifyAction
from quicfs.smb.names import path_to_wire
from quicfs.vfs import Change, FsError

__all__ = ["DirectoryWatch"]

_NAMES: Final = 0x003  # completion filters for names of files and directories
_CONTENT: Final = ~0x003


class DirectoryWatch:
    """Collects changes from the first request on until the open is closed, also between requests."""

    def __init__(self, changes: AsyncIterator[Change], *, filter_: int, posix: bool) -> None:
        self._posix = posix
        self._filter = filter_
        self._kept: deque[tuple[int, str]] = deque()
        self._lost = False
        self._ended = False
        self._wake = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._collect(changes))

    async def take(self) -> list[tuple[int, str]] | None:
        """What happened since the last call, waiting for something; None when too much did to be told."""
        while not self._kept and not self._lost:
            if self._ended:
                return None
            self._wake.clear()
            await self._wake.wait()
        if self._lost:
            self._lost = False
            self._kept.clear()
            return None
        found = list(self._kept)
        self._kept.clear()
        return found

    def close(self) -> None:
        self._task.cancel()

    async def _collect(self, changes: AsyncIterator[Change]) -> None:
        try:
            async for change in changes:
                self._add(change)
        except FsError:
            self._lost = True
        finally:
            self._ended = True
            self._wake.set()
            close = getattr(changes, "aclose", None)
            if close is not None:
                with contextlib.suppress(asyncio.CancelledError):
                    await close()

    def _add(self, change: Change) -> None:
        told = [
            (action, path_to_wire(name, posix=self._posix)[1:])
            for action, name in _actions(change)
            if self._filter & (_CONTENT if action == NotifyAction.MODIFIED else _NAMES)
        ]
        if len(self._kept) + len(told) > MAX_NOTIFICATIONS:
            self._lost = True
        elif told:
            self._kept.extend(told)
        if told:
            self._wake.set()


def _actions(change: Change) -> list[tuple[int, str]]:
    if change.renamed_from is not None:
        return [
            (NotifyAction.RENAMED_OLD_NAME, change.renamed_from),
            (NotifyAction.RENAMED_NEW_NAME, change.name),
        ]
    found = []
    if change.created:
        found.append((NotifyAction.ADDED, change.name))
    if change.removed:
        found.append((NotifyAction.REMOVED, change.name))
    if change.modified:
        found.append((NotifyAction.MODIFIED, change.name))
    return [(int(action), name) for action, name in found]

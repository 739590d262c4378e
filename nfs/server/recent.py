"""Open files of calls that come without one: a client of NFSv3 names the file anew with each READ and WRITE.

What was opened for one call is kept for the next ones of the same caller, for a moment only: rights are looked at when
a file is opened, and a file without a name keeps its space while it is.
"""

from __future__ import annotations

import logging

from quicfs.nfs.limits import MAX_RECENT_FILES, RECENT_FILE_S
from quicfs.nfs.server.files import HeldFile
from quicfs.vfs.api import Caller
from quicfs.vfs.status import FsError

__all__ = ["RecentFiles"]

_log = logging.getLogger("quicfs.nfs")
_Key = tuple[bytes, Caller, bool]  # file handle, caller, for writing


class _Kept:
    __slots__ = ("held", "used")

    def __init__(self, held: HeldFile, used: float) -> None:
        self.held = held
        self.used = used


class RecentFiles:
    """Those of one server, by handle, caller and whether they are open for writing."""

    def __init__(self) -> None:
        self._kept: dict[_Key, _Kept] = {}  # the one longest unused first

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, raw: bytes, caller: Caller, *, write: bool, now: float) -> HeldFile | None:
        """To be released by the one who asked."""
        kept = self._kept.pop((raw, caller, write), None)
        if kept is None:
            return None
        self._kept[raw, caller, write] = kept
        kept.used = now
        return kept.held.share()

    async def keep(self, raw: bytes, caller: Caller, held: HeldFile, *, write: bool, now: float) -> None:
        """A file that somebody is using now."""
        if (raw, caller, write) in self._kept:
            return  # two calls at one time opened it
        self._kept[raw, caller, write] = _Kept(held.share(), now)
        if len(self._kept) > MAX_RECENT_FILES:
            await self._close(next(iter(self._kept)))

    async def drop(self, raw: bytes) -> None:
        """Its names or rights change: nothing is kept of it."""
        if self._kept:
            for key in [key for key in self._kept if key[0] == raw]:
                await self._close(key)

    async def tick(self, now: float) -> None:
        """To be called every second or so."""
        for key in [key for key, kept in self._kept.items() if kept.used + RECENT_FILE_S <= now]:
            await self._close(key)

    async def aclose(self) -> None:
        for key in list(self._kept):
            await self._close(key)

    async def _close(self, key: _Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        try:
            await kept.held.release()
        except FsError as error:
            # Whoever wrote has its answer; what COMMIT will find is another matter.
            _log.warning("closing a file failed: %s", error)

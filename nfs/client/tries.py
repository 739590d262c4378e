"""How often a call is made again whose state the server has lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from quicfs.nfs.client.status import LOST_STATE
from quicfs.nfs.v4.const import Stat

if TYPE_CHECKING:
    from quicfs.nfs.client.openfile import NfsOpenFile

__all__ = ["Tries"]

_MOST: Final = 4


class Tries:
    """Of one call with the stateid of an open file. A server that restarted has lost it for a reason; that does not
    count, but the time does."""

    def __init__(self, file: NfsOpenFile) -> None:
        self._file = file
        self._generation = file.generation
        self._left = _MOST
        self._deadline = asyncio.get_running_loop().time() + file.fs.uplink.settings.timeout

    def again(self, status: Stat) -> bool:
        """Whether the call, which failed with `status`, is to be made once more."""
        if status not in LOST_STATE:
            return False
        if self._file.generation == self._generation:
            self._left -= 1
        self._generation = self._file.generation
        return self._left > 0 and asyncio.get_running_loop().time() < self._deadline

"""Small READs of a file that others may not write meanwhile bring what is around them, and in the end all of it.

Only under a delegation, as nothing is remembered for long without, and only of files that can be remembered as a whole.
Who reads here and there in such a file is first given what costs little more than the READ alone. Once as much time was
spent waiting as all of the file takes, it is fetched, unless that takes long: at most, reading costs twice what it
would have.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from quicfs.nfs.client.caching import Caches
from quicfs.nfs.client.delegations import Delegations
from quicfs.nfs.client.nodes import NfsNode
from quicfs.nfs.client.transfer import SMALL_PIECE
from quicfs.vfs.pieces import in_turns
from quicfs.vfs.status import FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.client.openfile import NfsOpenFile
    from quicfs.nfs.client.transfer import Pace

__all__ = ["Around"]

_log = logging.getLogger("quicfs.nfs")

_SMALL: Final = 32 << 10
_LONGEST_S: Final = 3.0  # that fetching all of a file may take
_FASTER: Final = 2  # times, when several READs are under way at once

_Block = tuple[NfsNode, int, int]
"""Of a file; where it begins, and its length."""


class Around:
    """Of all files of one client."""

    def __init__(self, caches: Caches, delegations: Delegations) -> None:
        self._caches = caches
        self._delegations = delegations
        self._under_way: dict[_Block, asyncio.Task[bytes | memoryview]] = {}
        self._whole: WeakSet[NfsNode] = WeakSet()  # under way, or in vain

    async def read(self, file: NfsOpenFile, offset: int, length: int) -> memoryview | None:
        """As `OpenFile.read`; None if no more is to be fetched than what is asked for."""
        session = file.fs.uplink.current
        if length > _SMALL or session is None:
            return None
        block = self._block(file.nfs_node, offset, length, session.pace)
        if block is None:
            return None
        # Who wants of the same block waits for it, too.
        task = self._under_way.get(block)
        if task is None:
            task = asyncio.get_running_loop().create_task(file.read_whole(block[1], block[2]))
            self._under_way[block] = task
            task.add_done_callback(lambda task: self._fetched(block, task))
            self._consider(file, session.pace)
        try:
            data = memoryview(await asyncio.shield(task))
        except FsError:
            return None  # alone it has an error of its own
        start = offset - block[1]
        return data[start : start + length]

    def _block(self, node: NfsNode, offset: int, length: int, pace: Pace) -> _Block | None:
        attr = self._caches.attr(node)
        if attr is None or self._delegations.of(node) is None or attr.size > self._caches.data.limit:
            return None
        size = pace.free
        start = offset // size * size
        end = min(max(start + size, offset + length), attr.size)
        return (node, start, end - start) if start <= offset and end - start > length else None

    def _fetched(self, block: _Block, task: asyncio.Task[bytes | memoryview]) -> None:
        del self._under_way[block]
        if not task.cancelled():
            task.exception()  # whoever waited has it

    def _consider(self, file: NfsOpenFile, pace: Pace) -> None:
        """Fetching all of it."""
        node = file.nfs_node
        attr = self._caches.attr(node)
        if attr is None or node in self._whole:
            return
        takes, call = pace.seconds(attr.size), pace.seconds(0)
        if takes is None or call is None:
            return
        takes /= _FASTER
        if takes < min(_LONGEST_S, self._caches.data.reads(node) * call):
            self._whole.add(node)
            file.fs.spawn(self._fetch(file, attr.size))

    async def _fetch(self, file: NfsOpenFile, size: int) -> None:
        node = file.nfs_node

        async def piece(at: int) -> None:
            length = min(SMALL_PIECE, size - at)
            if self._caches.read(node, at, length) is not None:
                return
            if file.closed or self._delegations.of(node) is None:
                raise FsError(Status.STALE, "nobody wants it any more")
            await file.read_whole(at, length)

        try:
            await in_turns(size, SMALL_PIECE, piece)
        except FsError as error:
            _log.debug("%s is not fetched: %s", node.shown, error)
        else:
            self._whole.discard(node)

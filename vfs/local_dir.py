"""Directory listings that can be continued: names ordered by a fixed hash, which is their cookie.

The place of a name in the listing depends on nothing but the name, so an entry that exists all the time
comes exactly once, whatever else comes and goes, and whether or not the snapshot is still there.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_right
from collections import OrderedDict
from concurrent.futures import Executor
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from quicfs.vfs.api import Attr, DirEntry, DirPage
from quicfs.vfs.descriptor import Descriptor
from quicfs.vfs.local_attr import ObjectKey, StatReader
from quicfs.vfs.local_node import LocalNode
from quicfs.vfs.local_rights import Rights

MAX_SNAPSHOTS: Final = 64
MAX_SNAPSHOT_NAMES: Final = 1 << 20
"""Names that all snapshots hold together; one directory alone may be larger while it is listed."""

LARGE_DIRECTORY: Final = 128 * 1024
"""Bytes of a directory from which on its names are read in the thread pool."""

_STATS_PER_TURN: Final = 512  # about 3 ms, then other tasks of the loop get their turn
_COOKIE_BASE: Final = 1 << 62  # cookies are far away from 0 to 2, which protocols use for themselves

Names = tuple[list[int], list[bytes]]


def cookie_of(name: bytes) -> int:
    """63 bits, the top one set. Two names of one directory with the same are not to be expected."""
    return _COOKIE_BASE | int.from_bytes(blake2b(name, digest_size=8).digest(), "little") >> 2


def _read_names(fd: int) -> Names:
    with os.scandir(fd) as entries:
        listing = sorted((cookie_of(name), name) for entry in entries if (name := os.fsencode(entry.name)))
    return [cookie for cookie, _ in listing], [name for _, name in listing]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEntry(DirEntry):
    key: ObjectKey


class Listings:
    """The snapshots of one tree."""

    def __init__(self, stat: StatReader, pool: Executor) -> None:
        self._stat = stat
        self._pool = pool
        self._snapshots: OrderedDict[LocalNode, Names] = OrderedDict()
        self._held = 0

    async def page(
        self, node: LocalNode, dir_fd: int, attr: Attr, cookie: int, limit: int, rights: Rights
    ) -> DirPage:
        """`limit` entries after `cookie`. `dir_fd` (O_PATH) need not outlive the first step. `rights` must be
        enough to read the directory and to search it."""
        with rights:
            # The one component "." of an open directory leads nowhere else.
            directory = Descriptor(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd))
        try:
            names = self._snapshots.get(node) if cookie else None
            if names is None:
                if attr.size > LARGE_DIRECTORY:
                    names = await directory.run(self._pool, _read_names)
                else:
                    names = _read_names(directory.fd)
            return await self._fill(node, directory.fd, names, cookie, limit, rights)
        finally:
            directory.close()

    def _remember(self, node: LocalNode, names: Names) -> None:
        if node in self._snapshots:
            self._snapshots.move_to_end(node)
            if self._snapshots[node] is names:
                return
        self.forget(node)
        self._snapshots[node] = names
        self._held += len(names[0])
        while len(self._snapshots) > 1 and (
            len(self._snapshots) > MAX_SNAPSHOTS or self._held > MAX_SNAPSHOT_NAMES
        ):
            self.forget(next(iter(self._snapshots)))

    def forget(self, node: LocalNode) -> None:
        names = self._snapshots.pop(node, None)
        if names is not None:
            self._held -= len(names[0])

    async def _fill(
        self, node: LocalNode, fd: int, names: Names, cookie: int, limit: int, rights: Rights
    ) -> DirPage:
        cookies, raw_names = names
        position = bisect_right(cookies, cookie)
        entries: list[DirEntry] = []
        while True:
            turn = min(position + _STATS_PER_TURN, len(cookies))
            with rights:
                while position < turn and len(entries) < limit:
                    raw = raw_names[position]
                    try:
                        key, attr = self._stat.of_entry(fd, raw)
                    except FileNotFoundError:
                        pass  # removed since the names were read
                    else:
                        entries.append(LocalEntry(os.fsdecode(raw), attr, cookies[position], key=key))
                    position += 1
            if position == len(cookies) or len(entries) == limit:
                break
            await asyncio.sleep(0)
        eof = position == len(cookies)
        if eof:
            self.forget(node)
        else:
            self._remember(node, names)
        return DirPage(entries, eof)

"""Who lists one directory after its neighbour will list the next one, too: it is fetched meanwhile.

`ls -R`, `find`, `git status` and every copy of a tree walk through the directories of a directory in the order of its
entries, or of their names. Each listing is a round trip, and a few of them can be under way at once.
"""

from __future__ import annotations

import os
import posixpath
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from quicfs.fuse_mount.cache import drop_oldest
from quicfs.fuse_mount.crossing import Pending
from quicfs.vfs import DirEntry, DirPage, FileKind, FsError

if TYPE_CHECKING:
    from quicfs.fuse_mount.context import Context

_AHEAD: Final = 3
"""Directories that are fetched before they are asked for; so many are fetched in vain when a walk ends early."""

_MOST: Final = 256
"""Entries of one that is fetched: what takes several pages is read by whoever wants it."""

_LARGEST: Final = 16_384
"""Entries of a directory whose directories are put in order."""

_MAX_WALKS: Final = 256


class _Walk:
    """Through the directories of one directory."""

    def __init__(self, entries: Sequence[DirEntry]) -> None:
        self.entries = entries
        self.children = {entry.name: entry for entry in entries if entry.attr.kind is FileKind.DIRECTORY}
        names = list(self.children)
        self.orders = [names, sorted(names, key=os.fsencode)]
        self.places = [{name: place for place, name in enumerate(order)} for order in self.orders]
        self.last: list[int] = [-1, -1]  # the place of the child that was listed last, in each order
        self.fetched: set[str] = set()

    def next(self, name: str) -> list[str]:
        """`name` is listed: which ones will be."""
        found: list[str] = []
        for number, (order, places) in enumerate(zip(self.orders, self.places, strict=True)):
            place = places.get(name)
            if place is None:
                return []
            if place == self.last[number] + 1 and not found:
                found = order[place + 1 : place + 1 + _AHEAD]
            self.last[number] = place
        return [each for each in found if each not in self.fetched]


class Siblings:
    """Called from many threads."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._walks: dict[bytes, _Walk] = {}
        self._under_way: dict[bytes, Pending[DirPage]] = {}
        self._lock = threading.Lock()

    def arrive(self, path: bytes) -> None:
        """The directory at `path` is about to be listed. Waits if it is being fetched: then it is remembered."""
        parent, name = posixpath.split(path)
        if self._context.options.attr_timeout and name:
            self._go_on(parent, os.fsdecode(name))
        pending = self._under_way.get(path)
        if pending is not None:
            try:
                self._context.crossing.wait(pending, keep=True)
            except FsError:
                return  # whoever lists it hears of it

    def _go_on(self, parent: bytes, name: str) -> None:
        listing = self._context.cache.listing(parent)
        entries = None if listing is None else listing.entries
        if entries is None or len(entries) > _LARGEST:
            return
        with self._lock:
            walk = self._walks.get(parent)
            if walk is None or walk.entries is not entries:
                walk = self._walks[parent] = _Walk(entries)
                if len(self._walks) > _MAX_WALKS:
                    drop_oldest(self._walks, _MAX_WALKS // 8)
            names = walk.next(name)
            walk.fetched.update(names)
        prefix = parent if parent.endswith(b"/") else parent + b"/"
        for each in names:
            self._fetch(prefix + os.fsencode(each), walk.children[each])

    def _fetch(self, path: bytes, entry: DirEntry) -> None:
        context = self._context
        if context.cache.listing(path) is not None:
            return
        known = context.cache.node(path) or entry.node
        directory, name = context.base(path)
        began, ticket, ends = time.monotonic(), context.cache.ticket(), context.handles.ends()

        async def fetch() -> DirPage:
            node = known
            if node is None:
                node, attr = await context.fs.lookup(directory, name)
                context.cache.put(path, attr, node, ticket)
            return await context.fs.readdir(node, 0, _MOST)

        def done(pending: Pending[DirPage]) -> None:
            self._under_way.pop(path, None)
            if pending.error is not None:
                return
            page = pending.value
            context.cache.put_listed(path, [e for e in page.entries if e.attr.fileid not in ends], ticket)
            if page.eof:
                context.cache.put_listing(path, page.entries, ticket, began)

        pending = context.crossing.prepare(fetch)
        pending.on_done = done
        self._under_way[path] = pending
        context.crossing.start(pending)

"""Who asks for several names of a directory one after the other will ask for more: they are fetched together.

`git status` looks at every file of a tree by its name and never lists a directory; on a network each look is a round
trip. A listing costs about as much as one of them, and brings the attributes of all.
"""

from __future__ import annotations

import posixpath
import threading
import time
from typing import TYPE_CHECKING, Final

from quicfs.fuse_mount.cache import Entry, drop_oldest
from quicfs.vfs import FsError

if TYPE_CHECKING:
    from quicfs.fuse_mount.context import Context

_STEPS: Final = ((2, 128), (16, 1024))
"""From so many misses on, so many entries: a large directory, or a slow network, is not read for two names."""

_MAX_DIRECTORIES: Final = 1024


class _Misses:
    """Names of one directory that were asked for and not known."""

    __slots__ = ("count", "expires", "lock", "step")

    def __init__(self, expires: float) -> None:
        self.expires = expires
        self.count = 0
        self.step = 0
        self.lock = threading.Lock()


class Neighbours:
    """Called from many threads."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._misses: dict[bytes, _Misses] = {}

    def look(self, path: bytes) -> Entry | None:
        """What a listing of the directory tells of `path`, if it is time for one; None: ask for the name itself."""
        context = self._context
        directory = posixpath.dirname(path)
        if not context.options.attr_timeout or directory == path:
            return None
        misses = self._of(directory)
        misses.count += 1
        if misses.step >= len(_STEPS) or misses.count < _STEPS[misses.step][0]:
            return None
        with misses.lock:  # whoever comes second finds what the first has fetched
            found = context.cache.get(path)
            if found is not None or misses.step >= len(_STEPS):
                return found
            limit = _STEPS[misses.step][1]
            misses.step += 1
            try:
                if self._fetch(directory, limit):
                    misses.step = len(_STEPS)
            except FsError:
                return None  # the look-up of the name itself will tell
        return context.cache.get(path)

    def _of(self, directory: bytes) -> _Misses:
        now = time.monotonic()
        misses = self._misses.get(directory)
        if misses is None or misses.expires < now:
            misses = self._misses[directory] = _Misses(now + self._context.options.attr_timeout)
            if len(self._misses) > _MAX_DIRECTORIES:
                drop_oldest(self._misses, _MAX_DIRECTORIES // 8)
        return misses

    def _fetch(self, directory: bytes, limit: int) -> bool:
        """Whether that was all of it."""
        context = self._context
        node = context.node(directory)
        began = time.monotonic()
        ticket = context.cache.ticket()
        ends = context.handles.ends()
        page = context.crossing.call(context.fs.readdir, node, 0, limit)
        entries = [entry for entry in page.entries if entry.attr.fileid not in ends]
        context.cache.put_listed(directory, entries, ticket)
        if page.eof:
            context.cache.put_listing(directory, page.entries, ticket, began)
        return page.eof

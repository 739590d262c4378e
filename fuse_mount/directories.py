"""Directories: a listing is read page by page, one page ahead, and handed to the kernel with attributes."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from quicfs.fuse_mount.context import Context
from quicfs.fuse_mount.crossing import Pending
from quicfs.fuse_mount.siblings import Siblings
from quicfs.vfs import Attr, DirEntry, DirPage, FsError, Node, Status

PAGE: Final = 1024
"""Entries asked for at once."""

Fill = Callable[[str, Attr | None, int], bool]
"""Give an entry to the kernel: name, attributes, the offset after it. False: no room, or an error."""

_DOTS: Final = (".", "..")


class DirHandle:
    """One open directory. Offsets count entries; 1 and 2 follow the dots."""

    def __init__(self, fh: int, path: bytes, node: Node) -> None:
        self.fh = fh
        self.path = path
        self.prefix = path if path.endswith(b"/") else path + b"/"
        self.node = node
        self.remembered = False  # its entries were not fetched for this reader
        self.lock = threading.Lock()
        self.entries: Sequence[DirEntry] = ()  # the current page
        self.first = len(_DOTS)  # the offset of its first entry
        self.eof = False
        self.starts = [len(_DOTS)]  # offsets at which pages begin
        self.cookies = [0]  # and what they are asked for with
        self.ahead: tuple[int, Pending[DirPage], dict[int, int], int] | None = None
        self.whole: list[DirEntry] | None = []  # all entries, as long as they are read in one go
        self.ticket = 0
        self.read_at = 0.0


class Directories:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._siblings = Siblings(context)
        self._open: dict[int, DirHandle] = {}
        self._next_fh = 1
        self._lock = threading.Lock()

    def opendir(self, path: bytes) -> int:
        node = self._context.node(path)
        with self._lock:
            fh = self._next_fh
            self._next_fh += 1
            self._open[fh] = DirHandle(fh, path, node)
        return fh

    def releasedir(self, fh: int) -> None:
        self._open.pop(fh, None)

    def fsyncdir(self, fh: int) -> None:
        context = self._context
        context.crossing.call(context.fs.fsync, self._get(fh).node)

    def readdir(self, fh: int, offset: int, fill: Fill) -> None:
        """Entries from `offset` on, until `fill` has no more room."""
        directory = self._get(fh)
        with directory.lock:
            while offset < len(_DOTS):
                if not fill(_DOTS[offset], None, offset + 1):
                    return
                offset += 1
            while True:
                self._turn_to(directory, offset)
                entries = directory.entries
                for index in range(offset - directory.first, len(entries)):
                    entry = entries[index]
                    offset += 1
                    if not fill(entry.name, self._shown(directory, entry), offset):
                        return
                if directory.eof:
                    return

    def _get(self, fh: int) -> DirHandle:
        try:
            return self._open[fh]
        except KeyError:
            raise FsError(Status.BAD_FILE) from None

    def _shown(self, directory: DirHandle, entry: DirEntry) -> Attr | None:
        """None when our own writes made it old, or when the listing is remembered and something may have happened."""
        attr = entry.attr
        dirty = self._context.handles.dirty
        if dirty and attr.fileid in dirty:
            return None
        if not directory.remembered:
            return attr
        known = self._context.cache.get(directory.prefix + entry.name.encode("utf-8", "surrogateescape"))
        return known.attr if known is not None and known.attr is not None else None

    def _turn_to(self, directory: DirHandle, offset: int) -> None:
        """Make the page current that holds `offset`, or that begins there."""
        if offset == len(_DOTS):
            self._rewind(directory)
        end = directory.first + len(directory.entries)
        if directory.first <= offset < end or (offset == end and directory.eof):
            return
        if offset != end:  # seekdir, or a reader that starts again
            directory.whole = None
            directory.ahead = None
            page = max(bisect.bisect_right(directory.starts, offset) - 1, 0)
            directory.first = directory.starts[page]
            directory.entries = ()
            directory.eof = False
            del directory.starts[page + 1 :]
            del directory.cookies[page + 1 :]
        self._next_page(directory)
        while offset >= directory.first + len(directory.entries) and not directory.eof:
            self._next_page(directory)

    def _rewind(self, directory: DirHandle) -> None:
        """A scan from the start: from memory, if the whole directory is there."""
        cache = self._context.cache
        self._siblings.arrive(directory.path)
        listing = cache.listing(directory.path)
        known = None if listing is None else listing.entries
        directory.entries = known or ()
        directory.eof = directory.remembered = known is not None
        directory.starts = [len(_DOTS)]
        directory.cookies = [0]
        directory.first = len(_DOTS)
        directory.ahead = None
        directory.whole = [] if known is None else None
        directory.ticket = cache.ticket()
        directory.read_at = time.monotonic()

    def _next_page(self, directory: DirHandle) -> None:
        context = self._context
        start = directory.first + len(directory.entries)
        cookie = directory.cookies[-1] if not directory.entries else directory.entries[-1].cookie
        if directory.entries:
            directory.starts.append(start)
            directory.cookies.append(cookie)
        ahead, directory.ahead = directory.ahead, None
        if ahead is None or ahead[0] != cookie:
            ahead = self._ask(directory, cookie)
        _, pending, ends, ticket = ahead
        page = context.crossing.wait(pending)
        directory.first = start
        directory.entries = page.entries
        directory.eof = page.eof or not page.entries
        if not directory.eof:
            directory.ahead = self._ask(directory, page.entries[-1].cookie)
        context.cache.put_listed(
            directory.path, [e for e in page.entries if e.attr.fileid not in ends], ticket
        )
        if directory.whole is not None:
            directory.whole.extend(page.entries)
            if len(directory.whole) > context.options.max_listing:
                directory.whole = None
            elif directory.eof:
                context.cache.put_listing(
                    directory.path, directory.whole, directory.ticket, directory.read_at
                )
                directory.whole = None

    def _ask(self, directory: DirHandle, cookie: int) -> tuple[int, Pending[DirPage], dict[int, int], int]:
        context = self._context
        ends = context.handles.ends()
        ticket = context.cache.ticket()
        return cookie, context.crossing.submit(context.fs.readdir, directory.node, cookie, PAGE), ends, ticket

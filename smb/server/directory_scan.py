"""The state of one listing: pages of the file system, filtered by a pattern ([MS-FSA] §2.1.5.6.3)."""

from __future__ import annotations

from collections import deque
from typing import Final

from quicfs.smb.names import name_to_wire, path_from_wire
from quicfs.smb.server.opens import FileOpen
from quicfs.smb.server.wildcard import has_wildcard, matcher
from quicfs.vfs import Attr, FileKind, FsError, Status

__all__ = ["DirectoryScan"]

_PAGE: Final = 512


class DirectoryScan:
    """Yields (name on the wire, attributes). `peek` and `advance` because an entry may not fit any more."""

    __slots__ = ("_cookie", "_eof", "_matches", "_open", "_posix", "_queue", "_single", "pattern", "returned")

    def __init__(self, open_: FileOpen, pattern: str, *, posix: bool) -> None:
        self._open = open_
        self._posix = posix
        self.pattern = pattern or "*"
        self._matches = matcher(self.pattern, fold_case=not posix)
        self._single = not has_wildcard(self.pattern)
        self._queue: deque[tuple[str, Attr]] = deque()
        self._cookie = 0
        self._eof = False
        self.returned = False  # anything yet: decides on NO_SUCH_FILE or NO_MORE_FILES

    async def peek(self) -> tuple[str, Attr] | None:
        while not self._queue:
            if self._eof:
                return None
            await self._fill()
        return self._queue[0]

    def advance(self) -> None:
        self._queue.popleft()
        self.returned = True

    async def _fill(self) -> None:
        if self._single:
            self._eof = True
            await self._one()
            return
        fs = self._open.tree.fs
        if self._cookie == 0:
            await self._dots()
        page = await fs.readdir(self._open.node, self._cookie, _PAGE)
        self._eof = page.eof or not page.entries
        posix, matches, queue = self._posix, self._matches, self._queue
        for entry in page.entries:
            name = name_to_wire(entry.name, posix=posix)
            if matches(name):
                attr = entry.attr
                if attr.kind is FileKind.SYMLINK and not posix:
                    attr = await self._target(entry.name, attr)
                queue.append((name, attr))
        if page.entries:
            self._cookie = page.entries[-1].cookie

    async def _one(self) -> None:
        """A pattern that is a plain name: no need to read the directory."""
        if self.pattern in (".", ".."):
            await self._dots()
            return
        name = path_from_wire(self.pattern, posix=self._posix)
        tree = self._open.tree
        path = f"{self._open.path}/{name}" if self._open.path else name
        if not self._posix:
            path = await tree.names.find(path)
            name = path.rpartition("/")[2]
        try:
            _, attr = await tree.fs.lookup(self._open.node, name)
        except FsError as error:
            if error.status is Status.NOT_FOUND:
                return
            raise
        if attr.kind is FileKind.SYMLINK and not self._posix:
            attr = await self._target(name, attr)
        self._queue.append((name_to_wire(name, posix=self._posix), attr))

    async def _dots(self) -> None:
        attr = await self._open.getattr()
        self._queue.extend((name, attr) for name in (".", "..") if self._matches(name))

    async def _target(self, name: str, attr: Attr) -> Attr:
        """What a link leads to, which is what this client will get when it opens the name."""
        try:
            return (await self._open.tree.fs.lookup(self._open.node, name, follow=True))[1]
        except FsError:
            return attr  # nowhere: it is shown as the link that it is

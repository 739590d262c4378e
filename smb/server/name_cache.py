"""Names without regard to case, for clients that expect it of every file system.

A directory is read once and then known for a while: a client that creates a thousand files looks for each
name first, and each of these searches would read the whole directory. Exact names are always asked of the
file system itself, so the cache can only fail to find another spelling that somebody else made just now.
"""

from __future__ import annotations

import time
from typing import Final

from quicfs.vfs import FileKind, FileSystem, FsError, Node, Status

__all__ = ["NameCache"]

_LIFETIME_S: Final = 5.0
_MAX_DIRECTORIES: Final = 64
_MAX_NAMES: Final = 100_000  # of all directories; one beyond that is searched case-sensitively
_PAGE: Final = 4096


class NameCache:
    """For one file system. Paths are the contract's."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._directories: dict[str, tuple[float, dict[str, str]]] = {}

    async def find(self, path: str) -> str:
        """`path` as it is spelled, itself first; what nobody spells so stays as it is."""
        return path if await self._exists(path) else await self.resolve(path)

    async def resolve(self, path: str) -> str:
        """The same for a path that is known not to be there in its own spelling."""
        directory, _, name = path.rpartition("/")
        if directory:
            directory = await self.find(directory)
        spelled = (await self._names(directory)).get(name.casefold(), name)
        return f"{directory}/{spelled}" if directory else spelled

    def created(self, path: str) -> None:
        directory, _, name = path.rpartition("/")
        known = self._directories.get(directory)
        if known is not None:
            known[1][name.casefold()] = name

    def removed(self, path: str) -> None:
        directory, _, name = path.rpartition("/")
        known = self._directories.get(directory)
        if known is not None:
            known[1].pop(name.casefold(), None)
        self._directories.pop(path, None)

    def renamed(self, old: str, new: str) -> None:
        self.removed(old)
        self.created(new)
        prefix = old + "/"
        for directory in [known for known in self._directories if known.startswith(prefix)]:
            del self._directories[directory]

    async def _exists(self, path: str) -> bool:
        try:
            await self._fs.lookup(self._fs.root, path)
        except FsError as error:
            if error.status not in (Status.NOT_FOUND, Status.NOT_DIR):
                raise
            return False
        return True

    async def _names(self, directory: str) -> dict[str, str]:
        now = time.monotonic()
        known = self._directories.get(directory)
        if known is not None and known[0] > now:
            return known[1]
        names: dict[str, str] = {}
        try:
            node, attr = await self._fs.lookup(self._fs.root, directory, follow=True)
        except FsError as error:
            if error.status not in (Status.NOT_FOUND, Status.NOT_DIR):
                raise
            return names
        if attr.kind is FileKind.DIRECTORY:
            names = await self._read(node)
        self._directories.pop(directory, None)
        kept = sum(len(found) for _, found in self._directories.values())
        while self._directories and (
            len(self._directories) >= _MAX_DIRECTORIES or kept + len(names) > _MAX_NAMES
        ):
            kept -= len(self._directories[next(iter(self._directories))][1])
            del self._directories[next(iter(self._directories))]
        self._directories[directory] = (time.monotonic() + _LIFETIME_S, names)
        return names

    async def _read(self, node: Node) -> dict[str, str]:
        names: dict[str, str] = {}
        cookie = 0
        while len(names) < _MAX_NAMES:
            page = await self._fs.readdir(node, cookie, _PAGE)
            for entry in page.entries:
                names.setdefault(entry.name.casefold(), entry.name)
            if page.eof or not page.entries:
                break
            cookie = page.entries[-1].cookie
        return names

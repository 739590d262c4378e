"""Finding an object of the local tree by its inode number: a walk over the directories, with bounded work.

For objects whose handle says what they are but not where: after a restart, without the kernel's help. One walk
remembers in which directory it saw which inode, so that the handles that come after it cost one directory each.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Final

from quicfs.vfs.local_attr import StatReader
from quicfs.vfs.openat2 import open_beneath
from quicfs.vfs.status import FsError

MAX_SEARCHED: Final = 1 << 20
"""Entries that one walk looks at; about three seconds of one thread of the pool."""

MAX_REMEMBERED: Final = 1 << 18
"""Inodes whose directory is remembered; about 30 MiB when all are there."""

_O_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Search:
    """What the walks of one tree know. `look` runs in one thread at a time."""

    def __init__(self) -> None:
        self._stat = StatReader()
        self._directory_of: dict[int, bytes] = {}
        self._pending: deque[bytes] = deque()
        self._seen = 0
        self._stopped = False

    def stop(self) -> None:
        """The tree is closed: a walk under way ends soon."""
        self._stopped = True

    def look(self, root_fd: int, inode: int, birth_ns: int) -> bytes | None:
        """The path from the root of the object with this inode number and time of birth, or None."""
        hint = self._directory_of.get(inode)
        if hint is not None:
            found = self._in_directory(root_fd, hint, inode, birth_ns, walking=False)
            if found is not None:
                return found
        if self._pending:  # what the last walk left unseen
            found = self._walk(root_fd, inode, birth_ns)
            if found is not None:
                return found
        self._directory_of.clear()
        self._pending = deque([b""])
        self._seen = 0
        return self._walk(root_fd, inode, birth_ns)

    def _walk(self, root_fd: int, inode: int, birth_ns: int) -> bytes | None:
        """Breadth first: what people work with lies near the root."""
        while self._pending and self._seen < MAX_SEARCHED and not self._stopped:
            path = self._pending.popleft()
            found = self._in_directory(root_fd, path, inode, birth_ns, walking=True)
            if found is not None:
                return found
        return None

    def _in_directory(
        self, root_fd: int, path: bytes, inode: int, birth_ns: int, *, walking: bool
    ) -> bytes | None:
        try:
            fd = open_beneath(root_fd, path or b".", _O_LIST)
        except (OSError, FsError):
            return None  # gone, moved, or not ours to read
        wanted = (inode, birth_ns)
        found = None
        try:
            # Where a file system is mounted, the listing above told another inode than the one that is seen.
            if path and self._stat.of_descriptor(fd)[0][1:] == wanted:
                found = path
            with os.scandir(fd) as entries:
                for entry in entries:
                    number = entry.inode()
                    if walking:
                        self._note(path, entry, number)
                    if number == inode and found is None:
                        name = os.fsencode(entry.name)
                        if self._stat.of_entry(fd, name)[0][1:] == wanted:
                            found = _join(path, name)
        except OSError:
            pass  # a name that went away meanwhile; the rest is looked at by the next walk
        finally:
            os.close(fd)
        return found

    def _note(self, path: bytes, entry: os.DirEntry[str], inode: int) -> None:
        self._seen += 1
        if len(self._directory_of) < MAX_REMEMBERED:
            self._directory_of[inode] = path
        if len(self._pending) < MAX_SEARCHED and entry.is_dir(follow_symlinks=False):
            self._pending.append(_join(path, os.fsencode(entry.name)))


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name

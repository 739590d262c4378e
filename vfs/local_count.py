"""How often names appeared in directories or left them, whoever did it: as inotify tells.

It lets a server say whether a directory changed by what it did itself and by nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from quicfs.vfs import inotify as ino
from quicfs.vfs import syscalls
from quicfs.vfs.inotify import Inotify
from quicfs.vfs.local_node import LocalNode

MAX_COUNTED_DIRECTORIES: Final = 512
"""Which are watched; the one longest unused goes first."""

_NAMES: Final = ino.IN_CREATE | ino.IN_DELETE | ino.IN_MOVED_FROM | ino.IN_MOVED_TO
_SEEN: Final = frozenset(
    {
        0xEF53,  # ext2 to ext4
        0x58465342,  # XFS
        0x9123683E,  # Btrfs
        0xCA451A4E,  # bcachefs
        0xF2F52010,  # F2FS
        0x2FC12FC1,  # ZFS
        0x01021994,  # tmpfs
        0x794C7630,  # overlayfs
    }
)
"""File systems that only this machine changes (f_type of statfs(2)): on others inotify does not see everything."""

_STEP: Final = 1 << 32  # farther than any count goes: after this nothing compares as if it had been watched


class NameCounts:
    """Of one tree. A system that gives no inotify descriptor has no counts."""

    def __init__(self) -> None:
        self._inotify: Inotify | None = None
        self._broken = False
        self._watches: OrderedDict[LocalNode, int | None] = OrderedDict()  # None: cannot be seen
        self._counts: dict[int, int] = {}
        self._base = 0

    def of(self, node: LocalNode, dir_fd: int) -> int | None:
        """The count of the directory behind the descriptor; None where changes cannot be seen."""
        if self._broken:
            return None
        try:
            watch = self._watches[node]
        except KeyError:
            watch = -1
        else:
            self._watches.move_to_end(node)
        if watch is None:
            return None
        self._read()
        count = self._counts.get(watch)
        return self._begin(node, dir_fd) if count is None else count

    def close(self) -> None:
        self._broken = True
        if self._inotify is not None:
            self._inotify.close()

    def _begin(self, node: LocalNode, dir_fd: int) -> int | None:
        try:
            if self._inotify is None:
                self._inotify = Inotify()
            seen = syscalls.statfs_type(dir_fd) in _SEEN
            watch = self._inotify.add(dir_fd, _NAMES) if seen else None
        except OSError:
            # The user's limit of watches or descriptors: others need them more.
            self._broken = self._inotify is None
            return None
        self._watches[node] = watch
        if len(self._watches) > MAX_COUNTED_DIRECTORIES:
            _, old = self._watches.popitem(last=False)
            if old is not None and self._counts.pop(old, None) is not None:
                self._inotify.remove(old)
        if watch is None:
            return None
        self._base += _STEP
        self._counts[watch] = self._base
        return self._base

    def _read(self) -> None:
        if self._inotify is None:
            return
        counts = self._counts
        while True:
            pending = False
            for event in self._inotify.read():
                pending = True
                if event.mask & ino.IN_Q_OVERFLOW:
                    self._base += _STEP
                    for watch in counts:
                        counts[watch] += self._base
                elif event.mask & ino.IN_IGNORED:
                    counts.pop(event.watch, None)
                elif event.watch in counts:
                    counts[event.watch] += 1
            if not pending:
                return

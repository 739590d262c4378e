"""Change notification of the local tree: inotify events as `Change`s, one directory or all below it."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Final

from quicfs.vfs import inotify as ino
from quicfs.vfs.api import Change, Watch
from quicfs.vfs.errno_table import fs_error
from quicfs.vfs.inotify import Event, Inotify
from quicfs.vfs.local_node import O_DIR
from quicfs.vfs.openat2 import open_beneath
from quicfs.vfs.status import FsError, Status

MAX_QUEUE: Final = 4096
"""Changes that wait for the reader; more become one "list it again"."""

MAX_DIRECTORIES: Final = 8192
"""Directories of one recursive watch."""

_MASK: Final = (
    ino.IN_MODIFY | ino.IN_ATTRIB | ino.IN_MOVED_FROM | ino.IN_MOVED_TO | ino.IN_CREATE | ino.IN_DELETE
)  # fmt: skip
_PAIR_S: Final = 0.01  # how long the first half of a rename waits for the second

LIST_AGAIN: Final = Change("", modified=True)


class LocalWatch(Watch):
    """Watching starts with the construction and ends with `aclose`, or when the directory is removed.

    A `Change` with the empty name means that more happened than could be told: list again.
    """

    def __init__(self, dir_fd: int, *, recursive: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._recursive = recursive
        self._queue: deque[Change] = deque()
        self._ready = asyncio.Event()
        self._paths: dict[int, bytes] = {}
        self._moved: tuple[Event, bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._open = True
        self._top_fd = os.dup(dir_fd)
        try:
            self._inotify = Inotify()
        except OSError as error:
            os.close(self._top_fd)
            raise fs_error(error, "inotify") from None
        try:
            self._top = self._inotify.add(self._top_fd, _MASK | ino.IN_MOVE_SELF)
            self._paths[self._top] = b""
            self._parent = self._add_parent()
            if recursive:
                self._add_below(b"", report=False)
        except (OSError, FsError) as error:
            self._shut()
            raise (error if isinstance(error, FsError) else fs_error(error, "inotify")) from None
        self._loop.add_reader(self._inotify.fd, self._on_readable)

    def __aiter__(self) -> LocalWatch:
        return self

    async def __anext__(self) -> Change:
        while not self._queue:
            if not self._open:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._queue.popleft()

    async def aclose(self) -> None:
        """Stop watching; a waiting reader comes to its end. Twice is allowed."""
        self.close()

    @property
    def active(self) -> bool:
        return self._open

    def close(self) -> None:
        if self._open:
            self._loop.remove_reader(self._inotify.fd)
            self._shut()

    def _shut(self) -> None:
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        self._inotify.close()
        os.close(self._top_fd)
        self._ready.set()

    def _on_readable(self) -> None:
        for event in self._inotify.read():
            self._on_event(event)
            if not self._open:
                return
        if self._moved is not None and self._timer is None:
            self._timer = self._loop.call_later(_PAIR_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._flush_moved()

    def _on_event(self, event: Event) -> None:
        if event.mask & ino.IN_Q_OVERFLOW:
            self._put(LIST_AGAIN)
            return
        if event.mask & ino.IN_IGNORED:
            self._paths.pop(event.watch, None)
            return
        if event.watch == self._parent or not event.name:
            self._on_top(event)
            return
        if self._moved is not None and self._moved[0].cookie != event.cookie:
            self._flush_moved()
        parent = self._paths.get(event.watch)
        if parent is None:
            return
        path = parent + b"/" + event.name if parent else event.name
        if event.mask & ino.IN_MOVED_TO:
            self._on_moved_to(event, path)
        elif event.mask & ino.IN_MOVED_FROM:
            self._moved = (event, path)
        elif event.mask & ino.IN_CREATE:
            self._put(Change(os.fsdecode(path), created=True))
            if event.mask & ino.IN_ISDIR:
                self._appeared(path)
        elif event.mask & ino.IN_DELETE:
            self._put(Change(os.fsdecode(path), removed=True))
            if event.mask & ino.IN_ISDIR:
                self._forget_below(path)
        else:
            change = Change(os.fsdecode(path), modified=True)
            if not self._queue or self._queue[-1] != change:
                self._put(change)

    def _on_top(self, event: Event) -> None:
        """Something happened to the watched directory itself or beside it."""
        if not os.fstat(self._top_fd).st_nlink:
            self.close()
        elif event.watch == self._top and event.mask & ino.IN_MOVE_SELF:
            if self._parent >= 0:
                self._inotify.remove(self._parent)
            self._parent = self._add_parent()

    def _add_parent(self) -> int:
        """A directory that is open somewhere (here, for one) does not tell that it was removed; its parent
        does. Returns -1 where the parent cannot be watched."""
        try:
            fd = os.open("..", O_DIR | os.O_CLOEXEC, dir_fd=self._top_fd)
        except OSError:
            return -1
        try:
            return self._inotify.add(fd, ino.IN_DELETE | ino.IN_MOVED_TO)
        except OSError:
            return -1
        finally:
            os.close(fd)

    def _on_moved_to(self, event: Event, path: bytes) -> None:
        moved, self._moved = self._moved, None
        if moved is not None:
            self._put(Change(os.fsdecode(path), renamed_from=os.fsdecode(moved[1])))
            if event.mask & ino.IN_ISDIR:
                self._rename_below(moved[1], path)
            return
        self._put(Change(os.fsdecode(path), created=True))
        if event.mask & ino.IN_ISDIR:
            self._appeared(path)

    def _flush_moved(self) -> None:
        """The first half of a rename whose second half lies outside of what is watched."""
        if self._moved is None:
            return
        event, path = self._moved
        self._moved = None
        self._put(Change(os.fsdecode(path), removed=True))
        if event.mask & ino.IN_ISDIR:
            self._forget_below(path)

    def _appeared(self, path: bytes) -> None:
        """A directory came into a recursive watch; what it held before we watched it is reported."""
        if not self._recursive:
            return
        try:
            self._add_below(path, report=True)
        except FileNotFoundError:
            pass  # gone again, its removal is reported by itself
        except (OSError, FsError):
            self._put(LIST_AGAIN)

    def _add_below(self, top: bytes, *, report: bool) -> None:
        pending = [top]
        while pending:
            path = pending.pop()
            if path:
                if len(self._paths) >= MAX_DIRECTORIES:
                    raise FsError(Status.NO_RESOURCES, f"more than {MAX_DIRECTORIES} directories to watch")
                fd = open_beneath(self._top_fd, path, O_DIR | os.O_NOFOLLOW)
            else:
                fd = os.dup(self._top_fd)
            try:
                if path:
                    self._paths[self._inotify.add(fd, _MASK)] = path
                pending += self._children(fd, path, report=report)
            finally:
                os.close(fd)

    def _children(self, fd: int, path: bytes, *, report: bool) -> list[bytes]:
        below = []
        listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            with os.scandir(listing) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    child = path + b"/" + name if path else name
                    if report:
                        self._put(Change(os.fsdecode(child), created=True))
                    if entry.is_dir(follow_symlinks=False):
                        below.append(child)
        finally:
            os.close(listing)
        return below

    def _rename_below(self, old: bytes, new: bytes) -> None:
        for watch, path in self._paths.items():
            if path == old or path.startswith(old + b"/"):
                self._paths[watch] = new + path[len(old) :]

    def _forget_below(self, old: bytes) -> None:
        for watch, path in list(self._paths.items()):
            if path == old or path.startswith(old + b"/"):
                del self._paths[watch]
                self._inotify.remove(watch)

    def _put(self, change: Change) -> None:
        if len(self._queue) >= MAX_QUEUE:
            self._queue.clear()
            change = LIST_AGAIN
        self._queue.append(change)
        self._ready.set()

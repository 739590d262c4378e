"""Names: mkdir, rmdir, symlink, link, unlink, rename; and what happens to open files on the way.

libfuse never removes the name of an open file: it asks for a rename to `.fuse_hidden...` and goes on
addressing the file by that name (it must, as the kernel does not send a handle with fstat). The contract's
open files need no name, so on the server the file really goes: it is renamed out of the way under a name of
ours and unlinked a moment later. The moment is for rename(2) over an open file, where libfuse first hides the
old file and then renames: should that fail, the old file gets its name back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import posixpath
import secrets
import threading
from dataclasses import dataclass
from typing import Final

from quicfs.fuse_mount.context import Context, parent_of, relative
from quicfs.vfs import FileKind, FsError, OpenFlags, Status

_log = logging.getLogger("quicfs.fuse_mount")

HIDDEN: Final = b".fuse_hidden"
"""How libfuse's names begin (hidden_name in its fuse.c)."""

ASIDE: Final = ".quicfs-removed-"
"""How ours begin; 128 random bits follow, so that several mounts of one share do not meet."""

_MOMENT_S: Final = 0.05

RENAME_NOREPLACE: Final = 1  # renameat2(2)


@dataclass(frozen=True, slots=True)
class Removed:
    """A file that was renamed out of the way and waits to be unlinked."""

    path: bytes  # where it was
    aside: bytes  # where it is


class Names:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._removed: dict[bytes, Removed] = {}  # by libfuse's name
        self._this_thread = threading.local()

    def mkdir(self, path: bytes, mode: int) -> None:
        context = self._context
        node, attr = context.child(context.fs.mkdir, path, mode & 0o7777)
        context.changed(path, attr, node)

    def mknod(self, path: bytes, mode: int) -> None:
        context = self._context
        flags = OpenFlags.WRITE | OpenFlags.CREATE | OpenFlags.EXCLUSIVE
        file, attr, _ = context.child(context.fs.open, path, flags, mode & 0o7777)
        context.crossing.call(file.close)
        context.changed(path, attr)

    def symlink(self, target: bytes, path: bytes) -> None:
        context = self._context
        node, attr = context.child(context.fs.symlink, path, os.fsdecode(target))
        context.changed(path, attr, node)

    def link(self, source: bytes, path: bytes) -> None:
        context = self._context
        try:
            attr = context.on_node(source, context.fs.link, context.fs.root, relative(path))
        finally:
            context.names_changed(path)
            context.cache.touch(source)
        context.changed(path, attr)

    def unlink(self, path: bytes) -> None:
        context = self._context
        if self._is_hidden(path):
            return  # the last handle is closed now, the file went before
        entry = context.cache.get(path)
        context.child(context.fs.unlink, path)
        context.cache.put(path, None, None, context.cache.ticket())
        if entry is not None and entry.attr is not None and entry.attr.nlink > 1:
            context.cache.touch_object(entry.attr.fileid, path)

    def rmdir(self, path: bytes) -> None:
        context = self._context
        for hidden, removed in list(self._removed.items()):
            if parent_of(removed.path) == path and self._removed.pop(hidden, None) is not None:
                context.crossing.call(self._unlink, removed)
        context.child(context.fs.rmdir, path)
        context.cache.touch_names(path)
        context.cache.put(path, None, None, context.cache.ticket())

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        if flags & ~RENAME_NOREPLACE:
            raise FsError(Status.INVALID)
        if self._is_hidden(new):
            self._hide(old, new)
            return
        hidden = getattr(self._this_thread, "hidden", None)
        self._this_thread.hidden = None
        removed = self._removed.pop(hidden, None) if hidden is not None else None
        if removed is not None and removed.path != new:
            self._bury(removed)
            removed = None
        try:
            self._rename(old, new, replace=not flags & RENAME_NOREPLACE)
        except FsError:
            if removed is not None and hidden is not None:
                self._rename(removed.aside, removed.path, replace=False)
                self._context.handles.renamed(hidden, removed.path)
                self._context.handles.show(removed.path)
            raise
        self._context.handles.renamed(old, new)
        if removed is not None:
            self._bury(removed)

    def _rename(self, old: bytes, new: bytes, *, replace: bool) -> None:
        context = self._context
        entry = context.cache.get(old)
        try:
            context.child(context.fs.rename, old, context.fs.root, relative(new), replace=replace)
        finally:
            context.names_changed(new)
            if entry is None or entry.attr is None or entry.attr.kind is FileKind.DIRECTORY:
                context.cache.touch_all()
        context.cache.put(old, None, None, context.cache.ticket())

    def _is_hidden(self, path: bytes) -> bool:
        return posixpath.basename(path).startswith(HIDDEN)

    def _hide(self, path: bytes, hidden: bytes) -> None:
        context = self._context
        parent = parent_of(path).rstrip(b"/")
        aside = parent + b"/" + (ASIDE + secrets.token_hex(16)).encode()
        self._rename(path, aside, replace=False)
        context.handles.renamed(path, hidden)
        context.handles.hide(hidden)
        self._removed[hidden] = Removed(path, aside)
        self._this_thread.hidden = hidden
        context.crossing.submit(self._unlink_later, hidden)

    def is_aside(self, name: str) -> bool:
        """Whether an entry of a directory is a file that is on its way out."""
        return name.startswith(ASIDE)

    def _bury(self, removed: Removed) -> None:
        self._context.crossing.submit(self._unlink, removed)

    async def _unlink_later(self, hidden: bytes) -> None:
        await asyncio.sleep(_MOMENT_S)
        removed = self._removed.pop(hidden, None)
        if removed is not None:
            await self._unlink(removed)

    async def _unlink(self, removed: Removed) -> None:
        context = self._context
        try:
            await context.fs.unlink(context.fs.root, relative(removed.aside))
        except FsError as error:
            if error.status is not Status.NOT_FOUND:
                _log.warning("%s stays behind: %s", os.fsdecode(removed.aside), error)
        context.names_changed(removed.aside)

    async def unlink_all(self) -> None:
        """In the loop, at the end."""
        while self._removed:
            await self._unlink(self._removed.popitem()[1])

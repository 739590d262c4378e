"""Names: mkdir, rmdir, symlink, link, unlink, rename; and what happens to open files on the way.

libfuse never removes the name of an open file: it asks for a rename to `.fuse_hidden...` and goes on
addressing the file by that name (it must, as the kernel does not send a handle with fstat). The contract's
open files need no name. So nothing gets such a name on the server: for unlink(2) the file is unlinked
at once, for rename(2) over it nothing is done, as the rename that follows replaces it atomically; and
what is later asked under the hidden name goes through the open file.
"""

from __future__ import annotations

import os
import time
from typing import Final

from quicfs.fuse_mount.context import FUSE_UNLINK, Context, is_hidden
from quicfs.fuse_mount.stat_layout import MODE_OF_KIND
from quicfs.vfs import FileKind, FsError, OpenFlags, Status

RENAME_NOREPLACE: Final = 1  # renameat2(2)
S_IFMT: Final = 0o170000
KIND_OF_MODE: Final = {mode: kind for kind, mode in MODE_OF_KIND.items()}


class Names:
    def __init__(self, context: Context) -> None:
        self._context = context

    def mkdir(self, path: bytes, mode: int) -> None:
        context = self._context
        began = time.monotonic()
        node, attr = context.child(context.fs.mkdir, path, mode & 0o7777)
        context.changed(path, attr, node)
        context.cache.put_listing(path, (), context.cache.ticket(), began)

    def mknod(self, path: bytes, mode: int, device: int) -> None:
        """`mode` with the type of stat(2); no type is a regular file. mknod(2): NOT_PERMITTED where there is no way to
        make such a thing."""
        context = self._context
        kind = KIND_OF_MODE.get(mode & S_IFMT, FileKind.REGULAR)
        if kind is not FileKind.REGULAR:
            try:
                node, attr = context.child(context.fs.mknod, path, kind, mode & 0o7777, device)
            except FsError as error:
                if error.status is Status.NOT_SUPPORTED:
                    raise FsError(Status.NOT_PERMITTED, error.detail) from None
                raise
            context.changed(path, attr, node)
            return
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
            attr = context.on_node(source, context.fs.link, *context.base(path))
        finally:
            context.names_changed(path)
            context.cache.touch(source)
        context.changed(path, attr)

    def unlink(self, path: bytes) -> None:
        if self._context.opcode() == FUSE_UNLINK or not is_hidden(path):
            self._unlink(path)
        # else libfuse cleans up after the last close; on the server the file went before

    def _unlink(self, path: bytes) -> None:
        context = self._context
        entry = context.cache.get(path)
        context.child(context.fs.unlink, path)
        context.cache.put(path, None, None, context.cache.ticket())
        if entry is not None and entry.attr is not None and entry.attr.nlink > 1:
            context.cache.touch_object(entry.attr.fileid, path)

    def rmdir(self, path: bytes) -> None:
        context = self._context
        context.child(context.fs.rmdir, path)
        context.cache.touch_names(path)
        context.cache.put(path, None, None, context.cache.ticket())

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        if flags & ~RENAME_NOREPLACE:
            raise FsError(Status.INVALID)
        if is_hidden(new):
            self._hide(old, new)
            return
        self._rename(old, new, replace=not flags & RENAME_NOREPLACE)
        self._context.handles.renamed(old, new)

    def _hide(self, path: bytes, hidden: bytes) -> None:
        """libfuse takes the name of an open file away: for unlink(2), or for rename(2) over it.

        Should that rename fail, the file is still there, and the open ones go on by the hidden name."""
        if self._context.opcode() == FUSE_UNLINK:
            self._unlink(path)
        self._context.handles.hide(path, hidden)

    def _rename(self, old: bytes, new: bytes, *, replace: bool) -> None:
        context = self._context
        entry = context.cache.get(old)
        try:
            context.child(context.fs.rename, old, *context.base(new), replace=replace)
        finally:
            context.names_changed(new)
            if entry is None or entry.attr is None or entry.attr.kind is FileKind.DIRECTORY:
                context.cache.touch_all()
        context.cache.put(old, None, None, context.cache.ticket())

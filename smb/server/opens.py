"""Opens: files, directories and other objects of a share, and named pipes ([MS-SMB2] §3.3.1.10)."""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quicfs.smb.errors import SmbError
from quicfs.smb.ntstatus import NtStatus
from quicfs.vfs import Attr, FileKind, FsError, LockKind, Node, OpenFile, Status

if TYPE_CHECKING:
    from quicfs.smb.server.directory_scan import DirectoryScan
    from quicfs.smb.server.pipes import Pipe
    from quicfs.smb.server.session import Tree
    from quicfs.smb.server.shares import FileState
    from quicfs.smb.server.watches import DirectoryWatch

__all__ = ["FileOpen", "PipeOpen", "new_file_id"]

_owners = itertools.count(1)


def new_file_id() -> bytes:
    """Not to be guessed; the all-ones value means something else."""
    return os.urandom(16)


@dataclass(slots=True, eq=False)
class PipeOpen:
    tree: Tree
    pipe: Pipe
    file_id: bytes = field(default_factory=new_file_id)

    async def close(self) -> None:
        self.pipe.close()


@dataclass(slots=True, eq=False)
class FileOpen:
    """`path` is where the object was found or has been renamed to, "" for the root."""

    tree: Tree
    node: Node
    kind: FileKind
    path: str
    access: int
    share_access: int
    posix: bool
    file: OpenFile | None = None  # regular files opened for their data
    write_through: bool = False
    delete_on_close: bool = False
    posix_delete: bool = False  # the name goes with this open, whoever else has the file open
    file_id: bytes = field(default_factory=new_file_id)
    owner: int = field(default_factory=lambda: next(_owners))  # of byte-range locks
    scan: DirectoryScan | None = None
    scanning: asyncio.Lock = field(default_factory=asyncio.Lock)  # one query of a listing at a time
    watch: DirectoryWatch | None = None
    closed: bool = False
    state: FileState = field(init=False)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def require(self, access: int) -> None:
        """ACCESS_DENIED unless one of the rights in `access` was granted."""
        if not self.access & access:
            raise SmbError(NtStatus.ACCESS_DENIED)

    def data(self) -> OpenFile:
        if self.file is None:
            if self.kind is FileKind.DIRECTORY:
                raise SmbError(NtStatus.INVALID_DEVICE_REQUEST)
            raise SmbError(NtStatus.ACCESS_DENIED)
        return self.file

    async def getattr(self) -> Attr:
        if self.file is not None:
            return await self.file.getattr()
        return await self.tree.fs.getattr(self.node)

    async def close(self) -> None:
        """Give everything back; a delete that waited for this is done. FsError when writing or deleting failed."""
        if self.closed:
            return
        self.closed = True
        if self.watch is not None:
            self.watch.close()
        self.state.locks.remove_all(self.owner)
        last = self.tree.state.remove(self)
        try:
            if self.file is not None:
                await self.file.close()
        finally:
            # POSIX semantics take the name away now, Windows' when the last open goes.
            now = self.delete_on_close and (self.posix or self.posix_delete)
            if self.delete_on_close and not now:
                self.state.delete_pending = True
            if now or (last and self.state.delete_pending):
                await self._delete()

    async def _delete(self) -> None:
        fs = self.tree.fs
        try:
            # The name may stand for another object by now.
            _, attr = await fs.lookup(fs.root, self.path)
            if attr.fileid != self.state.fileid and attr.kind is not FileKind.SYMLINK:
                return
            if attr.kind is FileKind.DIRECTORY:
                await fs.rmdir(fs.root, self.path)
            else:
                await fs.unlink(fs.root, self.path)
            self.tree.forget_name(self.path)
        except FsError as error:
            if error.status is not Status.NOT_FOUND:
                raise

    async def unlock_file(self, offset: int, length: int) -> None:
        """Tell the file system that a lock is gone."""
        if self.file is None:
            return
        try:
            await self.file.lock(offset, length, LockKind.UNLOCK, owner=self.owner)
        except FsError as error:
            if error.status is not Status.NOT_SUPPORTED:
                raise

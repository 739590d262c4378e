"""One call of NFSv3 under way: the objects that it works on, and what is told of them whatever comes of it.

Every result, also a failure, comes with the attributes that objects had before and have after the call (RFC 1813 §2.6).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from quicfs.nfs.v3.types import Fattr, FileType, SpecData, Stat, WccAttr, WccData
from quicfs.nfs.v4 import const
from quicfs.nfs.v4.const import Nfs4Error
from quicfs.nfs.xdr import Struct
from quicfs.vfs.api import Attr, FileKind, FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Target

__all__ = ["Handler", "Nfs3Error", "Work", "need_directory", "status_of"]

_log = logging.getLogger("quicfs.nfs")

STATUS: Final[dict[Status, Stat]] = {
    Status.NOT_FOUND: Stat.NOENT,
    Status.EXISTS: Stat.EXIST,
    Status.NOT_DIR: Stat.NOTDIR,
    Status.IS_DIR: Stat.ISDIR,
    Status.NOT_EMPTY: Stat.NOTEMPTY,
    Status.ACCESS: Stat.ACCES,
    Status.NOT_PERMITTED: Stat.PERM,
    Status.READ_ONLY: Stat.ROFS,
    Status.NO_SPACE: Stat.NOSPC,
    Status.QUOTA: Stat.DQUOT,
    Status.TOO_BIG: Stat.FBIG,
    Status.NAME_TOO_LONG: Stat.NAMETOOLONG,
    Status.BAD_NAME: Stat.INVAL,
    Status.LOOP: Stat.INVAL,  # a symbolic link where a file or directory was meant
    Status.CROSS_DEVICE: Stat.XDEV,
    Status.TOO_MANY_LINKS: Stat.MLINK,
    Status.INVALID: Stat.INVAL,
    Status.BAD_FILE: Stat.ACCES,
    Status.STALE: Stat.STALE,
    Status.BUSY: Stat.ACCES,
    Status.SHARING: Stat.ACCES,
    Status.LOCKED: Stat.JUKEBOX,
    Status.NO_DATA: Stat.NXIO,
    Status.RANGE: Stat.INVAL,
    Status.NO_RESOURCES: Stat.JUKEBOX,
    Status.NOT_SUPPORTED: Stat.NOTSUPP,
    Status.IO: Stat.IO,
    Status.TIMEOUT: Stat.JUKEBOX,
    Status.DISCONNECTED: Stat.JUKEBOX,
}
"""The one table from the contract's outcomes to those of NFSv3 (§2.6)."""

_OF_V4: Final[dict[int, Stat]] = {int(stat): stat for stat in Stat} | {
    const.Stat.DELAY: Stat.JUKEBOX,  # a delegation is being called back
    const.Stat.GRACE: Stat.JUKEBOX,
    const.Stat.LOCKED: Stat.ACCES,  # an open of NFSv4 denies it
    const.Stat.SHARE_DENIED: Stat.ACCES,
    const.Stat.FILE_OPEN: Stat.ACCES,
    const.Stat.FHEXPIRED: Stat.STALE,
    const.Stat.BADCHAR: Stat.INVAL,
    const.Stat.BADNAME: Stat.INVAL,
    const.Stat.BADOWNER: Stat.INVAL,
    const.Stat.SYMLINK: Stat.INVAL,
    const.Stat.WRONG_TYPE: Stat.INVAL,
}
"""What the parts shared with NFSv4 say; the rest would be a fault of ours."""

_TYPES: Final = {
    FileKind.REGULAR: FileType.REG,
    FileKind.DIRECTORY: FileType.DIR,
    FileKind.BLOCK: FileType.BLK,
    FileKind.CHARACTER: FileType.CHR,
    FileKind.SYMLINK: FileType.LNK,
    FileKind.SOCKET: FileType.SOCK,
    FileKind.FIFO: FileType.FIFO,
}
_UINT64: Final = (1 << 64) - 1


class Nfs3Error(Exception):
    """A procedure failed."""

    def __init__(self, status: Stat) -> None:
        super().__init__(status.name)
        self.status = status


class Work:
    """One call under way. What it works on is kept in the order it came, with the attributes from before."""

    __slots__ = ("_before", "_targets", "ctx")

    def __init__(self, ctx: Context) -> None:
        self.ctx: Final = ctx
        self._targets: list[Target] = []
        self._before: list[WccAttr] = []

    async def target(self, raw: bytes) -> Target:
        """What a handle names."""
        target = await self.ctx.server.handles.target(raw, self.ctx)
        attr = target.attr = target.attr or await self.ctx.server.tree.attr(self.ctx, target)
        self._targets.append(target)
        self._before.append(WccAttr(attr.size, attr.mtime_ns, attr.ctime_ns))
        return target

    async def post(self, number: int = 0) -> Fattr | None:
        """post_op_attr of the object that came as that; None if it cannot be told."""
        if number >= len(self._targets):
            return None
        return await self.post_of(self._targets[number])

    async def post_of(self, target: Target) -> Fattr | None:
        try:
            return self.fattr(target, target.attr or await self.ctx.server.tree.attr(self.ctx, target))
        except FsError:
            return None  # the RFC allows to leave them out; the outcome is the procedure's own

    async def wcc(self, number: int = 0) -> WccData:
        """What the object that came as that was before, and is now."""
        before = self._before[number] if number < len(self._before) else None
        return WccData(before, await self.post(number))

    def fattr(self, beside: Target, attr: Attr) -> Fattr:
        """Of an object in the file system that `beside` is in."""
        return Fattr(
            _TYPES[attr.kind], attr.mode, attr.nlink, attr.uid, attr.gid, attr.size, attr.allocated,
            SpecData(os.major(attr.rdev), os.minor(attr.rdev)),
            beside.export.fsid[0] if beside.export else 0,
            attr.fileid & _UINT64, attr.atime_ns, attr.mtime_ns, attr.ctime_ns,
        )  # fmt: skip


def need_directory(target: Target) -> None:
    assert target.attr is not None
    if target.attr.kind is not FileKind.DIRECTORY:
        raise Nfs3Error(Stat.NOTDIR)


Handler = Callable[[Work, Any], Awaitable[Struct]]
"""A procedure: its arguments to its results. Failure is Nfs3Error, Nfs4Error or FsError."""


def status_of(error: Nfs3Error | Nfs4Error | FsError) -> Stat:
    match error:
        case Nfs3Error():
            return error.status
        case FsError():
            return STATUS[error.status]
    status = _OF_V4.get(error.status)
    if status is None:
        _log.error("a call of NFSv3 came to %s", error.status.name)
        return Stat.SERVERFAULT
    return status

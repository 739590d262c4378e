"""Attributes of NFS (RFC 8881 §5) and those of the contract."""

from __future__ import annotations

import functools
import grp
import operator
import os
import pwd
from collections.abc import Callable
from typing import Any, Final

from quicfs.nfs.v4.attributes import Attribute, Attributes, bitmap
from quicfs.nfs.v4.const import FileType
from quicfs.nfs.v4.types import SpecData
from quicfs.vfs.api import NOW, Attr, FileKind, SetAttr, StatFs
from quicfs.vfs.status import FsError, Status

__all__ = ["ATTR", "FILEHANDLE", "FS", "KIND_TYPE", "attr_of", "changes_of", "statfs_of"]

_A = Attribute

ATTR: Final = bitmap(
    (
        _A.TYPE,
        _A.CHANGE,
        _A.SIZE,
        _A.FILEID,
        _A.MODE,
        _A.NUMLINKS,
        _A.OWNER,
        _A.OWNER_GROUP,
        _A.RAWDEV,
        _A.SPACE_USED,
        _A.TIME_ACCESS,
        _A.TIME_CREATE,
        _A.TIME_METADATA,
        _A.TIME_MODIFY,
    )
)
"""What makes an `Attr`."""

FILEHANDLE: Final = bitmap((_A.FILEHANDLE,))

FS: Final = bitmap(
    (
        _A.FILES_AVAIL,
        _A.FILES_FREE,
        _A.FILES_TOTAL,
        _A.MAXNAME,
        _A.SPACE_AVAIL,
        _A.SPACE_FREE,
        _A.SPACE_TOTAL,
    )
)

_NOBODY: Final = 65534
_BLOCK: Final = 4096

_KINDS: Final[dict[int, FileKind]] = {
    FileType.REG: FileKind.REGULAR,
    FileType.DIR: FileKind.DIRECTORY,
    FileType.LNK: FileKind.SYMLINK,
    FileType.FIFO: FileKind.FIFO,
    FileType.SOCK: FileKind.SOCKET,
    FileType.CHR: FileKind.CHARACTER,
    FileType.BLK: FileKind.BLOCK,
    FileType.ATTRDIR: FileKind.DIRECTORY,
    FileType.NAMEDATTR: FileKind.REGULAR,
}
KIND_TYPE: Final = {kind: FileType(number) for number, kind in _KINDS.items() if number <= FileType.FIFO}


@functools.lru_cache(maxsize=1024)
def _uid(owner: str) -> int:
    """ "1000", or "user@domain" (§5.9): who it is here."""
    if owner.isdecimal():
        return int(owner) & 0xFFFFFFFF
    try:
        return pwd.getpwnam(owner.partition("@")[0]).pw_uid
    except (KeyError, ValueError):
        return _NOBODY


@functools.lru_cache(maxsize=1024)
def _gid(group: str) -> int:
    if group.isdecimal():
        return int(group) & 0xFFFFFFFF
    try:
        return grp.getgrnam(group.partition("@")[0]).gr_gid
    except (KeyError, ValueError):
        return _NOBODY


_ORDER: Final = (
    _A.TYPE,
    _A.MODE,
    _A.NUMLINKS,
    _A.OWNER,
    _A.OWNER_GROUP,
    _A.SIZE,
    _A.SPACE_USED,
    _A.FILEID,
    _A.TIME_ACCESS,
    _A.TIME_MODIFY,
    _A.TIME_METADATA,
    _A.TIME_CREATE,
    _A.CHANGE,
    _A.RAWDEV,
)
_all: Final = operator.itemgetter(*_ORDER)
_DEVICES: Final = (FileKind.CHARACTER, FileKind.BLOCK)


def attr_of(values: Attributes) -> Attr:
    """What a server leaves out is as harmless as it can be."""
    try:
        found = _all(values)
    except KeyError:
        found = _all({**_harmless(values), **values})
    type_, mode, nlink, owner, group, size, used, fileid, atime, mtime, ctime, btime, change, rdev = found
    kind = _KINDS.get(type_, FileKind.REGULAR)
    device = os.makedev(rdev.major, rdev.minor) if kind in _DEVICES else 0
    return Attr(
        kind,
        mode & 0o7777,
        nlink,
        _uid(owner),
        _gid(group),
        size,
        used,
        fileid,
        atime,
        mtime,
        ctime,
        btime,
        change,
        device,
    )


def _harmless(values: Attributes) -> Attributes:
    kind = values.get(_A.TYPE, FileType.REG)
    mtime = values.get(_A.TIME_MODIFY, 0)
    return {
        _A.TYPE: kind,
        _A.MODE: 0o755 if kind in (FileType.DIR, FileType.ATTRDIR) else 0o644,
        _A.NUMLINKS: 1,
        _A.OWNER: "",
        _A.OWNER_GROUP: "",
        _A.SIZE: 0,
        _A.SPACE_USED: values.get(_A.SIZE, 0),
        _A.FILEID: 0,
        _A.TIME_ACCESS: mtime,
        _A.TIME_MODIFY: mtime,
        _A.TIME_METADATA: mtime,
        _A.TIME_CREATE: mtime,
        _A.CHANGE: 0,
        _A.RAWDEV: SpecData(0, 0),
    }


def changes_of(changes: SetAttr) -> Attributes:
    """For SETATTR, in number order."""
    made: dict[Attribute, Any] = {}
    if changes.size is not None:
        if changes.size < 0:
            raise FsError(Status.INVALID, "a negative size")
        made[_A.SIZE] = changes.size
    if changes.mode is not None:
        made[_A.MODE] = changes.mode & 0o7777
    if changes.uid is not None:
        made[_A.OWNER] = str(changes.uid)
    if changes.gid is not None:
        made[_A.OWNER_GROUP] = str(changes.gid)
    if changes.atime_ns is not None:
        made[_A.TIME_ACCESS_SET] = None if changes.atime_ns == NOW else changes.atime_ns
    if changes.btime_ns is not None and changes.btime_ns != NOW:
        made[_A.TIME_CREATE] = changes.btime_ns
    if changes.mtime_ns is not None:
        made[_A.TIME_MODIFY_SET] = None if changes.mtime_ns == NOW else changes.mtime_ns
    return made


def statfs_of(values: Attributes) -> StatFs:
    get: Callable[[Attribute, Any], Any] = values.get
    total = get(_A.SPACE_TOTAL, 0)
    free = get(_A.SPACE_FREE, 0)
    return StatFs(
        block_size=_BLOCK,
        blocks=total // _BLOCK,
        blocks_free=free // _BLOCK,
        blocks_available=get(_A.SPACE_AVAIL, free) // _BLOCK,
        files=get(_A.FILES_TOTAL, 0),
        files_free=get(_A.FILES_FREE, 0),
        name_max=get(_A.MAXNAME, 255),
        read_only=False,
    )

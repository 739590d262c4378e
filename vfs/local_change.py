"""`SetAttr` applied to a descriptor. Order: size, owner (which clears set-ID bits), mode, times."""

from __future__ import annotations

import os
from typing import Final

from quicfs.vfs import syscalls
from quicfs.vfs.api import NOW, FileKind, SetAttr
from quicfs.vfs.status import FsError, Status

MAX_OFFSET: Final = (1 << 63) - 1
_KEEP_ID: Final = 0xFFFFFFFF
_NS: Final = 1_000_000_000


def check(changes: SetAttr, kind: FileKind) -> None:
    """INVALID, TOO_BIG, IS_DIR or NOT_SUPPORTED before anything is touched."""
    if changes.size is not None:
        check_size(changes.size)
        if kind is FileKind.DIRECTORY:
            raise FsError(Status.IS_DIR, "size")
        if kind is not FileKind.REGULAR:
            raise FsError(Status.INVALID, "size of a special file")
    if changes.mode is not None:
        if not 0 <= changes.mode <= 0o7777:
            raise FsError(Status.INVALID, "mode")
        if kind is FileKind.SYMLINK:
            raise FsError(Status.NOT_SUPPORTED, "mode of a symbolic link")
    for identity in (changes.uid, changes.gid):
        if identity is not None and not 0 <= identity < _KEEP_ID:
            raise FsError(Status.INVALID, "owner")
    for time_ns in (changes.atime_ns, changes.mtime_ns):
        if time_ns is not None and not -MAX_OFFSET - 1 <= time_ns // _NS <= MAX_OFFSET:
            raise FsError(Status.INVALID, "time")


def check_size(size: int) -> None:
    if size < 0:
        raise FsError(Status.INVALID, "size")
    if size > MAX_OFFSET:
        raise FsError(Status.TOO_BIG)


def apply(fd: int, path: str | int, changes: SetAttr) -> None:
    """All but the size. `path` leads to the object for chmod(2): /proc/self/fd/N, or the descriptor itself
    unless it is an O_PATH one. A birth time cannot be set on Linux; it stays as it is."""
    if changes.uid is not None or changes.gid is not None:
        uid = _KEEP_ID if changes.uid is None else changes.uid
        gid = _KEEP_ID if changes.gid is None else changes.gid
        syscalls.chown(fd, uid, gid)
    if changes.mode is not None:
        os.chmod(path, changes.mode)
    if changes.atime_ns is not None or changes.mtime_ns is not None:
        syscalls.utimens(fd, _timespec(changes.atime_ns), _timespec(changes.mtime_ns))


def _timespec(time_ns: int | None) -> tuple[int, int]:
    if time_ns is None:
        return 0, syscalls.UTIME_OMIT
    if time_ns == NOW:
        return 0, syscalls.UTIME_NOW
    return divmod(time_ns, _NS)

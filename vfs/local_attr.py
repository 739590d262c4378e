"""statx(2) to `Attr`. One call gives everything, birth time included, for less than os.stat costs."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from typing import Final, NamedTuple

from quicfs.vfs import syscalls
from quicfs.vfs.api import Attr, FileKind

_KINDS: Final[dict[int, FileKind]] = {
    stat.S_IFREG: FileKind.REGULAR,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFLNK: FileKind.SYMLINK,
    stat.S_IFIFO: FileKind.FIFO,
    stat.S_IFSOCK: FileKind.SOCKET,
    stat.S_IFCHR: FileKind.CHARACTER,
    stat.S_IFBLK: FileKind.BLOCK,
}

_STATX_BASIC_STATS: Final = 0x7FF
_STATX_BTIME: Final = 0x800
_MASK: Final = _STATX_BASIC_STATS | _STATX_BTIME
_ENTRY: Final = syscalls.AT_SYMLINK_NOFOLLOW | syscalls.AT_NO_AUTOMOUNT

# struct statx: mask; nlink, uid, gid, mode, ino, size, blocks; atime, btime, ctime, mtime; rdev, dev
_STATX: Final = struct.Struct("=I12xIIIHxxQQQ8xqI4xqI4xqI4xqI4xIIII")
_STATX_SIZE: Final = 256

MAX_COUNTED: Final = 4096
"""Objects whose changes are counted; the one whose last change is longest ago goes first."""


class ObjectKey(NamedTuple):
    """What tells one object from all others, also from a later one with the same inode number."""

    device: int
    inode: int
    birth_ns: int  # 0 where the file system keeps none


class StatReader:
    """Reads attributes into one buffer of its own; for one thread."""

    def __init__(self) -> None:
        self._buffer = bytearray(_STATX_SIZE)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self._home: int | None = None  # the device of the first object read, which is the root
        self._changes: dict[ObjectKey, int] = {}

    def changed(self, key: ObjectKey) -> None:
        """To be told after each change that we make.

        Before Linux 6.13, and on some file systems still, the change time moves in steps of milliseconds
        only; what is counted here tells the changes within one step apart. (Another program's changes
        within one step with ours are not told apart there.)
        """
        count = self._changes.pop(key, 0) + 1
        if len(self._changes) >= MAX_COUNTED:
            del self._changes[next(iter(self._changes))]
        self._changes[key] = count

    def of_entry(self, dir_fd: int, name: bytes) -> tuple[ObjectKey, Attr]:
        """The object that one name (never a path) stands for in a directory; links are not followed."""
        syscalls.statx(dir_fd, name, _ENTRY, _MASK, self._address)
        return self._decode()

    def of_descriptor(self, fd: int) -> tuple[ObjectKey, Attr]:
        """The object behind a descriptor, O_PATH or not."""
        syscalls.statx(fd, b"", syscalls.AT_EMPTY_PATH, _MASK, self._address)
        return self._decode()

    def _decode(self) -> tuple[ObjectKey, Attr]:
        (
            mask, nlink, uid, gid, mode, inode, size, blocks, atime, atime_ns, btime, btime_ns, ctime,
            ctime_ns, mtime, mtime_ns, rdev_major, rdev_minor, dev_major, dev_minor,
        ) = _STATX.unpack_from(self._buffer)  # fmt: skip
        device = dev_major << 32 | dev_minor
        if self._home is None:
            self._home = device
        mtime_ns += mtime * 1_000_000_000
        ctime_ns += ctime * 1_000_000_000
        birth_ns = btime_ns + btime * 1_000_000_000 if mask & _STATX_BTIME else 0
        key = ObjectKey(device, inode, birth_ns)
        attr = Attr(
            _KINDS.get(stat.S_IFMT(mode), FileKind.CHARACTER),  # what is unknown is never opened
            mode & 0o7777,
            nlink,
            uid,
            gid,
            size,
            blocks << 9,
            # A file system mounted inside the tree numbers its inodes by itself.
            inode if device == self._home else (inode ^ (device * 0x9E3779B97F4A7C15)) & 0x7FFFFFFFFFFFFFFF,
            atime_ns + atime * 1_000_000_000,
            mtime_ns,
            ctime_ns,
            birth_ns or mtime_ns,
            ctime_ns + self._changes.get(key, 0),
            os.makedev(rdev_major, rdev_minor) if rdev_major or rdev_minor else 0,
        )
        return key, attr

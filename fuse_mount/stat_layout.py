"""`struct stat` of this machine, packed in one go from the contract's attributes."""

from __future__ import annotations

import ctypes
import stat
import struct
from typing import Any, Final

from quicfs.vfs import Attr, FileKind

IO_BLOCK: Final = 128 * 1024
"""st_blksize: what C's stdio and cp take as their buffer."""

MODE_OF_KIND: Final[dict[FileKind, int]] = {
    FileKind.REGULAR: stat.S_IFREG,
    FileKind.DIRECTORY: stat.S_IFDIR,
    FileKind.SYMLINK: stat.S_IFLNK,
    FileKind.FIFO: stat.S_IFIFO,
    FileKind.SOCKET: stat.S_IFSOCK,
    FileKind.CHARACTER: stat.S_IFCHR,
    FileKind.BLOCK: stat.S_IFBLK,
}

_FIELDS: Final = ("st_ino", "st_nlink", "st_mode", "st_uid", "st_gid", "st_rdev", "st_size", "st_blksize")
_TIMES: Final = ("st_atimespec", "st_mtimespec", "st_ctimespec")
_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}


class StatLayout:
    """Packs an `Attr` for a C structure that has the fields of stat(2) (`mfusepy.c_stat`)."""

    def __init__(self, c_stat: type[ctypes.Structure], *, uid: int | None, gid: int | None) -> None:
        self.size = ctypes.sizeof(c_stat)
        self._uid = uid
        self._gid = gid
        wanted = {*_FIELDS, "st_blocks", *_TIMES}
        places = sorted((getattr(c_stat, name).offset, name) for name in wanted)
        layout, position = "=", 0
        self._order: list[str] = []
        for offset, name in places:
            width = getattr(c_stat, name).size
            layout += "x" * (offset - position)
            layout += "qq" if name in _TIMES else _CODES[width]
            position = offset + width
            self._order.append(name)
        self._struct = struct.Struct(layout + "x" * (self.size - position))

    def pack(self, attr: Attr) -> bytes:
        values: dict[str, Any] = {
            "st_ino": attr.fileid & 0xFFFF_FFFF_FFFF_FFFF,
            "st_nlink": attr.nlink,
            "st_mode": MODE_OF_KIND[attr.kind] | attr.mode,
            "st_uid": attr.uid if self._uid is None else self._uid,
            "st_gid": attr.gid if self._gid is None else self._gid,
            "st_rdev": attr.rdev,
            "st_size": attr.size,
            "st_blksize": IO_BLOCK,
            "st_blocks": (attr.allocated + 511) >> 9,
            "st_atimespec": attr.atime_ns,
            "st_mtimespec": attr.mtime_ns,
            "st_ctimespec": attr.ctime_ns,
        }
        flat: list[int] = []
        for name in self._order:
            if name in _TIMES:
                flat += divmod(values[name], 1_000_000_000)
            else:
                flat.append(values[name])
        return self._struct.pack(*flat)

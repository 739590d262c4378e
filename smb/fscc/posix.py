"""Level 100 of the SMB 3.1.1 POSIX extensions: files, entries, file systems, and the mode's form."""

from __future__ import annotations

import enum
import stat
import struct
from dataclasses import dataclass
from typing import Final

from quicfs.smb.fscc.sid import Sid
from quicfs.smb.messages.wire import decode_utf16, encode_utf16, take, unpack

__all__ = ["PosixFileType", "PosixFsInfo", "PosixInfo", "mode_from_wire", "mode_to_wire"]

_INFO = struct.Struct("<QQQQQQIQIIIII")
_NAME_LENGTH = struct.Struct("<I")
_FS = struct.Struct("<IIQQQQQQ")
_TYPE_SHIFT: Final = 12


class PosixFileType(enum.IntEnum):
    """Above the twelve permission bits of a mode on the wire."""

    REGULAR = 0
    DIRECTORY = 1
    SYMLINK = 2
    CHARACTER = 3
    BLOCK = 4
    FIFO = 5
    SOCKET = 6


_FROM_STAT = {
    stat.S_IFREG: PosixFileType.REGULAR,
    stat.S_IFDIR: PosixFileType.DIRECTORY,
    stat.S_IFLNK: PosixFileType.SYMLINK,
    stat.S_IFCHR: PosixFileType.CHARACTER,
    stat.S_IFBLK: PosixFileType.BLOCK,
    stat.S_IFIFO: PosixFileType.FIFO,
    stat.S_IFSOCK: PosixFileType.SOCKET,
}
_TO_STAT = {value: key for key, value in _FROM_STAT.items()}


def mode_to_wire(permissions: int, kind: PosixFileType) -> int:
    return permissions & 0o7777 | kind << _TYPE_SHIFT


def mode_from_wire(mode: int) -> tuple[int, PosixFileType | None]:
    """Permissions and type; None for a type that we do not know."""
    number = mode >> _TYPE_SHIFT & 0xF
    return mode & 0o7777, PosixFileType(number) if number <= PosixFileType.SOCKET else None


@dataclass(slots=True)
class PosixInfo:
    """FILE_POSIX_INFORMATION; without its name the form of QUERY_INFO, with it that of a directory entry."""

    creation_time: int  # FILETIMEs
    last_access_time: int
    last_write_time: int
    change_time: int
    end_of_file: int
    allocation_size: int
    file_attributes: int
    inode: int
    device: int
    nlink: int
    reparse_tag: int
    mode: int  # wire form
    owner: Sid
    group: Sid
    name: str = ""

    @classmethod
    def parse(cls, data: memoryview) -> PosixInfo:
        what = "POSIX information"
        c, a, w, ch, end, allocation, attributes, inode, device, _, nlink, tag, mode = unpack(
            _INFO, data, 0, what
        )
        owner, at = Sid.parse(data, _INFO.size)
        group, at = Sid.parse(data, at)
        name = ""
        if at + _NAME_LENGTH.size <= len(data):
            (length,) = _NAME_LENGTH.unpack_from(data, at)
            name = decode_utf16(take(data, at + _NAME_LENGTH.size, length, what), what)
        return cls(
            c, a, w, ch, end, allocation, attributes, inode, device, nlink, tag, mode, owner, group, name
        )

    def pack(self, *, with_name: bool) -> bytes:
        fixed = _INFO.pack(
            self.creation_time,
            self.last_access_time,
            self.last_write_time,
            self.change_time,
            self.end_of_file,
            self.allocation_size,
            self.file_attributes,
            self.inode,
            self.device,
            0,
            self.nlink,
            self.reparse_tag,
            self.mode,
        )
        packed = fixed + self.owner.packed + self.group.packed
        if not with_name:
            return packed
        name = encode_utf16(self.name)
        return packed + _NAME_LENGTH.pack(len(name)) + name


@dataclass(slots=True)
class PosixFsInfo:
    """FILE_FS_POSIX_INFORMATION: sizes in bytes or blocks of `block_size`."""

    optimal_transfer_size: int
    block_size: int
    total_blocks: int
    blocks_free: int
    blocks_available: int
    total_files: int
    files_free: int
    fs_id: int

    @classmethod
    def parse(cls, data: memoryview) -> PosixFsInfo:
        return cls(*unpack(_FS, data, 0, "POSIX file system information"))

    def pack(self) -> bytes:
        return _FS.pack(
            self.optimal_transfer_size,
            self.block_size,
            self.total_blocks,
            self.blocks_free,
            self.blocks_available,
            self.total_files,
            self.files_free,
            self.fs_id,
        )

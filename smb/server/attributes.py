"""From the contract's attributes to those of the wire."""

from __future__ import annotations

from typing import Final

from quicfs.smb.filetime import filetime_from_ns
from quicfs.smb.fscc.posix import PosixFileType, PosixInfo, mode_to_wire
from quicfs.smb.fscc.reparse import ReparseTag
from quicfs.smb.fscc.sid import gid_sid, uid_sid
from quicfs.smb.messages.access import FileAttribute
from quicfs.vfs import Attr, FileKind

__all__ = [
    "allocation_size",
    "end_of_file",
    "file_attributes",
    "is_read_only",
    "posix_info",
    "times",
]

_OWNER_WRITE: Final = 0o200
_ALLOCATION: Final = 4096

# Plain integers: these run for each entry of each listing.
_READONLY: Final = int(FileAttribute.READONLY)
_HIDDEN: Final = int(FileAttribute.HIDDEN)
_KIND: Final = {
    FileKind.REGULAR: 0,
    FileKind.DIRECTORY: int(FileAttribute.DIRECTORY),
    FileKind.SYMLINK: int(FileAttribute.REPARSE_POINT),
    FileKind.FIFO: int(FileAttribute.REPARSE_POINT),
    FileKind.SOCKET: int(FileAttribute.REPARSE_POINT),
    FileKind.CHARACTER: int(FileAttribute.REPARSE_POINT),
    FileKind.BLOCK: int(FileAttribute.REPARSE_POINT),
}
REPARSE_TAGS: Final = {
    FileKind.REGULAR: 0,
    FileKind.DIRECTORY: 0,
    FileKind.SYMLINK: int(ReparseTag.SYMLINK),
    FileKind.FIFO: int(ReparseTag.NFS),
    FileKind.SOCKET: int(ReparseTag.NFS),
    FileKind.CHARACTER: int(ReparseTag.NFS),
    FileKind.BLOCK: int(ReparseTag.NFS),
}
_POSIX_TYPES: Final = {
    FileKind.REGULAR: PosixFileType.REGULAR,
    FileKind.DIRECTORY: PosixFileType.DIRECTORY,
    FileKind.SYMLINK: PosixFileType.SYMLINK,
    FileKind.FIFO: PosixFileType.FIFO,
    FileKind.SOCKET: PosixFileType.SOCKET,
    FileKind.CHARACTER: PosixFileType.CHARACTER,
    FileKind.BLOCK: PosixFileType.BLOCK,
}


def times(attr: Attr) -> tuple[int, int, int, int]:
    """FILETIMEs of creation, last access, last write and change: the order of nearly every structure."""
    return (
        filetime_from_ns(attr.btime_ns),
        filetime_from_ns(attr.atime_ns),
        filetime_from_ns(attr.mtime_ns),
        filetime_from_ns(attr.ctime_ns),
    )


def is_read_only(attr: Attr) -> bool:
    """Files without the owner's write permission; directories never are, as in Windows' own sense."""
    return attr.kind is FileKind.REGULAR and not attr.mode & _OWNER_WRITE


def file_attributes(attr: Attr, name: str = "") -> int:
    """[MS-FSCC] §2.6. Names with a leading dot are hidden, as Unix has it."""
    found = _KIND[attr.kind]
    if is_read_only(attr):
        found |= _READONLY
    if name[:1] == "." and name not in (".", ".."):
        found |= _HIDDEN
    return found or int(FileAttribute.NORMAL)


def end_of_file(attr: Attr) -> int:
    return 0 if attr.kind is FileKind.DIRECTORY else attr.size


def allocation_size(attr: Attr) -> int:
    """Bytes on disk, as a whole number of units."""
    if attr.kind is FileKind.DIRECTORY:
        return 0
    return -(-attr.allocated // _ALLOCATION) * _ALLOCATION


def posix_info(attr: Attr, device: int, name: str = "") -> PosixInfo:
    created, accessed, written, changed = times(attr)
    return PosixInfo(
        created,
        accessed,
        written,
        changed,
        attr.size,
        attr.allocated,
        file_attributes(attr),
        attr.fileid,
        device,
        attr.nlink,
        REPARSE_TAGS[attr.kind],
        mode_to_wire(attr.mode, _POSIX_TYPES[attr.kind]),
        uid_sid(attr.uid),
        gid_sid(attr.gid),
        name,
    )

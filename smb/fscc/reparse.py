"""Reparse points that are symbolic links ([MS-FSCC] §2.1.2.4 and §2.1.2.6)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.wire import decode_utf16, encode_utf16, take, unpack

__all__ = ["ReparseTag", "SymlinkReparse", "pack_nfs_symlink", "parse_symlink", "reparse_tag"]


class ReparseTag(enum.IntEnum):
    NONE = 0
    MOUNT_POINT = 0xA0000003
    SYMLINK = 0xA000000C
    NFS = 0x80000014
    LX_SYMLINK = 0xA000001D
    AF_UNIX = 0x80000023
    LX_FIFO = 0x80000024
    LX_CHR = 0x80000025
    LX_BLK = 0x80000026


_HEADER = struct.Struct("<IHH")
_SYMLINK = struct.Struct("<HHHHI")
_NFS_TYPE = struct.Struct("<Q")
_NFS_LNK: Final = 0x00000000014B4E4C
_RELATIVE: Final = 1


@dataclass(slots=True)
class SymlinkReparse:
    substitute_name: str
    print_name: str
    relative: bool

    def pack(self) -> bytes:
        sub, printed = encode_utf16(self.substitute_name), encode_utf16(self.print_name)
        data = _SYMLINK.pack(0, len(sub), len(sub), len(printed), _RELATIVE if self.relative else 0)
        data += sub + printed
        return _HEADER.pack(ReparseTag.SYMLINK, len(data), 0) + data

    @classmethod
    def parse_data(cls, data: memoryview) -> SymlinkReparse:
        what = "symbolic link reparse point"
        sub_at, sub_length, print_at, print_length, flags = unpack(_SYMLINK, data, 0, what)
        names = data[_SYMLINK.size :]
        substitute = decode_utf16(take(names, sub_at, sub_length, what), what)
        printed = decode_utf16(take(names, print_at, print_length, what), what)
        return cls(substitute, printed, bool(flags & _RELATIVE))


def pack_nfs_symlink(target: str) -> bytes:
    data = _NFS_TYPE.pack(_NFS_LNK) + encode_utf16(target)
    return _HEADER.pack(ReparseTag.NFS, len(data), 0) + data


def reparse_tag(buffer: memoryview) -> int:
    tag: int = unpack(_HEADER, buffer, 0, "reparse point")[0]
    return tag


def parse_symlink(buffer: memoryview) -> str | None:
    """The target of a symbolic link with slashes between components; None for any other reparse point."""
    tag, length, _ = unpack(_HEADER, buffer, 0, "reparse point")
    data = take(buffer, _HEADER.size, length, "reparse point")
    if tag == ReparseTag.SYMLINK:
        link = SymlinkReparse.parse_data(data)
        return link.substitute_name.replace("\\", "/")
    if tag == ReparseTag.NFS:
        (kind,) = unpack(_NFS_TYPE, data, 0, "NFS reparse point")
        if kind != _NFS_LNK:
            return None
        return decode_utf16(data[_NFS_TYPE.size :], "NFS reparse point")
    if tag == ReparseTag.LX_SYMLINK:
        if len(data) < 4:
            raise SmbProtocolError("WSL symbolic link: truncated")
        return str(data[4:], "utf-8", "surrogateescape")
    return None

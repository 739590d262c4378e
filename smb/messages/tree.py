"""TREE_CONNECT ([MS-SMB2] §2.2.9 and §2.2.10). TREE_DISCONNECT has no fields."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from quicfs.smb.messages.wire import HEADER_SIZE, body, encode_utf16, name_at

__all__ = ["ShareFlags", "ShareType", "TreeConnectRequest", "TreeConnectResponse"]


class ShareType(enum.IntEnum):
    DISK = 1
    PIPE = 2
    PRINT = 3


class ShareFlags(enum.IntFlag):
    MANUAL_CACHING = 0x0000
    NO_CACHING = 0x0030
    DFS = 0x0001
    DFS_ROOT = 0x0002
    ACCESS_BASED_DIRECTORY_ENUM = 0x0800
    ENCRYPT_DATA = 0x8000


_REQUEST = struct.Struct("<HHHH")
_RESPONSE = struct.Struct("<HBBIII")


@dataclass(slots=True)
class TreeConnectRequest:
    path: str  # \\server\share
    flags: int = 0

    @classmethod
    def parse(cls, message: memoryview) -> TreeConnectRequest:
        _, flags, offset, length = body(_REQUEST, message, 9, "TREE_CONNECT request")
        return cls(name_at(message, offset, length, "TREE_CONNECT request: path"), flags)

    def pack(self) -> bytes:
        name = encode_utf16(self.path)
        return _REQUEST.pack(9, self.flags, HEADER_SIZE + _REQUEST.size, len(name)) + name


@dataclass(slots=True)
class TreeConnectResponse:
    share_type: int
    share_flags: int
    capabilities: int
    maximal_access: int

    @classmethod
    def parse(cls, message: memoryview) -> TreeConnectResponse:
        _, kind, _, flags, capabilities, access = body(_RESPONSE, message, 16, "TREE_CONNECT response")
        return cls(kind, flags, capabilities, access)

    def pack(self) -> bytes:
        return _RESPONSE.pack(
            16, self.share_type, 0, self.share_flags, self.capabilities, self.maximal_access
        )

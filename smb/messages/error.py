"""The ERROR response and the symbolic link error in it ([MS-SMB2] §2.2.2, §2.2.2.1, §2.2.2.2.1)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.wire import HEADER_SIZE, body, decode_utf16, encode_utf16, take, unpack

__all__ = ["ERROR_BODY", "ErrorResponse", "SymlinkError"]

_ERROR = struct.Struct("<HBBI")
_CONTEXT = struct.Struct("<II")
_SYMLINK = struct.Struct("<IIIHHHHHHI")
_SYMLINK_TAG: Final = 0x4C4D5953
_REPARSE_TAG_SYMLINK: Final = 0xA000000C

# §2.2.2: without error data one byte is still there.
ERROR_BODY: Final = _ERROR.pack(9, 0, 0, 0) + b"\0"


@dataclass(slots=True)
class ErrorResponse:
    data: bytes | memoryview = b""  # of the first context in dialect 3.1.1
    error_id: int = 0

    @classmethod
    def parse(cls, message: memoryview) -> ErrorResponse:
        _, contexts, _, length = body(_ERROR, message, 9, "ERROR response")
        data = take(message, HEADER_SIZE + _ERROR.size, length, "ERROR response: data")
        if contexts == 0:
            return cls(data)
        size, error_id = unpack(_CONTEXT, data, 0, "error context")
        return cls(take(data, _CONTEXT.size, size, "error context"), error_id)

    def pack(self, *, contexts: bool) -> bytes:
        """`contexts`: whether the dialect is 3.1.1, which wraps the data."""
        if not self.data:
            return ERROR_BODY
        data = bytes(self.data)
        if contexts:
            data = _CONTEXT.pack(len(data), self.error_id) + data
        return _ERROR.pack(9, 1 if contexts else 0, 0, len(data)) + data


@dataclass(slots=True)
class SymlinkError:
    """The data of STOPPED_ON_SYMLINK."""

    unparsed_length: int  # bytes of the requested path after the link, UTF-16
    substitute_name: str
    print_name: str
    relative: bool

    @classmethod
    def parse(cls, data: memoryview) -> SymlinkError:
        what = "symbolic link error"
        _, tag, reparse, _, unparsed, sub_at, sub_length, print_at, print_length, flags = unpack(
            _SYMLINK, data, 0, what
        )
        if tag != _SYMLINK_TAG or reparse != _REPARSE_TAG_SYMLINK:
            raise SmbProtocolError(f"{what}: wrong tag")
        names = data[_SYMLINK.size :]
        substitute = decode_utf16(take(names, sub_at, sub_length, what), what)
        printed = decode_utf16(take(names, print_at, print_length, what), what)
        return cls(unparsed, substitute, printed, bool(flags & 1))

    def pack(self) -> bytes:
        sub, printed = encode_utf16(self.substitute_name), encode_utf16(self.print_name)
        names = sub + printed
        return (
            _SYMLINK.pack(
                _SYMLINK.size - 4 + len(names),
                _SYMLINK_TAG,
                _REPARSE_TAG_SYMLINK,
                12 + len(names),
                self.unparsed_length,
                0,
                len(sub),
                len(sub),
                len(printed),
                1 if self.relative else 0,
            )
            + names
        )

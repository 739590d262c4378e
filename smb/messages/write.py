"""WRITE ([MS-SMB2] §2.2.21 and §2.2.22). A request's data goes out as a part of its own, never copied."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from quicfs.smb.messages.wire import HEADER_SIZE, body, take

__all__ = ["WRITE_THROUGH", "WRITE_UNBUFFERED", "WriteRequest", "pack_write_response", "parse_write_response"]

WRITE_THROUGH = 0x00000001
WRITE_UNBUFFERED = 0x00000002

_REQUEST = struct.Struct("<HHIQ16sIIHHI")
_RESPONSE = struct.Struct("<HHIIHH")
_DATA_AT = HEADER_SIZE + _REQUEST.size


@dataclass(slots=True)
class WriteRequest:
    file_id: bytes
    offset: int
    data: bytes | memoryview
    flags: int = 0

    @classmethod
    def parse(cls, message: memoryview) -> WriteRequest:
        """`data` is a view into the message."""
        _, data_at, length, offset, file_id, _, _, _, _, flags = body(_REQUEST, message, 49, "WRITE request")
        data = take(message, data_at, length, "WRITE request: data", least=_DATA_AT)
        return cls(file_id, offset, data, flags)

    def pack_head(self) -> bytes:
        """The fixed part; `data` follows it."""
        return _REQUEST.pack(49, _DATA_AT, len(self.data), self.offset, self.file_id, 0, 0, 0, 0, self.flags)


def pack_write_response(count: int) -> bytes:
    return _RESPONSE.pack(17, 0, count, 0, 0, 0)


def parse_write_response(message: memoryview) -> int:
    """The number of bytes written."""
    count: int = body(_RESPONSE, message, 17, "WRITE response")[2]
    return count

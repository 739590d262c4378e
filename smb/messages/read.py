"""READ ([MS-SMB2] §2.2.19 and §2.2.20). A response's data goes out as a part of its own, never copied."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from quicfs.smb.messages.wire import HEADER_SIZE, body, take

__all__ = ["READ_RESPONSE_SIZE", "ReadRequest", "pack_read_response", "parse_read_response"]

_REQUEST = struct.Struct("<HBBIQ16sIIIHH")
_RESPONSE = struct.Struct("<HBBIII")
READ_RESPONSE_SIZE = _RESPONSE.size
_DATA_AT = HEADER_SIZE + _RESPONSE.size


@dataclass(slots=True)
class ReadRequest:
    file_id: bytes
    offset: int
    length: int
    minimum_count: int = 0
    flags: int = 0

    @classmethod
    def parse(cls, message: memoryview) -> ReadRequest:
        _, _, flags, length, offset, file_id, minimum, _, _, _, _ = body(
            _REQUEST, message, 49, "READ request"
        )
        return cls(file_id, offset, length, minimum, flags)

    def pack(self) -> bytes:
        # Padding: where we want the data in the response. One byte of buffer is always there.
        return (
            _REQUEST.pack(
                49,
                _DATA_AT,
                self.flags,
                self.length,
                self.offset,
                self.file_id,
                self.minimum_count,
                0,
                0,
                0,
                0,
            )
            + b"\0"
        )


def pack_read_response(length: int) -> bytes:
    """The fixed part; `length` bytes of data follow it."""
    return _RESPONSE.pack(17, _DATA_AT, 0, length, 0, 0)


def parse_read_response(message: memoryview) -> memoryview:
    """The data, a view into the message."""
    _, offset, _, length, _, _ = body(_RESPONSE, message, 17, "READ response")
    return take(message, offset, length, "READ response: data", least=_DATA_AT)

"""CLOSE and FLUSH ([MS-SMB2] §2.2.15 to §2.2.17)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from quicfs.smb.messages.wire import body

__all__ = ["POSTQUERY_ATTRIB", "CloseRequest", "CloseResponse", "FlushRequest"]

POSTQUERY_ATTRIB = 0x0001

_REQUEST = struct.Struct("<HHI16s")
_RESPONSE = struct.Struct("<HHIQQQQQQI")


@dataclass(slots=True)
class CloseRequest:
    file_id: bytes
    flags: int = 0

    @classmethod
    def parse(cls, message: memoryview) -> CloseRequest:
        _, flags, _, file_id = body(_REQUEST, message, 24, "CLOSE request")
        return cls(file_id, flags)

    def pack(self) -> bytes:
        return _REQUEST.pack(24, self.flags, 0, self.file_id)


@dataclass(slots=True)
class CloseResponse:
    flags: int = 0
    creation_time: int = 0  # FILETIMEs; all of these count with POSTQUERY_ATTRIB only
    last_access_time: int = 0
    last_write_time: int = 0
    change_time: int = 0
    allocation_size: int = 0
    end_of_file: int = 0
    file_attributes: int = 0

    @classmethod
    def parse(cls, message: memoryview) -> CloseResponse:
        _, flags, _, *rest = body(_RESPONSE, message, 60, "CLOSE response")
        return cls(flags, *rest)

    def pack(self) -> bytes:
        return _RESPONSE.pack(
            60,
            self.flags,
            0,
            self.creation_time,
            self.last_access_time,
            self.last_write_time,
            self.change_time,
            self.allocation_size,
            self.end_of_file,
            self.file_attributes,
        )


@dataclass(slots=True)
class FlushRequest:
    file_id: bytes

    @classmethod
    def parse(cls, message: memoryview) -> FlushRequest:
        return cls(body(_REQUEST, message, 24, "FLUSH request")[3])

    def pack(self) -> bytes:
        return _REQUEST.pack(24, 0, 0, self.file_id)

"""QUERY_DIRECTORY ([MS-SMB2] §2.2.33). Responses are `output.pack_output`."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from quicfs.smb.messages.wire import HEADER_SIZE, body, encode_utf16, name_at

__all__ = ["QueryDirectoryFlags", "QueryDirectoryRequest"]


class QueryDirectoryFlags(enum.IntFlag):
    RESTART_SCANS = 0x01
    RETURN_SINGLE_ENTRY = 0x02
    INDEX_SPECIFIED = 0x04
    REOPEN = 0x10


_REQUEST = struct.Struct("<HBBI16sHHI")


@dataclass(slots=True)
class QueryDirectoryRequest:
    file_id: bytes
    info_class: int
    pattern: str = "*"
    output_length: int = 65536
    flags: int = 0
    file_index: int = 0

    @classmethod
    def parse(cls, message: memoryview) -> QueryDirectoryRequest:
        _, info_class, flags, index, file_id, at, length, output = body(
            _REQUEST, message, 33, "QUERY_DIRECTORY request"
        )
        pattern = name_at(message, at, length, "QUERY_DIRECTORY request: pattern")
        return cls(file_id, info_class, pattern, output, flags, index)

    def pack(self) -> bytes:
        name = encode_utf16(self.pattern)
        at = HEADER_SIZE + _REQUEST.size
        return (
            _REQUEST.pack(
                33,
                self.info_class,
                self.flags,
                self.file_index,
                self.file_id,
                at,
                len(name),
                self.output_length,
            )
            + name
        )

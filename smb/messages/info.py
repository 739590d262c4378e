"""QUERY_INFO and SET_INFO requests ([MS-SMB2] §2.2.37 and §2.2.39). Responses: `output` and here."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from quicfs.smb.messages.wire import HEADER_SIZE, body, take

__all__ = ["SET_INFO_RESPONSE", "InfoType", "QueryInfoRequest", "SecurityInformation", "SetInfoRequest"]


class InfoType(enum.IntEnum):
    FILE = 1
    FILESYSTEM = 2
    SECURITY = 3
    QUOTA = 4


class SecurityInformation(enum.IntFlag):
    """AdditionalInformation of InfoType.SECURITY."""

    OWNER = 0x00000001
    GROUP = 0x00000002
    DACL = 0x00000004
    SACL = 0x00000008
    LABEL = 0x00000010


_QUERY = struct.Struct("<HBBIHHIII16s")
_SET = struct.Struct("<HBBIHHI16s")
SET_INFO_RESPONSE: Final = struct.pack("<H", 2)  # §2.2.40


@dataclass(slots=True)
class QueryInfoRequest:
    file_id: bytes
    info_type: int
    info_class: int
    output_length: int = 65536
    additional: int = 0
    flags: int = 0
    input: bytes | memoryview = b""

    @classmethod
    def parse(cls, message: memoryview) -> QueryInfoRequest:
        _, kind, info_class, output, at, _, length, additional, flags, file_id = body(
            _QUERY, message, 41, "QUERY_INFO request"
        )
        data = take(message, at, length, "QUERY_INFO request: input", least=HEADER_SIZE + _QUERY.size)
        return cls(file_id, kind, info_class, output, additional, flags, data)

    def pack(self) -> bytes:
        at = HEADER_SIZE + _QUERY.size if self.input else 0
        return _QUERY.pack(
            41,
            self.info_type,
            self.info_class,
            self.output_length,
            at,
            0,
            len(self.input),
            self.additional,
            self.flags,
            self.file_id,
        ) + (self.input or b"\0")


@dataclass(slots=True)
class SetInfoRequest:
    file_id: bytes
    info_type: int
    info_class: int
    data: bytes | memoryview
    additional: int = 0

    @classmethod
    def parse(cls, message: memoryview) -> SetInfoRequest:
        _, kind, info_class, length, at, _, additional, file_id = body(_SET, message, 33, "SET_INFO request")
        data = take(message, at, length, "SET_INFO request: data", least=HEADER_SIZE + _SET.size)
        return cls(file_id, kind, info_class, data, additional)

    def pack(self) -> bytes:
        at = HEADER_SIZE + _SET.size
        return (
            _SET.pack(
                33, self.info_type, self.info_class, len(self.data), at, 0, self.additional, self.file_id
            )
            + self.data
        )

"""IOCTL ([MS-SMB2] §2.2.31 and §2.2.32)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from quicfs.smb.messages.wire import HEADER_SIZE, body, take

__all__ = ["IOCTL_IS_FSCTL", "NO_FILE_ID", "Fsctl", "IoctlRequest", "IoctlResponse"]

IOCTL_IS_FSCTL = 0x00000001
NO_FILE_ID = b"\xff" * 16  # for the controls that act on no open file


class Fsctl(enum.IntEnum):
    DFS_GET_REFERRALS = 0x00060194
    DFS_GET_REFERRALS_EX = 0x000601B0
    PIPE_PEEK = 0x0011400C
    PIPE_WAIT = 0x00110018
    PIPE_TRANSCEIVE = 0x0011C017
    SRV_ENUMERATE_SNAPSHOTS = 0x00144064
    SRV_REQUEST_RESUME_KEY = 0x00140078
    SRV_COPYCHUNK = 0x001440F2
    SRV_COPYCHUNK_WRITE = 0x001480F2
    QUERY_NETWORK_INTERFACE_INFO = 0x001401FC
    VALIDATE_NEGOTIATE_INFO = 0x00140204
    LMR_REQUEST_RESILIENCY = 0x001401D4
    GET_COMPRESSION = 0x0009003C
    CREATE_OR_GET_OBJECT_ID = 0x000900C0
    SET_REPARSE_POINT = 0x000900A4
    GET_REPARSE_POINT = 0x000900A8
    DELETE_REPARSE_POINT = 0x000900AC
    SET_SPARSE = 0x000900C4
    SET_ZERO_DATA = 0x000980C8
    QUERY_ALLOCATED_RANGES = 0x000940CF


_REQUEST = struct.Struct("<HHI16sIIIIIIII")
_RESPONSE = struct.Struct("<HHI16sIIIIII")


@dataclass(slots=True)
class IoctlRequest:
    control_code: int
    file_id: bytes = NO_FILE_ID
    input: bytes | memoryview = b""
    max_input_response: int = 0
    max_output_response: int = 65536
    flags: int = IOCTL_IS_FSCTL

    @classmethod
    def parse(cls, message: memoryview) -> IoctlRequest:
        _, _, code, file_id, at, count, max_in, _, _, max_out, flags, _ = body(
            _REQUEST, message, 57, "IOCTL request"
        )
        data = take(message, at, count, "IOCTL request: input", least=HEADER_SIZE + _REQUEST.size)
        return cls(code, file_id, data, max_in, max_out, flags)

    def pack(self) -> bytes:
        at = HEADER_SIZE + _REQUEST.size
        return (
            _REQUEST.pack(
                57,
                0,
                self.control_code,
                self.file_id,
                at,
                len(self.input),
                self.max_input_response,
                at,
                0,
                self.max_output_response,
                self.flags,
                0,
            )
            + self.input
        )


@dataclass(slots=True)
class IoctlResponse:
    control_code: int
    file_id: bytes
    output: bytes | memoryview

    @classmethod
    def parse(cls, message: memoryview) -> IoctlResponse:
        _, _, code, file_id, _, _, at, count, _, _ = body(_RESPONSE, message, 49, "IOCTL response")
        data = take(message, at, count, "IOCTL response: output", least=HEADER_SIZE + _RESPONSE.size)
        return cls(code, file_id, data)

    def pack(self) -> bytes:
        at = HEADER_SIZE + _RESPONSE.size
        fixed = _RESPONSE.pack(49, 0, self.control_code, self.file_id, at, 0, at, len(self.output), 0, 0)
        return fixed + self.output

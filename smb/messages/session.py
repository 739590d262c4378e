"""SESSION_SETUP and LOGOFF ([MS-SMB2] §2.2.5 to §2.2.8)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from quicfs.smb.messages.wire import HEADER_SIZE, body, take

__all__ = ["SESSION_FLAG_BINDING", "SessionFlags", "SessionSetupRequest", "SessionSetupResponse"]

SESSION_FLAG_BINDING = 0x01  # in a request's Flags


class SessionFlags(enum.IntFlag):
    """In a response."""

    IS_GUEST = 0x0001
    IS_NULL = 0x0002
    ENCRYPT_DATA = 0x0004


_REQUEST = struct.Struct("<HBBIIHHQ")
_RESPONSE = struct.Struct("<HHHH")


@dataclass(slots=True)
class SessionSetupRequest:
    security_buffer: bytes | memoryview
    flags: int = 0
    security_mode: int = 1
    capabilities: int = 0
    previous_session_id: int = 0

    @classmethod
    def parse(cls, message: memoryview) -> SessionSetupRequest:
        _, flags, mode, capabilities, _, offset, length, previous = body(
            _REQUEST, message, 25, "SESSION_SETUP request"
        )
        token = take(message, offset, length, "SESSION_SETUP request: security buffer", least=HEADER_SIZE)
        return cls(token, flags, mode, capabilities, previous)

    def pack(self) -> bytes:
        return (
            _REQUEST.pack(
                25,
                self.flags,
                self.security_mode,
                self.capabilities,
                0,
                HEADER_SIZE + _REQUEST.size,
                len(self.security_buffer),
                self.previous_session_id,
            )
            + self.security_buffer
        )


@dataclass(slots=True)
class SessionSetupResponse:
    session_flags: int
    security_buffer: bytes | memoryview

    @classmethod
    def parse(cls, message: memoryview) -> SessionSetupResponse:
        _, flags, offset, length = body(_RESPONSE, message, 9, "SESSION_SETUP response")
        token = take(message, offset, length, "SESSION_SETUP response: security buffer", least=HEADER_SIZE)
        return cls(flags, token)

    def pack(self) -> bytes:
        fixed = _RESPONSE.pack(9, self.session_flags, HEADER_SIZE + _RESPONSE.size, len(self.security_buffer))
        return fixed + self.security_buffer

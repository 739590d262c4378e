"""FSCTL_VALIDATE_NEGOTIATE_INFO ([MS-SMB2] §2.2.31.4 and §2.2.32.6)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.wire import unpack

__all__ = ["ValidateNegotiateRequest", "ValidateNegotiateResponse"]

_REQUEST = struct.Struct("<I16sHH")
_RESPONSE = struct.Struct("<I16sHH")


@dataclass(slots=True)
class ValidateNegotiateRequest:
    capabilities: int
    guid: bytes
    security_mode: int
    dialects: Sequence[int]

    @classmethod
    def parse(cls, data: memoryview) -> ValidateNegotiateRequest:
        what = "VALIDATE_NEGOTIATE_INFO"
        capabilities, guid, mode, count = unpack(_REQUEST, data, 0, what)
        if _REQUEST.size + 2 * count > len(data):
            raise SmbProtocolError(f"{what}: bad DialectCount")
        return cls(capabilities, guid, mode, struct.unpack_from(f"<{count}H", data, _REQUEST.size))

    def pack(self) -> bytes:
        count = len(self.dialects)
        fixed = _REQUEST.pack(self.capabilities, self.guid, self.security_mode, count)
        return fixed + struct.pack(f"<{count}H", *self.dialects)


@dataclass(slots=True)
class ValidateNegotiateResponse:
    capabilities: int
    guid: bytes
    security_mode: int
    dialect: int

    @classmethod
    def parse(cls, data: memoryview) -> ValidateNegotiateResponse:
        return cls(*unpack(_RESPONSE, data, 0, "VALIDATE_NEGOTIATE_INFO"))

    def pack(self) -> bytes:
        return _RESPONSE.pack(self.capabilities, self.guid, self.security_mode, self.dialect)

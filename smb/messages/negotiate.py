"""NEGOTIATE ([MS-SMB2] §2.2.3 and §2.2.4), and the SMB1 form that asks for SMB2 (§3.3.5.3)."""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.header import HEADER_SIZE, SMB1_MAGIC
from quicfs.smb.messages.negotiate_contexts import NegotiateContexts
from quicfs.smb.messages.wire import align8, body, take, unpack

__all__ = [
    "Capabilities",
    "Dialect",
    "NegotiateRequest",
    "NegotiateResponse",
    "SecurityMode",
    "parse_smb1_negotiate",
]


class Dialect(enum.IntEnum):
    SMB_2_0_2 = 0x0202
    SMB_2_1 = 0x0210
    SMB_3_0 = 0x0300
    SMB_3_0_2 = 0x0302
    SMB_3_1_1 = 0x0311
    WILDCARD = 0x02FF  # answer to an SMB1 negotiate that offered "SMB 2.???"


class SecurityMode(enum.IntFlag):
    SIGNING_ENABLED = 0x01
    SIGNING_REQUIRED = 0x02


class Capabilities(enum.IntFlag):
    DFS = 0x01
    LEASING = 0x02
    LARGE_MTU = 0x04
    MULTI_CHANNEL = 0x08
    PERSISTENT_HANDLES = 0x10
    DIRECTORY_LEASING = 0x20
    ENCRYPTION = 0x40
    NOTIFICATIONS = 0x80


_REQUEST = struct.Struct("<HHHHI16sIHH")
_RESPONSE = struct.Struct("<HHHH16sIIIIQQHHI")


@dataclass(slots=True)
class NegotiateRequest:
    dialects: Sequence[int]
    client_guid: bytes  # 16
    security_mode: int = SecurityMode.SIGNING_ENABLED
    capabilities: int = 0
    contexts: NegotiateContexts | None = None  # with dialect 3.1.1 only

    @classmethod
    def parse(cls, message: memoryview) -> NegotiateRequest:
        _, count, mode, _, capabilities, guid, offset, context_count, _ = body(
            _REQUEST, message, 36, "NEGOTIATE request"
        )
        at = HEADER_SIZE + _REQUEST.size
        if count == 0 or at + 2 * count > len(message):
            raise SmbProtocolError("NEGOTIATE request: bad DialectCount")
        dialects = struct.unpack_from(f"<{count}H", message, at)
        contexts = None
        if Dialect.SMB_3_1_1 in dialects:
            contexts = NegotiateContexts.parse(message, offset, context_count)
        return cls(dialects, guid, mode, capabilities, contexts)

    def pack(self) -> bytes:
        dialects = struct.pack(f"<{len(self.dialects)}H", *self.dialects)
        offset = count = 0
        packed = padding = b""
        if self.contexts is not None:
            end = HEADER_SIZE + _REQUEST.size + len(dialects)
            offset = align8(end)
            padding = bytes(offset - end)
            count, packed = self.contexts.pack()
        fixed = _REQUEST.pack(
            36,
            len(self.dialects),
            self.security_mode,
            0,
            self.capabilities,
            self.client_guid,
            offset,
            count,
            0,
        )
        return b"".join((fixed, dialects, padding, packed))


@dataclass(slots=True)
class NegotiateResponse:
    dialect: int
    server_guid: bytes  # 16
    security_buffer: bytes | memoryview
    security_mode: int = SecurityMode.SIGNING_ENABLED
    capabilities: int = 0
    max_transact_size: int = 65536
    max_read_size: int = 65536
    max_write_size: int = 65536
    system_time: int = 0  # FILETIME
    contexts: NegotiateContexts | None = None

    @classmethod
    def parse(cls, message: memoryview) -> NegotiateResponse:
        (_, mode, dialect, count, guid, caps, transact, read, write, now, _, sec_at, sec_length, offset) = (
            body(_RESPONSE, message, 65, "NEGOTIATE response")
        )
        token = take(message, sec_at, sec_length, "NEGOTIATE response: security buffer", least=HEADER_SIZE)
        contexts = None
        if dialect == Dialect.SMB_3_1_1:
            contexts = NegotiateContexts.parse(message, offset, count)
        return cls(dialect, guid, token, mode, caps, transact, read, write, now, contexts)

    def pack(self) -> bytes:
        token = bytes(self.security_buffer)
        sec_at = HEADER_SIZE + _RESPONSE.size
        offset = count = 0
        packed = padding = b""
        if self.contexts is not None:
            end = sec_at + len(token)
            offset = align8(end)
            padding = bytes(offset - end)
            count, packed = self.contexts.pack()
        fixed = _RESPONSE.pack(
            65,
            self.security_mode,
            self.dialect,
            count,
            self.server_guid,
            self.capabilities,
            self.max_transact_size,
            self.max_read_size,
            self.max_write_size,
            self.system_time,
            0,
            sec_at,
            len(token),
            offset,
        )
        return b"".join((fixed, token, padding, packed))


_SMB1 = struct.Struct("<4sB27xBH")  # protocol, command, ..., WordCount, ByteCount


def parse_smb1_negotiate(packet: memoryview) -> list[bytes]:
    """The dialect strings of an SMB_COM_NEGOTIATE ([MS-CIFS] §2.2.4.52.1)."""
    magic, command, words, length = unpack(_SMB1, packet, 0, "SMB1 negotiate")
    if magic != SMB1_MAGIC or command != 0x72 or words != 0:
        raise SmbProtocolError("SMB1 message that is no negotiate")
    data = bytes(take(packet, _SMB1.size, length, "SMB1 negotiate"))
    return [piece[1:] for piece in data.split(b"\0") if piece[:1] == b"\x02"]

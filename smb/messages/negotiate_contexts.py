"""Negotiate contexts of dialect 3.1.1 ([MS-SMB2] §2.2.3.1 and §2.2.4.1; POSIX extensions: Samba)."""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.wire import align8, decode_utf16, encode_utf16, take, unpack

__all__ = [
    "POSIX_GUID",
    "Cipher",
    "ContextType",
    "HashAlgorithm",
    "NegotiateContexts",
    "SigningAlgorithm",
    "TransportFlags",
]

# The version of the SMB 3.1.1 POSIX extensions that everybody speaks.
POSIX_GUID: Final = bytes.fromhex("93ad25509cb411e7b42383de968bcd7c")


class ContextType(enum.IntEnum):
    PREAUTH_INTEGRITY_CAPABILITIES = 0x0001
    ENCRYPTION_CAPABILITIES = 0x0002
    COMPRESSION_CAPABILITIES = 0x0003
    NETNAME_NEGOTIATE_CONTEXT_ID = 0x0005
    TRANSPORT_CAPABILITIES = 0x0006
    RDMA_TRANSFORM_CAPABILITIES = 0x0007
    SIGNING_CAPABILITIES = 0x0008
    POSIX_EXTENSIONS = 0x0100


class HashAlgorithm(enum.IntEnum):
    SHA_512 = 0x0001


class Cipher(enum.IntEnum):
    AES_128_CCM = 0x0001
    AES_128_GCM = 0x0002
    AES_256_CCM = 0x0003
    AES_256_GCM = 0x0004


class SigningAlgorithm(enum.IntEnum):
    HMAC_SHA256 = 0x0000
    AES_CMAC = 0x0001
    AES_GMAC = 0x0002


class TransportFlags(enum.IntFlag):
    ACCEPT_TRANSPORT_LEVEL_SECURITY = 0x00000001


_CONTEXT = struct.Struct("<HHI")
_U16 = struct.Struct("<H")
_PREAUTH = struct.Struct("<HH")
_U32 = struct.Struct("<I")


@dataclass(slots=True)
class NegotiateContexts:
    """What the contexts of one NEGOTIATE say; None (or empty) where the context is not there.

    Algorithms are plain integers in the order of preference; unknown ones are kept.
    """

    hash_algorithms: Sequence[int] = ()
    salt: bytes = b""
    ciphers: Sequence[int] | None = None
    signing_algorithms: Sequence[int] | None = None
    netname: str | None = None
    transport_flags: int | None = None
    posix: bool = False
    unknown: list[int] = field(default_factory=list)

    @classmethod
    def parse(cls, message: memoryview, offset: int, count: int) -> NegotiateContexts:
        contexts = cls()
        seen: set[int] = set()
        for index in range(count):
            if index:
                offset = align8(offset)
            kind, length, _ = unpack(_CONTEXT, message, offset, "negotiate context")
            data = take(message, offset + _CONTEXT.size, length, "negotiate context")
            offset += _CONTEXT.size + length
            parse_one = _PARSERS.get(kind)
            if parse_one is None:
                contexts.unknown.append(kind)
                continue
            # §3.3.5.4: two contexts of one of these kinds fail the request.
            if kind in seen:
                raise SmbProtocolError(f"negotiate context 0x{kind:04x} twice")
            seen.add(kind)
            parse_one(contexts, data)
        return contexts

    def pack(self) -> tuple[int, bytes]:
        """Their number, and the list itself; it must start on an 8-byte boundary of the message."""
        pieces: list[tuple[int, bytes]] = []
        if self.hash_algorithms:
            count = len(self.hash_algorithms)
            data = _PREAUTH.pack(count, len(self.salt)) + struct.pack(f"<{count}H", *self.hash_algorithms)
            pieces.append((ContextType.PREAUTH_INTEGRITY_CAPABILITIES, data + self.salt))
        if self.ciphers is not None:
            pieces.append((ContextType.ENCRYPTION_CAPABILITIES, _pack_list(self.ciphers)))
        if self.signing_algorithms is not None:
            pieces.append((ContextType.SIGNING_CAPABILITIES, _pack_list(self.signing_algorithms)))
        if self.transport_flags is not None:
            pieces.append((ContextType.TRANSPORT_CAPABILITIES, _U32.pack(self.transport_flags)))
        if self.netname is not None:
            pieces.append((ContextType.NETNAME_NEGOTIATE_CONTEXT_ID, encode_utf16(self.netname)))
        if self.posix:
            pieces.append((ContextType.POSIX_EXTENSIONS, POSIX_GUID))
        packed = bytearray()
        for kind, data in pieces:
            packed += bytes(-len(packed) % 8)
            packed += _CONTEXT.pack(kind, len(data), 0) + data
        return len(pieces), bytes(packed)


def _pack_list(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{1 + len(values)}H", len(values), *values)


def _parse_list(data: memoryview, what: str) -> tuple[int, ...]:
    (count,) = unpack(_U16, data, 0, what)
    # §3.3.5.4: a count of zero, or one that the data does not hold, is INVALID_PARAMETER.
    if count == 0 or _U16.size + 2 * count > len(data):
        raise SmbProtocolError(f"{what}: bad count")
    return struct.unpack_from(f"<{count}H", data, _U16.size)


def _parse_preauth(contexts: NegotiateContexts, data: memoryview) -> None:
    what = "preauth integrity context"
    count, salt_length = unpack(_PREAUTH, data, 0, what)
    if count == 0 or _PREAUTH.size + 2 * count + salt_length > len(data):
        raise SmbProtocolError(f"{what}: bad count")
    contexts.hash_algorithms = struct.unpack_from(f"<{count}H", data, _PREAUTH.size)
    salt_at = _PREAUTH.size + 2 * count
    contexts.salt = bytes(data[salt_at : salt_at + salt_length])


def _parse_ciphers(contexts: NegotiateContexts, data: memoryview) -> None:
    contexts.ciphers = _parse_list(data, "encryption context")


def _parse_signing(contexts: NegotiateContexts, data: memoryview) -> None:
    contexts.signing_algorithms = _parse_list(data, "signing context")


def _parse_netname(contexts: NegotiateContexts, data: memoryview) -> None:
    contexts.netname = decode_utf16(data, "netname context")


def _parse_transport(contexts: NegotiateContexts, data: memoryview) -> None:
    (contexts.transport_flags,) = unpack(_U32, data, 0, "transport capabilities context")


def _parse_posix(contexts: NegotiateContexts, data: memoryview) -> None:
    # Several versions may be offered, 16 bytes each.
    contexts.posix = any(data[at : at + 16] == POSIX_GUID for at in range(0, len(data), 16))


_PARSERS = {
    ContextType.PREAUTH_INTEGRITY_CAPABILITIES: _parse_preauth,
    ContextType.ENCRYPTION_CAPABILITIES: _parse_ciphers,
    ContextType.SIGNING_CAPABILITIES: _parse_signing,
    ContextType.NETNAME_NEGOTIATE_CONTEXT_ID: _parse_netname,
    ContextType.TRANSPORT_CAPABILITIES: _parse_transport,
    ContextType.POSIX_EXTENSIONS: _parse_posix,
}

"""Packet headers (RFC 9000 §17, invariants in RFC 8999), packet numbers, and the packets without protection.

A header that breaks a rule raises ProtocolViolation; nothing has authenticated it, so callers drop
the packet and never close a connection for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from hmac import compare_digest
from struct import Struct
from typing import NamedTuple, NoReturn

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quicfs.transport import varint
from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode

VERSION_1 = 0x00000001
VERSION_2 = 0x6B3343CF  # RFC 9369 §3.1
MAX_CID_LENGTH = 20
RETRY_TAG_LENGTH = 16
STATELESS_RESET_TOKEN_LENGTH = 16
MIN_STATELESS_RESET_LENGTH = 21  # RFC 9000 §10.3

LONG_FORM = 0x80
FIXED_BIT = 0x40
SPIN_BIT = 0x20
KEY_PHASE_BIT = 0x04
PN_LENGTH_MASK = 0x03


class PacketType(IntEnum):
    """The first four are QUIC v1's values on the wire; the rest never stand in a header."""

    INITIAL = 0
    ZERO_RTT = 1
    HANDSHAKE = 2
    RETRY = 3
    ONE_RTT = 4
    VERSION_NEGOTIATION = 5
    UNSUPPORTED_VERSION = 6
    """A long header of a version that we do not know: only the invariants were read (RFC 8999 §5.1)."""


class VersionCodec(NamedTuple):
    """What a version changes in its long headers."""

    types: tuple[PacketType, PacketType, PacketType, PacketType]
    """Packet type by the two type bits."""
    retry_aead: AESGCM
    retry_nonce: bytes


VERSIONS: dict[int, VersionCodec] = {
    VERSION_1: VersionCodec(
        (PacketType.INITIAL, PacketType.ZERO_RTT, PacketType.HANDSHAKE, PacketType.RETRY),
        AESGCM(bytes.fromhex("be0c690b9f66575a1d766b54e368c84e")),  # RFC 9001 §5.8
        bytes.fromhex("461599d35d632bf2239825bb"),
    ),
    VERSION_2: VersionCodec(
        (PacketType.RETRY, PacketType.INITIAL, PacketType.ZERO_RTT, PacketType.HANDSHAKE),  # RFC 9369 §3.2
        AESGCM(bytes.fromhex("8fb4b01b56ac48e260fbcbcead7ccc92")),  # RFC 9369 §3.3.3
        bytes.fromhex("d86969bc2d7c6d9990efb04a"),
    ),
}
SUPPORTED_VERSIONS = tuple(VERSIONS)

_INVARIANT = Struct(">BIB")  # first byte, version, length of the destination connection ID


class LongHeader(NamedTuple):
    packet_type: PacketType
    version: int
    dcid: bytes
    scid: bytes
    token: bytes
    """Of an Initial or a Retry, else empty."""
    payload_offset: int
    """Of the protected packet number; of the integrity tag in a Retry; the end of the header otherwise."""
    end: int
    """Of this packet, as its Length says; the end of the datagram where there is no Length."""
    supported_versions: tuple[int, ...] = ()
    """Of a Version Negotiation packet."""
    fixed_bit: bool = True
    """Whether the Fixed Bit is set, as it has to be unless it was agreed that it may have any value (RFC 9287)."""


def parse_long_header(buf: memoryview, pos: int, end: int) -> LongHeader:
    """The header that begins at `pos` of a datagram that ends at `end`; the caller saw the long-form bit."""
    if end - pos < 7 or end > len(buf):
        _drop("long header is cut off")
    first, version, cid_length = _INVARIANT.unpack_from(buf, pos)
    start = pos + 6
    pos = start + cid_length
    if pos >= end:
        _drop("destination connection ID is cut off")
    dcid = bytes(buf[start:pos])
    start = pos + 1
    pos = start + buf[pos]
    if pos > end:
        _drop("source connection ID is cut off")
    scid = bytes(buf[start:pos])
    if version == 0:
        return _parse_version_negotiation(dcid, scid, buf, pos, end)
    codec = VERSIONS.get(version)
    if codec is None:
        return LongHeader(PacketType.UNSUPPORTED_VERSION, version, dcid, scid, b"", pos, end)
    # RFC 9000 §17.2: longer connection IDs -> drop
    if len(dcid) > MAX_CID_LENGTH or len(scid) > MAX_CID_LENGTH:
        _drop("connection ID is longer than 20 bytes")
    fixed_bit = bool(first & FIXED_BIT)
    packet_type = codec.types[first >> 4 & 3]
    token = b""
    if packet_type is PacketType.RETRY:
        # RFC 9000 §17.2.5.2: a Retry with an empty token -> drop
        if end - pos <= RETRY_TAG_LENGTH:
            _drop("Retry without a token")
        pos, start = end - RETRY_TAG_LENGTH, pos
        return LongHeader(packet_type, version, dcid, scid, bytes(buf[start:pos]), pos, end, (), fixed_bit)
    if packet_type is PacketType.INITIAL:
        length, start = varint.decode(buf, pos)
        pos = start + length
        if pos > end:
            _drop("token is cut off")
        token = bytes(buf[start:pos])
    length, pos = varint.decode(buf, pos)
    if pos + length > end:
        _drop("Length is beyond the datagram")
    return LongHeader(packet_type, version, dcid, scid, token, pos, pos + length, (), fixed_bit)


def long_header_dcid(buf: memoryview, pos: int, end: int) -> bytes | None:
    """The Destination Connection ID alone, which every version has there (RFC 8999 §5.1); None if it is cut off."""
    start = pos + 6
    if start > end:
        return None
    stop = start + buf[start - 1]
    return bytes(buf[start:stop]) if stop <= end else None


def write_long_header(
    packet_type: PacketType,
    version: int,
    dcid: bytes,
    scid: bytes,
    token: bytes,
    pn: int,
    pn_length: int,
    length: int,
    fixed_bit: int = FIXED_BIT,
) -> bytes:
    """Header of an Initial, 0-RTT or Handshake packet, packet number included, before protection.

    `length` counts packet number, payload and AEAD tag; it is written in 2 bytes always (at most 16,383),
    so that a header has its size before its payload is known. Other packets than Initial ignore `token`.
    """
    if not 0 <= length < 0x4000:
        raise MisuseError(f"a packet of {length} bytes does not fit a 2-byte Length")
    first = LONG_FORM | fixed_bit | _type_bits(version, packet_type) << 4 | (pn_length - 1)
    parts = [_INVARIANT.pack(first, version, len(dcid)), dcid, _byte(len(scid)), scid]
    if packet_type is PacketType.INITIAL:
        parts += (varint.encode(len(token)), token)
    parts.append((length | 0x4000).to_bytes(2, "big"))
    parts.append((pn & (1 << 8 * pn_length) - 1).to_bytes(pn_length, "big"))
    return b"".join(parts)


def long_header_size(packet_type: PacketType, dcid: bytes, scid: bytes, token: bytes, pn_length: int) -> int:
    """Bytes that `write_long_header` returns for the same arguments."""
    size = 9 + len(dcid) + len(scid) + pn_length
    if packet_type is PacketType.INITIAL:
        size += varint.size(len(token)) + len(token)
    return size


# --- Version Negotiation (RFC 9000 §17.2.1) ----------------------------------------------------------


def _parse_version_negotiation(dcid: bytes, scid: bytes, buf: memoryview, pos: int, end: int) -> LongHeader:
    count, rest = divmod(end - pos, 4)
    if rest or not count:
        _drop("Version Negotiation without a whole list of versions")
    versions = Struct(f">{count}I").unpack_from(buf, pos)
    return LongHeader(PacketType.VERSION_NEGOTIATION, 0, dcid, scid, b"", end, end, versions)


def write_version_negotiation(dcid: bytes, scid: bytes, versions: Sequence[int], unused_byte: int) -> bytes:
    """`dcid` and `scid` are those of the packet that is answered, exchanged; `unused_byte` is entropy."""
    return b"".join(
        (
            # RFC 9000 §17.2.1: the bit that is the Fixed Bit elsewhere SHOULD be 1
            _INVARIANT.pack(LONG_FORM | FIXED_BIT | unused_byte & 0x3F, 0, len(dcid)),
            dcid,
            _byte(len(scid)),
            scid,
            *(version.to_bytes(4, "big") for version in versions),
        )
    )


# --- Retry (RFC 9000 §17.2.5, RFC 9001 §5.8) ---------------------------------------------------------


def write_retry(
    version: int, dcid: bytes, scid: bytes, token: bytes, original_dcid: bytes, unused_bits: int
) -> bytes:
    """A whole Retry packet. `dcid` is the client's source ID; `original_dcid` its first destination."""
    first = LONG_FORM | FIXED_BIT | _type_bits(version, PacketType.RETRY) << 4 | unused_bits & 0x0F
    header = b"".join((_INVARIANT.pack(first, version, len(dcid)), dcid, _byte(len(scid)), scid, token))
    return header + _retry_tag(version, header, original_dcid)


def check_retry(packet: bytes | memoryview, original_dcid: bytes) -> bool:
    """Whether the integrity tag of a Retry packet (the whole datagram) is right."""
    if len(packet) < 7 + RETRY_TAG_LENGTH:
        return False
    packet = bytes(packet)
    version = int.from_bytes(packet[1:5], "big")
    if version not in VERSIONS:
        return False
    tag = _retry_tag(version, packet[:-RETRY_TAG_LENGTH], original_dcid)
    return compare_digest(tag, packet[-RETRY_TAG_LENGTH:])


def _retry_tag(version: int, header: bytes, original_dcid: bytes) -> bytes:
    codec = VERSIONS[version]
    return codec.retry_aead.encrypt(
        codec.retry_nonce, b"", _byte(len(original_dcid)) + original_dcid + header
    )


# --- Stateless reset (RFC 9000 §10.3) ----------------------------------------------------------------


def write_stateless_reset(size: int, token: bytes, entropy: bytes) -> bytes:
    """`size` bytes that look like a short-header packet and end in `token`.

    `size` is at least 21, and the caller keeps it below that of the packet that is answered (§10.3.3);
    `entropy` has `size` - 16 bytes or more.
    """
    if (
        size < MIN_STATELESS_RESET_LENGTH
        or len(token) != STATELESS_RESET_TOKEN_LENGTH
        or len(entropy) < size - STATELESS_RESET_TOKEN_LENGTH
    ):
        raise MisuseError("a stateless reset takes 21 bytes or more, a token of 16 and entropy for the rest")
    return _byte(FIXED_BIT | entropy[0] & 0x3F) + entropy[1 : size - STATELESS_RESET_TOKEN_LENGTH] + token


# --- Packet numbers (RFC 9000 §17.1, appendix A) -----------------------------------------------------


def packet_number_length(pn: int, largest_acked: int) -> int:
    """Bytes (1 to 4) that carry `pn`, so that the peer can tell it from twice what is in flight (§A.2).

    `largest_acked` is -1 before the first acknowledgment.
    """
    unacked = pn - largest_acked
    if unacked <= 0x80:
        return 1
    if unacked <= 0x8000:
        return 2
    if unacked <= 0x800000:
        return 3
    return 4


def decode_packet_number(truncated: int, bits: int, largest: int) -> int:
    """The number nearest to `largest` + 1 that ends in these `bits` (§A.3); `largest` is -1 at first."""
    expected = largest + 1
    window = 1 << bits
    half = window >> 1
    candidate = expected & -window | truncated
    if candidate <= expected - half and candidate < (1 << 62) - window:
        return candidate + window
    if candidate > expected + half and candidate >= window:
        return candidate - window
    return candidate


def _type_bits(version: int, packet_type: PacketType) -> int:
    return VERSIONS[version].types.index(packet_type)


def _byte(value: int) -> bytes:
    return value.to_bytes(1, "big")


def _drop(reason: str) -> NoReturn:
    raise ProtocolViolation(TransportErrorCode.PROTOCOL_VIOLATION, reason)

"""What anybody on the way can read of QUIC: long headers (RFC 9000 §17.2, RFC 9369 §3.2), addresses, ECN bits.

Written for the checks of the interop matrix and for nothing else, so that the transport is not judged by itself.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

V1: Final = 0x00000001
V2: Final = 0x6B3343CF

_IPV4, _IPV6, _UDP = 4, 6, 17
_LONG: Final = 0x80


class PacketType(enum.Enum):
    INITIAL = 0
    ZERO_RTT = 1
    HANDSHAKE = 2
    RETRY = 3
    VERSION_NEGOTIATION = 4
    ONE_RTT = 5


class Packet(NamedTuple):
    """One QUIC packet; connection IDs, version and token of long headers only. `size` is that of what is protected."""

    type: PacketType
    size: int
    version: int = 0
    dcid: bytes = b""
    scid: bytes = b""
    token: bytes = b""


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram and where it went, as `address, port`."""

    source: tuple[str, int]
    destination: tuple[str, int]
    ip_version: int
    ecn: int
    payload: bytes

    def packets(self) -> Iterator[Packet]:
        """Those that are coalesced in it, in order; ends where it cannot be read."""
        rest = memoryview(self.payload)
        while rest:
            if not rest[0] & _LONG:
                yield Packet(PacketType.ONE_RTT, len(rest))
                return
            try:
                packet, length = _long(rest)
            except (IndexError, struct.error, ValueError):
                return
            yield packet
            rest = rest[length:]


def parse_ip(packet: bytes) -> Datagram | None:
    """None for anything but a whole UDP datagram."""
    version = packet[0] >> 4 if packet else 0
    if version == _IPV4 and packet[9] == _UDP:
        ecn, start, at, size = packet[1] & 3, 12, (packet[0] & 15) * 4, 4
    elif version == _IPV6 and packet[6] == _UDP:
        ecn, start, at, size = packet[1] >> 4 & 3, 8, 40, 16
    else:
        return None
    source, destination, _, _ = struct.unpack_from(">HHHH", packet, at)
    addresses = packet[start : start + size], packet[start + size : start + 2 * size]
    here, there = (str(ipaddress.ip_address(address)) for address in addresses)
    return Datagram((here, source), (there, destination), version, ecn, packet[at + 8 :])


def _long(data: memoryview) -> tuple[Packet, int]:
    """The packet with a long header at the start, and its length."""
    (version,) = struct.unpack_from(">I", data, 1)
    at = 5
    dcid = bytes(data[at + 1 : at + 1 + data[at]])
    at += 1 + data[at]
    scid = bytes(data[at + 1 : at + 1 + data[at]])
    at += 1 + data[at]
    if version == 0:
        return Packet(PacketType.VERSION_NEGOTIATION, 0, version, dcid, scid), len(data)
    number = data[0] >> 4 & 3
    kind = PacketType((number - 1) % 4 if version == V2 else number)
    if kind is PacketType.RETRY:
        return Packet(kind, 0, version, dcid, scid, bytes(data[at:-16])), len(data)
    token = b""
    if kind is PacketType.INITIAL:
        length, at = _varint(data, at)
        token = bytes(data[at : at + length])
        at += length
    length, at = _varint(data, at)
    if at + length > len(data):
        raise ValueError("longer than its datagram")
    return Packet(kind, length, version, dcid, scid, token), at + length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    length = 1 << (data[at] >> 6)
    value = data[at] & 0x3F
    for byte in data[at + 1 : at + length]:
        value = value << 8 | byte
    if at + length > len(data):
        raise ValueError("ends too early")
    return value, at + length

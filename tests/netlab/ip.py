"""Just enough of IPv4, IPv6, UDP and TCP to look at packets and to change them with right checksums."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

TCP: Final = 6
UDP: Final = 17
CE: Final = 3

_U16: Final = struct.Struct(">H")
_CHECKSUM_AT: Final = {TCP: 16, UDP: 6}  # from the start of the header


class Shape(NamedTuple):
    """Where things are in a packet. `transport` is the offset of its UDP or TCP header, 0 if it has none."""

    version: int
    protocol: int
    transport: int


def shape(packet: bytes | bytearray) -> Shape | None:
    """None for what the link does not carry: multicast, link-local, and anything that is not IP."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        if packet[16] >= 224 or packet[16:18] == b"\xa9\xfe":
            return None
        protocol = packet[9]
        whole = not (packet[6] & 0x3F or packet[7])
        at = (packet[0] & 15) * 4 if whole else 0
        return Shape(4, protocol, _transport(packet, protocol, at))
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        if packet[24] >= 0xFE or packet[8] >= 0xFE:
            return None
        return Shape(6, packet[6], _transport(packet, packet[6], 40))
    return None


def _transport(packet: bytes | bytearray, protocol: int, at: int) -> int:
    length = {UDP: 8, TCP: 20}.get(protocol)
    return at if length is not None and at and len(packet) >= at + length else 0


def payload_at(packet: bytes | bytearray, at: Shape) -> int:
    """Where the payload of UDP or TCP begins."""
    if at.protocol == UDP:
        return at.transport + 8
    return at.transport + (packet[at.transport + 12] >> 4) * 4


class Addresses(NamedTuple):
    source: tuple[bytes, int]
    destination: tuple[bytes, int]


def addresses(packet: bytes | bytearray, at: Shape) -> Addresses:
    """Packed addresses with ports, of a packet with a UDP or TCP header."""
    start, size = (12, 4) if at.version == 4 else (8, 16)
    (source_port,) = _U16.unpack_from(packet, at.transport)
    (destination_port,) = _U16.unpack_from(packet, at.transport + 2)
    return Addresses(
        (bytes(packet[start : start + size]), source_port),
        (bytes(packet[start + size : start + 2 * size]), destination_port),
    )


def rewrite(packet: bytearray, at: Shape, new: tuple[bytes, int], *, source: bool) -> None:
    """Put another source, or another destination, into a packet."""
    start, size = (12, 4) if at.version == 4 else (8, 16)
    start += 0 if source else size
    address, port = new
    port_at = at.transport + (0 if source else 2)
    before = bytes(packet[start : start + size])
    changes = [(before, address), (bytes(packet[port_at : port_at + 2]), _U16.pack(port))]
    packet[start : start + size] = address
    _U16.pack_into(packet, port_at, port)
    if at.version == 4:
        _adjust(packet, 10, [(before, address)])
    _adjust_transport(packet, at, changes)


def ecn(packet: bytes | bytearray) -> int:
    return packet[1] & 3 if packet[0] >> 4 == 4 else packet[1] >> 4 & 3


def set_ecn(packet: bytearray, codepoint: int) -> None:
    if packet[0] >> 4 == 4:
        before = bytes(packet[0:2])
        packet[1] = packet[1] & ~3 | codepoint
        _adjust(packet, 10, [(before, bytes(packet[0:2]))])
    else:
        packet[1] = packet[1] & ~0x30 | codepoint << 4


def corrupt(packet: bytearray, at: Shape, offset: int, mask: int) -> None:
    """Flip bits of the byte at `offset` of the packet, inside the payload.

    The checksum of UDP is put right again, as the public runner's simulator does it: otherwise the receiver's kernel
    would drop the datagram and QUIC see nothing but loss. That of TCP is left alone: nothing above TCP repairs
    damage, so that on a real link this is loss.
    """
    even = offset & ~1
    before = bytes(packet[even : even + 2])
    packet[offset] ^= mask
    if at.protocol == UDP:
        _adjust_transport(
            packet, at, [(before.ljust(2, b"\0"), bytes(packet[even : even + 2]).ljust(2, b"\0"))]
        )


def _adjust_transport(packet: bytearray, at: Shape, changes: list[tuple[bytes, bytes]]) -> None:
    where = at.transport + _CHECKSUM_AT[at.protocol]
    if at.protocol != UDP:
        _adjust(packet, where, changes)
    elif packet[where] or packet[where + 1]:  # RFC 768: zero means that there is none
        _adjust(packet, where, changes)
        if not (packet[where] or packet[where + 1]):
            packet[where : where + 2] = b"\xff\xff"


def _adjust(packet: bytearray, where: int, changes: list[tuple[bytes, bytes]]) -> None:
    """RFC 1624, equation 3: the checksum after words have been replaced by others."""
    total = ~_U16.unpack_from(packet, where)[0] & 0xFFFF
    for before, after in changes:
        for (old,), (new,) in zip(_U16.iter_unpack(before), _U16.iter_unpack(after), strict=True):
            total += (~old & 0xFFFF) + new
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    _U16.pack_into(packet, where, ~total & 0xFFFF)

"""Captures in the pcapng format, one interface for each end of the link. Wireshark reads them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.netlab import ip

SIDES: Final = ("client", "server")

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_MAGIC: Final = 0x1A2B3C4D
_ETHERNET: Final = 1  # older tools do not read several interfaces of bare IP: a made-up header goes before
_MACS: Final = {"client": b"\x02\0\0\0\0\x02", "server": b"\x02\0\0\0\0\x01"}
_TYPES: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}
_HEADER: Final = 14
_COMMENT, _IF_NAME, _IF_TSRESOL, _FLAGS = 1, 2, 9, 2
_INBOUND, _OUTBOUND = 1, 2
_HEAD: Final = struct.Struct("=II")
_EPB: Final = struct.Struct("=IIIII")


class Captured(NamedTuple):
    """A packet as one end of the link saw it. `comment` of a packet that was not delivered tells why."""

    time: float  # seconds since 1970
    side: str  # "client" or "server"
    outbound: bool  # sent by that side
    packet: bytes  # from the IP header on
    comment: str

    @property
    def payload(self) -> bytes:
        """Of UDP or TCP; empty if the packet has neither."""
        at = ip.shape(self.packet)
        return self.packet[ip.payload_at(self.packet, at) :] if at is not None and at.transport else b""

    @property
    def ports(self) -> tuple[int, int]:
        """Source and destination; zeros if the packet has none."""
        at = ip.shape(self.packet)
        if at is None or not at.transport:
            return 0, 0
        source, destination = ip.addresses(self.packet, at)
        return source[1], destination[1]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, data: bytes) -> bytes:
    return struct.pack("=HH", code, len(data)) + _padded(data)


class PcapWriter:
    """Times are nanoseconds since 1970."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._block(_SECTION, struct.pack("=IHHq", _MAGIC, 1, 0, -1))
        for side in SIDES:
            options = _option(_IF_NAME, side.encode()) + _option(_IF_TSRESOL, b"\x09") + bytes(4)
            self._block(_INTERFACE, struct.pack("=HHI", _ETHERNET, 0, 0) + options)

    def write(
        self, time_ns: int, side: str, packet: bytes | bytearray, *, outbound: bool, comment: str = ""
    ) -> None:
        here, there = _MACS[side], _MACS["server" if side == "client" else "client"]
        header = (there + here if outbound else here + there) + _TYPES[packet[0] >> 4]
        size = len(header) + len(packet)
        head = _EPB.pack(SIDES.index(side), time_ns >> 32, time_ns & 0xFFFFFFFF, size, size)
        options = _option(_FLAGS, struct.pack("=I", _OUTBOUND if outbound else _INBOUND))
        if comment:
            options += _option(_COMMENT, comment.encode())
        self._block(_PACKET, head + _padded(header + packet) + options + bytes(4))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _block(self, kind: int, body: bytes) -> None:
        size = len(body) + 12
        self._file.write(_HEAD.pack(kind, size) + body + struct.pack("=I", size))


def read_pcap(path: Path | str) -> list[Captured]:
    """The packets of a capture made by `PcapWriter`, in the order of writing."""
    return list(_packets(Path(path).read_bytes()))


def _packets(data: bytes) -> Iterator[Captured]:
    at = 0
    while at + 12 <= len(data):
        kind, size = _HEAD.unpack_from(data, at)
        body = data[at + 8 : at + size - 4]
        at += size
        if kind != _PACKET or at > len(data):
            continue
        interface, high, low, length, _ = _EPB.unpack_from(body)
        packet = body[20 + _HEADER : 20 + length]
        options = dict(_options(body[20 + length + -length % 4 :]))
        (flags,) = struct.unpack("=I", options[_FLAGS])
        yield Captured(
            (high << 32 | low) / 1e9,
            SIDES[interface],
            flags == _OUTBOUND,
            packet,
            options.get(_COMMENT, b"").decode(),
        )


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        code, length = struct.unpack_from("=HH", data, at)
        if code == 0:
            return
        yield code, data[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4

"""A listener on the simulated wire who knows the secrets, reads every packet that is sent, and holds both ends to what
RFC 9000 says about them. It knows nothing of the ends' own books.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from quicfs.transport.crypto import Keys, initial_secrets
from quicfs.transport.frame import FRAME_CODECS, FrameType, parse_frame
from quicfs.transport.packet import LongHeader, PacketType, parse_long_header
from quicfs.transport.ranges import RangeSet
from quicfs.transport.transport_param import TransportParameters
from quicfs.transport.uapi import CryptoLevel

from .fake_tls import SUITE, traffic_secret

CID_LENGTH: Final = 8
BIDI: Final = 0
UNI: Final = 2
Content = Callable[[int, bool, int, int], bytes]
"""`(stream ID, sent by the server, offset, stop)`: what the stream carries there."""

_LEVELS: Final = {PacketType.HANDSHAKE: CryptoLevel.HANDSHAKE, PacketType.ONE_RTT: CryptoLevel.APP}


class WireError(AssertionError):
    """An end sent what it must not send."""


def check(condition: bool, what: str) -> None:
    if not condition:
        raise WireError(what)


@dataclass(slots=True)
class Packet:
    """A packet as it was sent. Space: that of its packet number."""

    packet_type: PacketType
    number: int
    frames: list[tuple[int, Any]]
    phase: int = 0

    def __str__(self) -> str:
        return f"{self.packet_type.name} {self.number} [{', '.join(map(_describe, self.frames))}]"


def _describe(entry: tuple[int, Any]) -> str:
    frame_type, frame = entry
    name = FRAME_CODECS[frame_type].name
    if name == "STREAM":
        stream_id, offset, data, fin = frame
        return f"STREAM {stream_id} {offset}..{offset + len(data)}{' FIN' if fin else ''}"
    if name == "ACK":
        return "ACK " + " ".join(f"{low}-{high}" for low, high in frame.ranges[:6])
    if name in ("PADDING", "PING", "HANDSHAKE_DONE"):
        return name
    if name == "CRYPTO":
        return f"CRYPTO {frame.offset}..{frame.offset + len(frame.data)}"
    return name + " " + " ".join(value.hex() if isinstance(value, bytes) else str(value) for value in frame)


class _Reader:
    """Opens the packets of one direction of one level, through key updates (RFC 9001 §6)."""

    def __init__(self, secret: bytes, version: int) -> None:
        self._generations = [Keys(SUITE, secret, version)]
        self._current = 0
        self.largest = -1

    def open(
        self, data: memoryview, start: int, stop: int, pn_offset: int
    ) -> tuple[int, int, bytes, int] | None:
        """Number, first byte, payload and key generation; None if the packet does not belong to these keys."""
        out = memoryview(bytearray(stop - start))
        current = self._current
        for generation in (current, current + 1, current - 1):
            if generation < 0:
                continue
            if generation == len(self._generations):
                self._generations.append(self._generations[-1].next_phase())
            opened, _ = self._generations[generation].open_run(
                data, (start,), (stop,), pn_offset, self.largest, out
            )
            if opened:
                number, first, payload = opened[0]
                self._current = max(current, generation)
                self.largest = max(self.largest, number)
                return number, first, bytes(payload), generation
        return None


@dataclass(slots=True)
class _Sent:
    """What one end has done so far, as the wire shows it."""

    readers: dict[tuple[PacketType, int], _Reader] = field(default_factory=dict)
    numbers: dict[PacketType, int] = field(default_factory=lambda: defaultdict(lambda: -1))
    arrived: dict[PacketType, RangeSet] = field(default_factory=lambda: defaultdict(RangeSet))
    highest: dict[int, int] = field(default_factory=dict)  # of each stream
    final: dict[int, int] = field(default_factory=dict)
    total: int = 0
    # what the other end has allowed, as far as it arrived here
    max_data: int = 0
    max_stream_data: dict[int, int] = field(default_factory=dict)
    max_streams: dict[int, int] = field(default_factory=dict)


class Wire:
    """One connection between a client and a server, by direction: index 0 is what the client sends, 1 the server."""

    def __init__(self, client: TransportParameters, server: TransportParameters, content: Content) -> None:
        self._parameters = (client, server)
        self._content = content
        self._ends = (_Sent(), _Sent())
        self._under_way: dict[bytes, list[Packet]] = {}  # by datagram
        self._coalesced: list[tuple[bytes, Packet]] = []  # packets that shared a datagram
        self._initial_dcid = b""
        self._version = 0  # of the packets with short headers
        self.packets = 0
        self.acked = 0
        for side, end in enumerate(self._ends):
            peer = self._parameters[1 - side]
            end.max_data = peer.initial_max_data
            end.max_streams = {BIDI: peer.initial_max_streams_bidi, UNI: peer.initial_max_streams_uni}

    # --- what the network tells

    def sent(self, side: int, data: bytes) -> list[Packet]:
        """An end has sent a datagram. Raises WireError if it must not have; returns what is in it."""
        packets = self._under_way.get(data)
        if packets is None:
            found = list(self._packets(side, data))
            packets = [packet for _, packet in found]
            for packet in packets:
                self._check(side, packet)
            self._under_way[data] = packets
            if len(found) > 1:
                self._coalesced += found
        return packets

    def arrived(self, side: int, data: bytes) -> None:
        """A datagram that end `side` sent has reached the other one, perhaps damaged."""
        packets = self._under_way.get(data)
        if packets is None:  # of several packets some may be whole
            packets = [packet for piece, packet in self._coalesced if piece in data]
        for packet in packets:
            receiver = self._ends[1 - side]
            receiver.arrived[packet.packet_type].add(packet.number, packet.number + 1)
            for frame_type, frame in packet.frames:
                if frame_type == FrameType.MAX_DATA:
                    receiver.max_data = max(receiver.max_data, frame.maximum)
                elif frame_type == FrameType.MAX_STREAM_DATA:
                    known = receiver.max_stream_data.get(frame.stream_id, 0)
                    receiver.max_stream_data[frame.stream_id] = max(known, frame.maximum)
                elif frame_type in (FrameType.MAX_STREAMS_BIDI, FrameType.MAX_STREAMS_UNI):
                    kind = UNI if frame.unidirectional else BIDI
                    receiver.max_streams[kind] = max(receiver.max_streams[kind], frame.maximum)

    # --- reading

    def _packets(self, side: int, data: bytes) -> Iterator[tuple[bytes, Packet]]:
        view = memoryview(data)
        end, pos = len(data), 0
        while pos < end:
            if not data[pos] & 0x80:
                reader = self._reader(side, PacketType.ONE_RTT, self._version)
                opened = reader.open(view, pos, end, 1 + CID_LENGTH)
                if opened is None:
                    return  # a stateless reset
                yield data[pos:], self._packet(PacketType.ONE_RTT, *opened)
                return
            header = parse_long_header(view, pos, end)
            if header.packet_type in (PacketType.INITIAL, PacketType.HANDSHAKE):
                if header.packet_type is PacketType.INITIAL and side == 0:
                    self._note_initial(view, pos, header)
                elif header.packet_type is PacketType.HANDSHAKE:
                    self._version = header.version
                reader = self._reader(side, header.packet_type, header.version)
                opened = reader.open(view, pos, header.end, header.payload_offset - pos)
                if opened is None:
                    return  # refused without state, under the keys of an ID that was never used
                yield data[pos : header.end], self._packet(header.packet_type, *opened)
            pos = header.end

    def _note_initial(self, view: memoryview, pos: int, header: LongHeader) -> None:
        """The first Initial, or the first one after a Retry, says which keys both ends use (RFC 9001 §5.2)."""
        if self._initial_dcid and self._reader(0, PacketType.INITIAL, header.version).open(
            view, pos, header.end, header.payload_offset - pos
        ):
            return
        self._initial_dcid = header.dcid
        for end in self._ends:
            for key in [key for key in end.readers if key[0] is PacketType.INITIAL]:
                del end.readers[key]

    def _reader(self, side: int, packet_type: PacketType, version: int) -> _Reader:
        readers = self._ends[side].readers
        key = packet_type, version
        if key not in readers:
            if packet_type is PacketType.INITIAL:
                secret = initial_secrets(version, self._initial_dcid)[side]
            else:
                secret = traffic_secret(_LEVELS[packet_type], from_server=side == 1)
            readers[key] = _Reader(secret, version)
        return readers[key]

    def _packet(self, packet_type: PacketType, number: int, first: int, payload: bytes, phase: int) -> Packet:
        frames = []
        view, pos, end = memoryview(payload), 0, len(payload)
        while pos < end:
            frame_type, frame, pos = parse_frame(view, pos, end, packet_type)
            frames.append((frame_type, frame))
        return Packet(packet_type, number, frames, phase)

    # --- judging

    def _check(self, side: int, packet: Packet) -> None:
        end = self._ends[side]
        self.packets += 1
        # RFC 9000 §12.3: packet numbers only grow, over Retry too
        check(
            packet.number > end.numbers[packet.packet_type],
            f"packet number {packet.number} after {end.numbers[packet.packet_type]}",
        )
        end.numbers[packet.packet_type] = packet.number
        check(bool(packet.frames), "a packet without frames (RFC 9000 §12.4)")
        for frame_type, frame in packet.frames:
            if 0x08 <= frame_type <= 0x0F:
                self._check_stream(side, *frame)
            elif frame_type in (FrameType.ACK, FrameType.ACK_ECN):
                for low, high in frame.ranges:
                    self._check_ack(side, packet.packet_type, low, high)
            elif frame_type in (FrameType.DATAGRAM, FrameType.DATAGRAM_LEN):
                allowed = self._parameters[1 - side].max_datagram_frame_size
                check(frame.size <= allowed, f"a DATAGRAM of {frame.size} bytes, {allowed} are allowed")
            elif frame_type == FrameType.RESET_STREAM:
                self._check_final(side, frame.stream_id, frame.final_size)
                self._grow(side, frame.stream_id, frame.final_size)

    def _check_ack(self, side: int, packet_type: PacketType, low: int, high: int) -> None:
        """RFC 9000 §13.1: only what arrived is acknowledged."""
        arrived = self._ends[side].arrived[packet_type]
        self.acked += 1
        check(
            any(start <= low and high < stop for start, stop in arrived),
            f"ACK of {packet_type.name} {low}-{high}, of which not all arrived",
        )

    def _check_stream(self, side: int, stream_id: int, offset: int, data: memoryview, fin: bool) -> None:
        stop = offset + len(data)
        check(
            bytes(data) == self._content(stream_id, side == 1, offset, stop),
            f"stream {stream_id} carries something else at {offset}..{stop}",
        )
        if fin:
            self._check_final(side, stream_id, stop)
        self._grow(side, stream_id, stop)

    def _check_final(self, side: int, stream_id: int, size: int) -> None:
        end = self._ends[side]
        # RFC 9000 §4.5: the final size never changes, and nothing lies beyond it
        check(
            end.final.setdefault(stream_id, size) == size,
            f"final size of stream {stream_id} was {end.final[stream_id]} and is {size}",
        )
        check(size >= end.highest.get(stream_id, 0), f"final size of stream {stream_id} below what was sent")

    def _grow(self, side: int, stream_id: int, stop: int) -> None:
        end = self._ends[side]
        check(stop <= end.final.get(stream_id, stop), f"stream {stream_id} goes on after its end")
        if stream_id not in end.highest and stream_id & 1 == side:
            # RFC 9000 §4.6
            kind = stream_id & 2
            check(
                stream_id >> 2 < end.max_streams[kind],
                f"stream {stream_id} is beyond {end.max_streams[kind]} streams",
            )
        known = end.highest.setdefault(stream_id, 0)
        if stop > known:
            # RFC 9000 §4.1
            limit = max(self._first_limit(side, stream_id), end.max_stream_data.get(stream_id, 0))
            check(stop <= limit, f"stream {stream_id} at {stop}, its limit is {limit}")
            end.highest[stream_id] = stop
            end.total += stop - known
            check(end.total <= end.max_data, f"{end.total} bytes of streams, the limit is {end.max_data}")

    def _first_limit(self, side: int, stream_id: int) -> int:
        """The initial limit that the receiver gave in its transport parameters (RFC 9000 §18.2)."""
        receiver = self._parameters[1 - side]
        if stream_id & UNI:
            return receiver.initial_max_stream_data_uni
        if stream_id & 1 == side:
            return receiver.initial_max_stream_data_bidi_remote
        return receiver.initial_max_stream_data_bidi_local

"""Unreliable datagrams (RFC 9221): the queue of those to be sent, and of those that came.

A datagram is sent once, under congestion control; whether it arrived nobody is told. It is dropped when it waited for
longer than DATAGRAM_MAX_AGE, or when the path became too narrow for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.transport import limits
from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.fifo import Fifo
from quicfs.transport.frame_datagram import DatagramFrame, write_datagram_header
from quicfs.transport.frame_type import FrameType

if TYPE_CHECKING:
    from quicfs.transport.builder import PacketBuilder

_RECORD: Final = (FrameType.DATAGRAM, None)


class Datagrams:
    """`accepts` is our max_datagram_frame_size: 0 if we take none."""

    __slots__ = (
        "_received_bytes",
        "accepts",
        "came",
        "discarded",
        "dropped",
        "limit",
        "outgoing",
        "received",
        "sent",
    )

    def __init__(self, accepts: int) -> None:
        self.accepts = accepts
        self.limit = 0  # the peer's max_datagram_frame_size: 0 if it takes none
        self.outgoing: Fifo[tuple[float, bytes]] = Fifo()  # since when they wait
        self.received: Fifo[bytes] = Fifo()
        self.sent = 0
        self.came = 0  # from the peer, those discarded included
        self.dropped = 0  # of ours, that were never sent
        self.discarded = 0  # of the peer's, that nobody fetched in time
        self._received_bytes = 0

    # --- sending

    def largest(self, packet_room: int) -> int:
        """Payload of the largest datagram that the peer takes and that fits a packet; 0 or less if none does."""
        frame = min(self.limit, packet_room)
        # the length takes one byte up to 63, two up to 16,383, then four
        if frame - 2 < 0x40:
            return frame - 2
        return max(0x3F, frame - 3) if frame - 3 < 0x4000 else max(0x3FFF, frame - 5)

    @property
    def full(self) -> bool:
        return len(self.outgoing) >= limits.MAX_DATAGRAMS_OUT

    def send(self, data: bytes, now: float) -> None:
        """Queue a datagram of at most `largest` bytes. MisuseError if there are too many already."""
        if self.full:
            raise MisuseError("too many datagrams wait to be sent")
        self.outgoing.append((now, data))

    def fill(self, builder: PacketBuilder, packet_room: int, now: float) -> None:
        """Put as many into the packet as fit; `packet_room` is what an empty packet would hold."""
        outgoing = self.outgoing
        largest = self.largest(packet_room)
        while outgoing:
            since, data = outgoing[0]
            if now - since > limits.DATAGRAM_MAX_AGE or len(data) > largest:
                outgoing.popleft()
                self.dropped += 1
                continue
            header = write_datagram_header(len(data))
            if len(header) + len(data) > builder.room:
                return
            outgoing.popleft()
            self.sent += 1
            builder.add_with_data(header, memoryview(data), _RECORD)

    # --- receiving

    def handle(self, frame: DatagramFrame) -> None:
        # RFC 9221 §3: none was allowed, or it is larger than allowed -> PROTOCOL_VIOLATION
        if frame.size > self.accepts:
            raise ProtocolViolation(
                TransportErrorCode.PROTOCOL_VIOLATION,
                f"DATAGRAM frame of {frame.size} bytes, at most {self.accepts} are taken",
                FrameType.DATAGRAM,
            )
        self.came += 1
        size = len(frame.data)
        if (
            len(self.received) >= limits.MAX_DATAGRAMS_IN
            or self._received_bytes + size > limits.MAX_DATAGRAM_BYTES_IN
        ):
            self.discarded += 1  # §5: as UDP does when nobody reads
            return
        self._received_bytes += size
        self.received.append(bytes(frame.data))

    def take(self) -> bytes:
        """The oldest that came; IndexError if there is none."""
        data = self.received.popleft()
        self._received_bytes -= len(data)
        return data

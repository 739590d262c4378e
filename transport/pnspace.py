"""A packet number space (RFC 9000 §12.3): its keys, its CRYPTO stream, what came and what is under way."""

from __future__ import annotations

from quicfs.transport import limits
from quicfs.transport.acks import ReceivedPackets
from quicfs.transport.crypto import Keys
from quicfs.transport.errors import ProtocolViolation, TransportErrorCode
from quicfs.transport.inqueue import InQueue
from quicfs.transport.outqueue import OutQueue
from quicfs.transport.packet import PacketType
from quicfs.transport.sent import SentPackets
from quicfs.transport.uapi import CryptoLevel


class PacketNumberSpace:
    """Initial, Handshake or application data.

    `packet_type` is what its packets are; `level` what the socket interface calls its encryption level.
    """

    __slots__ = (
        "crypto_in",
        "crypto_out",
        "discarded",
        "keys_in",
        "keys_out",
        "level",
        "packet_type",
        "probes",
        "received",
        "sent",
    )

    def __init__(self, packet_type: PacketType, level: CryptoLevel, max_ack_delay: float) -> None:
        self.packet_type = packet_type
        self.level = level
        self.keys_in: Keys | None = None
        self.keys_out: Keys | None = None
        self.crypto_in = InQueue(short=True)
        self.crypto_out = OutQueue()
        self.received = ReceivedPackets(max_ack_delay)
        self.sent = SentPackets()
        self.probes = 0  # ack-eliciting packets to be sent whatever the window says (RFC 9002 §6.2.4)
        self.discarded = False

    def handle_crypto(self, offset: int, data: bytes) -> bytes:
        """Take a CRYPTO frame; returns what is in order and new."""
        # RFC 9000 §7.5: more than we buffer -> CRYPTO_BUFFER_EXCEEDED
        if offset + len(data) - self.crypto_in.read > limits.MAX_CRYPTO_BUFFER:
            raise ProtocolViolation(
                TransportErrorCode.CRYPTO_BUFFER_EXCEEDED, "CRYPTO data too far ahead", 0x06
            )
        if not self.crypto_in.insert(offset, data):
            return b""
        pieces = []
        while piece := self.crypto_in.take(limits.MAX_CRYPTO_BUFFER):
            pieces.append(piece)
        return b"".join(pieces)

    def discard(self) -> None:
        """The keys are not needed any more (RFC 9001 §4.9)."""
        self.discarded = True
        self.keys_in = self.keys_out = None
        self.crypto_in.discard()
        self.crypto_out.discard()
        self.received.ack_at = None
        self.probes = 0

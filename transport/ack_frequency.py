"""Asking the peer for fewer acknowledgements (draft-ietf-quic-ack-frequency-13).

RFC 9000 §13.2.2 has a receiver acknowledge every second packet, which at a large window costs both ends more than it
tells. Once slow start is over, a peer that can do so is asked for ACKS_PER_WINDOW of them in a round trip, and never
to wait longer than a fraction of one, so that windows and tails are acknowledged in time. It is asked again
when the window has changed by half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.transport import limits
from quicfs.transport.errors import ProtocolViolation, TransportErrorCode
from quicfs.transport.frame_ack import AckFrequencyFrame, write_ack_frequency
from quicfs.transport.frame_type import FrameType

if TYPE_CHECKING:
    from quicfs.transport.acks import ReceivedPackets
    from quicfs.transport.recovery import Recovery
    from quicfs.transport.transport_param import TransportParameters

ACKS_PER_WINDOW: Final = 16
MAX_THRESHOLD: Final = 64  # a train
REORDERING_THRESHOLD: Final = 3  # RFC 9002 §6.1.1: earlier, a gap would tell us nothing
_DELAY_SHARE: Final = 4  # of a round trip
_MAX_DELAY_US: Final = (1 << 14) * 1000  # RFC 9000 §18.2: of max_ack_delay


class AckFrequency:
    """What we wish of the peer, and what the peer wished of us."""

    __slots__ = ("_heard", "_sequence", "delay_us", "supported", "threshold")

    def __init__(self) -> None:
        self.supported = False  # by the peer
        self.threshold = 1  # RFC 9000 §13.2.2
        self.delay_us = 0
        self._sequence = -1
        self._heard = -1

    @property
    def asked(self) -> bool:
        return self._sequence >= 0

    # --- our wishes

    def consider(self, recovery: Recovery, packet_size: int, peer: TransportParameters) -> bool:
        """After an ACK: whether ACK_FREQUENCY should be sent."""
        if recovery.cong.in_slow_start and not self.asked:
            return False
        packets = recovery.cong.cwnd // packet_size
        threshold = max(1, min(packets // ACKS_PER_WINDOW, MAX_THRESHOLD))
        if self.threshold // 2 < threshold < self.threshold * 2:
            return False
        least = peer.min_ack_delay_us or 0
        share = int(recovery.rtt.smoothed * 1e6 / _DELAY_SHARE)
        self.delay_us = max(least, min(share, peer.max_ack_delay_ms * 1000))
        self.threshold = threshold
        return True

    def write(self) -> bytes:
        """Each frame has a number of its own, so that the newest wishes count (§4)."""
        self._sequence += 1
        return write_ack_frequency(self._sequence, self.threshold, self.delay_us, REORDERING_THRESHOLD)

    # --- the peer's wishes

    def handle(self, frame: AckFrequencyFrame, ours: TransportParameters, received: ReceivedPackets) -> None:
        least = ours.min_ack_delay_us
        # §3, §4: not announced, or a delay that we said we cannot keep -> PROTOCOL_VIOLATION
        if least is None or not least <= frame.max_ack_delay_us < _MAX_DELAY_US:
            raise ProtocolViolation(
                TransportErrorCode.PROTOCOL_VIOLATION,
                f"an ACK delay of {frame.max_ack_delay_us} microseconds was asked for",
                FrameType.ACK_FREQUENCY,
            )
        if frame.sequence_number <= self._heard:
            return  # §4: overtaken by a newer one
        self._heard = frame.sequence_number
        received.obey(frame.ack_eliciting_threshold, frame.max_ack_delay_us / 1e6, frame.reordering_threshold)


def own_min_ack_delay_us(max_ack_delay_ms: int) -> int:
    """§3: what we announce: the granularity of our timers, and never more than our max_ack_delay."""
    return min(int(limits.TIMER_GRANULARITY * 1e6), max_ack_delay_ms * 1000)

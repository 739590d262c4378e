"""What arrived in a packet number space, and when to say so (RFC 9000 §13.2)."""

from __future__ import annotations

from quicfs.transport import limits
from quicfs.transport.ranges import RangeSet


class ReceivedPackets:
    """Packet numbers received, ECN counts, and the one ACK decision per train."""

    __slots__ = (
        "_eliciting",
        "_immediate",
        "_largest_acked",
        "_max_ack_delay",
        "_reordering_threshold",
        "_threshold",
        "ack_at",
        "acks_sent",
        "ce",
        "ect0",
        "ect1",
        "largest",
        "largest_at",
        "packets",
        "ranges",
    )

    def __init__(self, max_ack_delay: float) -> None:
        self.ranges = RangeSet()
        self.largest = -1
        self.largest_at = 0.0
        self.ack_at: float | None = None  # when an ACK has to leave at the latest
        self.acks_sent = 0
        self.ect0 = self.ect1 = self.ce = 0
        self.packets = 0  # processed
        self._eliciting = 0  # ack-eliciting packets since the last ACK left
        self._immediate = False
        self._max_ack_delay = max_ack_delay
        self._threshold = 1  # ack-eliciting packets that may come before an ACK leaves (RFC 9000 §13.2.2)
        self._reordering_threshold = 1
        self._largest_acked = -1  # that an ACK told

    def obey(self, threshold: int, max_ack_delay: float, reordering_threshold: int) -> None:
        """The peer asked for more or fewer ACKs (draft-ietf-quic-ack-frequency §4)."""
        self._threshold = threshold
        self._max_ack_delay = max_ack_delay
        self._reordering_threshold = reordering_threshold

    def set_max_ack_delay(self, max_ack_delay: float) -> None:
        """In seconds, as our transport parameters say."""
        self._max_ack_delay = max_ack_delay

    def ask_now(self) -> None:
        """IMMEDIATE_ACK came (draft-ietf-quic-ack-frequency §5)."""
        self._immediate = True

    def is_new(self, pn: int) -> bool:
        """False for a packet that was seen, or that is too old to know (RFC 9000 §12.3)."""
        if pn > self.largest:
            return True
        if pn in self.ranges:
            return False
        return not (len(self.ranges) >= limits.MAX_ACK_RANGES and pn < self.ranges.first[0])

    def add(self, now: float, start: int, stop: int) -> None:
        """The packets `[start, stop)`, new ones, were processed."""
        if start != self.largest + 1 and self._reordering_threshold == 1:
            self._immediate = True  # RFC 9000 §13.2.1: out of order, or with a gap before it
        self.ranges.add(start, stop)
        if len(self.ranges) > limits.MAX_ACK_RANGES:
            self.ranges.drop_first()
        if stop - 1 > self.largest:
            self.largest = stop - 1
            self.largest_at = now

    def decide(self, now: float, eliciting: int, *, immediate: bool = False) -> None:
        """A train with `eliciting` ack-eliciting packets was processed.

        RFC 9000 §13.2.2 asks for an ACK after two of them; one per train is the burst's form of that.
        """
        if not eliciting:
            return
        self._eliciting += eliciting
        if (
            self._eliciting > self._threshold
            or immediate
            or self._immediate
            or self._max_ack_delay == 0
            or (self._reordering_threshold > 1 and self._gap_is_due())
        ):
            self.ack_at = now
        elif self.ack_at is None:
            self.ack_at = now + self._max_ack_delay

    def _gap_is_due(self) -> bool:
        """Whether the peer could declare a packet lost if it knew what is missing
        (draft-ietf-quic-ack-frequency §6.2)."""
        reported = self._largest_acked - self._reordering_threshold + 1
        previous = 0  # packet numbers below the first range are done with
        for start, stop in self.ranges:
            missing = max(previous, reported + 1)
            if previous and missing < start:
                return self.largest - missing >= self._reordering_threshold
            previous = stop
        return False

    @property
    def eliciting_unacked(self) -> bool:
        return self._eliciting > 0

    def count_ecn(self, codepoint: int, packets: int) -> None:
        """`codepoint` is the two bits of the IP header: 1 is ECT(1), 2 is ECT(0), 3 is CE (RFC 3168)."""
        self.packets += packets
        if codepoint == 2:
            self.ect0 += packets
        elif codepoint == 3:
            self.ce += packets
            self._immediate = True  # RFC 9000 §13.2.1
        elif codepoint == 1:
            self.ect1 += packets

    @property
    def ecn_counts(self) -> tuple[int, int, int] | None:
        return (self.ect0, self.ect1, self.ce) if self.ect0 or self.ect1 or self.ce else None

    def descending(self) -> list[tuple[int, int]]:
        """Closed ranges `(smallest, largest)`, newest first, as an ACK frame has them."""
        return [(start, stop - 1) for start, stop in reversed(self.ranges)]

    def delay(self, now: float) -> float:
        return max(0.0, now - self.largest_at)

    def on_ack_sent(self) -> None:
        self.ack_at = None
        self.acks_sent += 1
        self._largest_acked = self.largest
        self._eliciting = 0
        self._immediate = False

    def hold(self) -> None:
        """Say nothing for now; what comes next decides again."""
        self.ack_at = None

    def forget_below(self, pn: int) -> None:
        """The peer knows that everything below `pn` arrived (RFC 9000 §13.2.4)."""
        if len(self.ranges) > 1:
            self.ranges.remove_below(min(pn, self.ranges.last[0]))

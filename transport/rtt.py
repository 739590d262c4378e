"""Round-trip time of a path (RFC 9002 §5) and the times that follow from it."""

from __future__ import annotations

from quicfs.transport.limits import TIMER_GRANULARITY

INITIAL_RTT = 0.333  # RFC 9002 §6.2.2
PERSISTENT_CONGESTION_THRESHOLD = 3  # RFC 9002 §7.6.1
TIME_THRESHOLD = 9 / 8  # RFC 9002 §6.1.2


class RttEstimator:
    """All times in seconds. Before the first sample `smoothed` and `variance` are the initial guess."""

    __slots__ = ("first_sample_at", "latest", "minimum", "smoothed", "variance")

    def __init__(self, initial_rtt: float = INITIAL_RTT) -> None:
        self.latest = 0.0
        self.minimum = 0.0
        self.smoothed = initial_rtt
        self.variance = initial_rtt / 2
        self.first_sample_at: float | None = None
        """Packets sent before it do not count for persistent congestion (RFC 9002 §7.6.2)."""

    def update(self, latest_rtt: float, ack_delay: float, now: float) -> None:
        """Take a sample: an ACK at `now` newly acknowledged its largest packet, which was ack-eliciting.

        `ack_delay` is what the peer reports in it, already 0 for Initial and Handshake packets and limited to
        the peer's max_ack_delay once the handshake is confirmed (RFC 9002 §5.3).
        """
        self.latest = latest_rtt
        if self.first_sample_at is None:
            self.first_sample_at = now
            self.minimum = self.smoothed = latest_rtt
            self.variance = latest_rtt / 2
            return
        self.minimum = min(self.minimum, latest_rtt)
        # RFC 9002 §5.3: the delay is not taken off where the result would fall below the minimum
        adjusted = latest_rtt - ack_delay if latest_rtt >= self.minimum + ack_delay else latest_rtt
        self.variance += (abs(self.smoothed - adjusted) - self.variance) / 4
        self.smoothed += (adjusted - self.smoothed) / 8

    def reset_minimum(self) -> None:
        """After persistent congestion the newest sample is the minimum (RFC 9002 §5.2)."""
        self.minimum = self.latest

    def pto_base(self, max_ack_delay: float) -> float:
        """Probe timeout before backoff; `max_ack_delay` is 0 for Initial and Handshake (RFC 9002 §6.2.1)."""
        return self.smoothed + max(4 * self.variance, TIMER_GRANULARITY) + max_ack_delay

    def loss_delay(self) -> float:
        """How long a packet may be overtaken before it is lost (RFC 9002 §6.1.2)."""
        return max(TIME_THRESHOLD * max(self.smoothed, self.latest), TIMER_GRANULARITY)

    def persistent_congestion_duration(self, max_ack_delay: float) -> float:
        """Span of losses that is persistent congestion; `max_ack_delay` always counts (RFC 9002 §7.6.1)."""
        return self.pto_base(max_ack_delay) * PERSISTENT_CONGESTION_THRESHOLD

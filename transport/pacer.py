"""Pacing (RFC 9002 §7.7): a leaky bucket that lets trains go, not packets.

The bucket fills at `gain * cwnd / smoothed_rtt` and holds a burst of

    max(initial window, rate * 2 ms).

The first term is what RFC 9002 §7.7 allows at once. The second is there because a user-space timer is
late by about a millisecond: whatever accrued until a late wake-up is still there, so lateness costs no
throughput. It follows that on a path of less than 2 ms round trip the bucket holds more than the
congestion window, and pacing is out of the way altogether.

Nothing is released until a millisecond's worth is there, at least one datagram and at most one full train:
one wake-up per train on a fast path, and never a wait that is long beside the timer's own lateness.
"""

from __future__ import annotations

from quicfs.transport.cong import initial_window
from quicfs.transport.limits import GSO_BYTES, MIN_INITIAL_DATAGRAM

GAIN = 1.25  # RFC 9002 §7.7
SLOW_START_GAIN = 2.0  # the window doubles in each round trip
BURST_TIME = 0.002
QUANTUM_TIME = 0.001


class Pacer:
    """Times in seconds, sizes in bytes; the caller's clock and window come in with every call."""

    __slots__ = ("_budget", "_burst", "_max_datagram_size", "_updated")

    def __init__(self, max_datagram_size: int = MIN_INITIAL_DATAGRAM) -> None:
        self._max_datagram_size = max_datagram_size
        self._burst = initial_window(max_datagram_size)
        self._budget = float(self._burst)
        self._updated = 0.0

    def set_max_datagram_size(self, size: int) -> None:
        self._max_datagram_size = size
        self._burst = initial_window(size)

    def budget(self, now: float, cwnd: int, smoothed_rtt: float, slow_start: bool) -> int:
        """Bytes that may leave now; 0 while less than a train has accrued."""
        rate = self.rate(cwnd, smoothed_rtt, slow_start)
        quantum = self._refill(now, rate)
        # A byte's tolerance: rounding must not make a wake-up at `next_send_time` come in vain.
        return int(self._budget) if self._budget >= quantum - 1 else 0

    def next_send_time(self, now: float, cwnd: int, smoothed_rtt: float, slow_start: bool) -> float:
        """When `budget` will not be 0; `now` or earlier if it is not 0 now."""
        rate = self.rate(cwnd, smoothed_rtt, slow_start)
        missing = self._refill(now, rate) - self._budget
        return now + missing / rate if missing > 0 else now

    def on_sent(self, now: float, sent_bytes: int) -> None:
        """Bytes in flight left at `now`. More than the budget (probes, the rest of a packet) becomes debt."""
        self._budget -= sent_bytes

    @staticmethod
    def rate(cwnd: int, smoothed_rtt: float, slow_start: bool) -> float:
        """Bytes a second at which the bucket fills."""
        return (SLOW_START_GAIN if slow_start else GAIN) * cwnd / max(smoothed_rtt, 1e-6)

    def _refill(self, now: float, rate: float) -> float:
        """Let time pass; returns what must be there before anything leaves."""
        capacity = max(self._burst, rate * BURST_TIME)
        elapsed = now - self._updated
        if elapsed > 0:
            self._updated = now
            self._budget = min(capacity, self._budget + elapsed * rate)
        return max(self._max_datagram_size, min(GSO_BYTES, rate * QUANTUM_TIME))

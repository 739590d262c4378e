"""Congestion control: what every algorithm has in common (RFC 9002 §7).

The sender reports once per ACK frame, however many packets it covers; so growth is computed from bytes
in one step and means the same as if each packet had come alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from quicfs.transport.rtt import RttEstimator
from quicfs.transport.uapi import CongestionAlgo

UNLIMITED = 1 << 62
"""`ssthresh` before the first congestion event."""


def initial_window(max_datagram_size: int) -> int:
    """RFC 9002 §7.2."""
    return min(10 * max_datagram_size, max(14_720, 2 * max_datagram_size))


class CongestionControl(ABC):
    """A congestion window in bytes. Times in seconds on the clock of `now`; sizes in bytes."""

    def __init__(self, max_datagram_size: int) -> None:
        self.max_datagram_size = max_datagram_size
        self.cwnd = initial_window(max_datagram_size)
        self.ssthresh = UNLIMITED
        self.in_recovery = False
        self.events = 0
        """Congestion events so far: each reduced the window once."""
        self._recovery_start = float("-inf")

    @property
    def minimum_window(self) -> int:
        """RFC 9002 §7.2."""
        return 2 * self.max_datagram_size

    @property
    def in_slow_start(self) -> bool:
        return self.cwnd < self.ssthresh

    def on_sent(self, now: float, sent_bytes: int) -> None:  # noqa: B027 - not every algorithm cares
        """`sent_bytes` in flight left at `now`."""

    def on_ack(
        self, now: float, acked_bytes: int, largest_sent_time: float, rtt: RttEstimator, app_limited: bool
    ) -> None:
        """One ACK frame newly acknowledged `acked_bytes` that were in flight, the newest of them sent at
        `largest_sent_time`. `app_limited`: the window was not what held the sender back (§7.8)."""
        if largest_sent_time <= self._recovery_start:
            return  # §7.3.2: no growth until a packet sent during recovery is acknowledged
        self.in_recovery = False
        self._grow(now, acked_bytes, largest_sent_time, rtt, app_limited)

    def on_congestion_event(self, now: float, sent_time_of_largest_lost: float) -> None:
        """Packets were lost. Those sent before the last reduction do not reduce again (§7.3.2)."""
        if sent_time_of_largest_lost <= self._recovery_start:
            return
        self._recovery_start = now
        self.in_recovery = True
        self.events += 1
        self._reduce(now)

    def on_ecn_ce(self, now: float, sent_time: float) -> None:
        """The peer counted more CE marks; `sent_time` is of the newest packet that its ACK covers (§7.1)."""
        self.on_congestion_event(now, sent_time)

    def on_persistent_congestion(self, now: float) -> None:
        """Everything sent over a long time was lost: start again from the minimum (§7.6.2)."""
        self.cwnd = self.minimum_window
        self.in_recovery = False
        self._recovery_start = float("-inf")

    def set_max_datagram_size(self, size: int) -> None:
        """The path's datagram size changed (RFC 9002 §7.2)."""
        self.max_datagram_size = size
        untouched = self.ssthresh == UNLIMITED
        self.cwnd = max(self.cwnd, initial_window(size) if untouched else self.minimum_window)

    @abstractmethod
    def _grow(
        self, now: float, acked_bytes: int, largest_sent_time: float, rtt: RttEstimator, app_limited: bool
    ) -> None:
        """Open the window for bytes that were acknowledged outside recovery."""

    @abstractmethod
    def _reduce(self, now: float) -> None:
        """Set `ssthresh` and `cwnd` for one congestion event."""


def make_congestion_control(algorithm: int, max_datagram_size: int) -> CongestionControl:
    """`algorithm` is Config.congestion_control_algo. ValueError for one that is not known."""
    from quicfs.transport.cong_cubic import Cubic
    from quicfs.transport.cong_newreno import NewReno

    algorithms: dict[CongestionAlgo, type[CongestionControl]] = {
        CongestionAlgo.RENO: NewReno,
        CongestionAlgo.CUBIC: Cubic,
    }
    return algorithms[CongestionAlgo(algorithm)](max_datagram_size)

"""CUBIC (RFC 9438) with HyStart++ (RFC 9406) in the first slow start.

Windows are kept in bytes; the RFC counts segments, so its formulas are multiplied by the datagram size.
"""

from __future__ import annotations

from quicfs.transport.cong import UNLIMITED, CongestionControl
from quicfs.transport.cong_hystart import CSS_GROWTH_DIVISOR, HyStart, Phase
from quicfs.transport.rtt import RttEstimator

C = 0.4  # RFC 9438 §4.1, segments per second cubed
BETA = 0.7  # RFC 9438 §4.6
ALPHA = 3 * (1 - BETA) / (1 + BETA)  # RFC 9438 §4.3


class Cubic(CongestionControl):
    def __init__(self, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size)
        self._hystart = HyStart()
        self._w_max = 0.0
        self._cwnd_prior = 0.0  # the window before the last reduction
        self._w_est = 0.0  # what Reno would have by now (§4.3)
        self._k = 0.0
        self._epoch_start: float | None = None
        self._last_ack = 0.0
        self._fraction = 0.0  # of a byte, that the integer window does not show

    def _grow(
        self, now: float, acked_bytes: int, largest_sent_time: float, rtt: RttEstimator, app_limited: bool
    ) -> None:
        if app_limited:
            if self._epoch_start is not None:
                # §5.8: time in which the window was not used is not time that it grows by
                self._epoch_start = min(now, self._epoch_start + now - self._last_ack)
            self._last_ack = now
            return
        self._last_ack = now
        if self.cwnd < self.ssthresh:
            acked_bytes = self._slow_start(now, acked_bytes, largest_sent_time, rtt)
        if acked_bytes:
            self._avoid_congestion(now, acked_bytes, rtt)

    def _slow_start(self, now: float, acked_bytes: int, largest_sent_time: float, rtt: RttEstimator) -> int:
        """Returns the bytes that count for congestion avoidance."""
        divisor = 1
        if self.ssthresh == UNLIMITED:
            phase = self._hystart.on_ack(now, largest_sent_time, rtt.latest)
            if phase is Phase.DONE:
                self.ssthresh = self.cwnd
                return acked_bytes
            if phase is Phase.CONSERVATIVE:
                divisor = CSS_GROWTH_DIVISOR
        step = min(acked_bytes // divisor, self.ssthresh - self.cwnd)
        self.cwnd += step
        return acked_bytes - step * divisor if self.cwnd >= self.ssthresh else 0

    def _avoid_congestion(self, now: float, acked_bytes: int, rtt: RttEstimator) -> None:
        cwnd = self.cwnd + self._fraction
        if self._epoch_start is None:
            self._begin_epoch(now, cwnd)
        assert self._epoch_start is not None
        share = min(1.0, acked_bytes / cwnd)  # of a window, hence of a round trip
        t = now - self._epoch_start
        alpha = ALPHA if self._w_est < self._cwnd_prior else 1.0
        self._w_est += alpha * self.max_datagram_size * share
        if self._w_cubic(t) < self._w_est:
            cwnd = max(cwnd, self._w_est)  # §4.3: the Reno-friendly region
        else:
            target = min(max(self._w_cubic(t + rtt.smoothed), cwnd), 1.5 * cwnd)  # §4.2
            cwnd += (target - cwnd) * share
        self.cwnd = int(cwnd)
        self._fraction = cwnd - self.cwnd

    def _begin_epoch(self, now: float, cwnd: float) -> None:
        self._epoch_start = now
        self._w_est = cwnd
        self._w_max = max(self._w_max, cwnd)  # §4.8: after slow start without loss the curve begins here
        segments = (self._w_max - cwnd) / self.max_datagram_size
        self._k = (segments / C) ** (1 / 3)  # §4.2

    def _w_cubic(self, t: float) -> float:
        distance = t - self._k
        return C * distance * distance * distance * self.max_datagram_size + self._w_max

    def _reduce(self, now: float) -> None:
        cwnd = float(self.cwnd)
        self._cwnd_prior = cwnd
        # §4.7: fast convergence, a flow that lost before reaching its last maximum makes room for others
        self._w_max = cwnd * (1 + BETA) / 2 if cwnd < self._w_max else cwnd
        self.ssthresh = max(int(cwnd * BETA), self.minimum_window)
        self.cwnd = self.ssthresh
        self._fraction = 0.0
        self._epoch_start = None

    def on_persistent_congestion(self, now: float) -> None:
        self._reduce(now)  # §4.8: as after a timeout
        super().on_persistent_congestion(now)

    def set_max_datagram_size(self, size: int) -> None:
        super().set_max_datagram_size(size)
        self._epoch_start = None

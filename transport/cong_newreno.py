"""NewReno as RFC 9002 §7.3 and appendix B have it."""

from __future__ import annotations

from quicfs.transport.cong import CongestionControl
from quicfs.transport.rtt import RttEstimator

LOSS_REDUCTION_FACTOR = 0.5  # RFC 9002 §B.1


class NewReno(CongestionControl):
    def __init__(self, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size)
        self._acked = 0  # bytes since the window last grew by a datagram

    def _grow(
        self, now: float, acked_bytes: int, largest_sent_time: float, rtt: RttEstimator, app_limited: bool
    ) -> None:
        if app_limited:
            return
        if self.cwnd < self.ssthresh:
            step = min(acked_bytes, self.ssthresh - self.cwnd)
            self.cwnd += step
            acked_bytes -= step
        self._acked += acked_bytes
        while self._acked >= self.cwnd:  # §7.3.3: one datagram for each window acknowledged
            self._acked -= self.cwnd
            self.cwnd += self.max_datagram_size

    def _reduce(self, now: float) -> None:
        self.ssthresh = max(int(self.cwnd * LOSS_REDUCTION_FACTOR), self.minimum_window)
        self.cwnd = self.ssthresh
        self._acked = 0

    def on_persistent_congestion(self, now: float) -> None:
        super().on_persistent_congestion(now)
        self._acked = 0

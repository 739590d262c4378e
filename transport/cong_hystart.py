"""HyStart++ (RFC 9406): leave the first slow start when delay grows, before the queue overflows.

Rounds are told by send times: a round is over when something sent after its beginning is acknowledged.
"""

from __future__ import annotations

from enum import Enum

MIN_RTT_THRESH = 0.004
MAX_RTT_THRESH = 0.016
MIN_RTT_DIVISOR = 8
N_RTT_SAMPLE = 8
CSS_GROWTH_DIVISOR = 4
CSS_ROUNDS = 5

_NEVER = float("inf")


class Phase(Enum):
    SLOW_START = "slow start"
    CONSERVATIVE = "conservative slow start"
    DONE = "congestion avoidance"


class HyStart:
    """Phases of the first slow start; RFC 9406 §4.2 names the variables."""

    def __init__(self) -> None:
        self.phase = Phase.SLOW_START
        self._round_start = float("-inf")
        self._last_round_min = _NEVER
        self._current_min = _NEVER
        self._samples = 0
        self._css_baseline = _NEVER
        self._css_rounds = 0

    def on_ack(self, now: float, largest_sent_time: float, latest_rtt: float) -> Phase:
        """One ACK in slow start; the phase that its bytes count in. DONE once means: set ssthresh."""
        if largest_sent_time >= self._round_start:
            self._next_round(now)
        self._current_min = min(self._current_min, latest_rtt)
        self._samples += 1
        if self._samples >= N_RTT_SAMPLE:
            self._judge()
        return self.phase

    def _next_round(self, now: float) -> None:
        self._round_start = now
        self._last_round_min, self._current_min = self._current_min, _NEVER
        self._samples = 0
        if self.phase is Phase.CONSERVATIVE:
            self._css_rounds += 1
            if self._css_rounds >= CSS_ROUNDS:
                self.phase = Phase.DONE

    def _judge(self) -> None:
        if self.phase is Phase.SLOW_START:
            if self._last_round_min == _NEVER:
                return
            threshold = min(max(self._last_round_min / MIN_RTT_DIVISOR, MIN_RTT_THRESH), MAX_RTT_THRESH)
            if self._current_min >= self._last_round_min + threshold:
                self.phase = Phase.CONSERVATIVE
                self._css_baseline = self._current_min
                self._css_rounds = 0
        elif self.phase is Phase.CONSERVATIVE and self._current_min < self._css_baseline:
            # RFC 9406 §4.2: the delay was a passing one, go on as before
            self.phase = Phase.SLOW_START
            self._css_baseline = _NEVER

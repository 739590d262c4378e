"""Flow control (RFC 9000 §4): the credit that we give, growing with the bandwidth-delay product, and the
credit that we got."""

from __future__ import annotations


class ReceiveWindow:
    """How far the peer may send. Renewed when half of it is used up; doubled when that happened within two
    round trips, since then the window and not the path is what limits the sender."""

    __slots__ = ("_renewed_at", "consumed", "largest_window", "limit", "window")

    def __init__(self, window: int, largest_window: int) -> None:
        self.window = window
        self.largest_window = max(window, largest_window)
        self.limit = window  # what the peer knows
        self.consumed = 0  # what the reader took
        self._renewed_at = -1.0

    def consume(self, count: int) -> bool:
        """The reader took `count` bytes; True if the peer should hear of a new limit."""
        self.consumed += count
        return self.limit - self.consumed <= self.window >> 1

    def renew(self, now: float, round_trip: float) -> int:
        """The new limit, to be told to the peer."""
        if self._renewed_at >= 0 and now - self._renewed_at < 2 * round_trip:
            self.window = min(self.window * 2, self.largest_window)
        self._renewed_at = now
        self.limit = max(self.limit, self.consumed + self.window)
        return self.limit


class SendCredit:
    """How far we may send, as the peer said."""

    __slots__ = ("_reported", "limit", "used")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.used = 0
        self._reported = -1

    def is_news(self) -> bool:
        """Whether the peer has not been told yet that this limit stops us; it counts as told from now on."""
        if self._reported == self.limit:
            return False
        self._reported = self.limit
        return True

    @property
    def available(self) -> int:
        return self.limit - self.used

    def raise_to(self, limit: int) -> bool:
        """A MAX_* frame came; smaller limits are ignored (RFC 9000 §4.1). True if it helped."""
        if limit <= self.limit:
            return False
        self.limit = limit
        return True

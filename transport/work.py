"""What a peer makes us do for nothing: control frames, and stream data in crumbs.

Each of these costs about as much as a whole packet of a transfer, and a packet holds hundreds of them. Nobody who has
something to transfer sends many; so they are counted, in units of about a microsecond of processor time, and a
connection may use so many units a second of them (limits). What comes while it has used up more is dropped
unread, as if it had been lost on the way, which is always allowed and keeps the cost of a flood to a small part of the
processor. What a transfer consists of is not counted: stream data in pieces of a sensible size, what a packet usually
carries besides, and ACKs of few ranges.
"""

from __future__ import annotations

from quicfs.transport import limits

FEW_RANGES = 16  # in an ACK frame
SMALL_PIECE = 16  # bytes of stream data that are worth their frame
SMALL_DELIVERY = 64  # that are worth a delivery to their stream


class Work:
    """A leaky bucket. `used` is added to as work is done, without a look at the time."""

    __slots__ = ("_since", "dropped", "used")

    def __init__(self, now: float) -> None:
        self.used = 0.0
        self.dropped = 0  # trains
        self._since = now  # when `used` was last made less

    def exhausted(self, now: float) -> bool:
        """Whether the train that came at `now` is to be dropped. Ask when `used` is above limits.WORK_BURST."""
        self.used = max(0.0, self.used - (now - self._since) * limits.WORK_PER_SECOND)
        self._since = now
        if self.used <= limits.WORK_BURST:
            return False
        self.dropped += 1
        return True

    def packet(self, units: int) -> None:
        """The control frames of one packet."""
        if units > limits.WORK_PER_PACKET:
            self.used += units - limits.WORK_PER_PACKET

    def ack(self, ranges: int, size: int) -> None:
        """An ACK frame newly acknowledged `size` bytes. Loss makes ranges many, and a transfer with losses is one."""
        self.used += max(0.0, ranges / 4 - size / 32)

    def delivery(self, pieces: int, size: int) -> None:
        """`size` bytes of stream data came in as many frames."""
        if size < pieces * SMALL_PIECE:
            self.used += 2 * pieces
        elif size < SMALL_DELIVERY:
            self.used += 1

"""The timers of a connection: what they are, and when the next one is due."""

from __future__ import annotations

import enum


class Timer(enum.IntEnum):
    LOSS = 0  # loss detection and probe timeout (RFC 9002 §6)
    ACK_DELAY = 1  # an acknowledgement is due (RFC 9000 §13.2.1)
    IDLE = 2  # RFC 9000 §10.1
    HANDSHAKE = 3  # the handshake has to be complete by then
    CLOSE = 4  # closing and draining end (RFC 9000 §10.2)
    KEEP_ALIVE = 5  # RFC 9000 §10.1.2
    PACING = 6  # the pacer lets the next train out
    PMTUD = 7  # RFC 8899
    KEY_DISCARD = 8  # the receive keys before the last update are not needed any more (RFC 9001 §6.5)
    EARLY_KEYS = 9  # a server's keys of 0-RTT packets are not needed any more (RFC 9001 §4.9.3)
    PATH = 10  # path validation, paths that are left (RFC 9000 §8.2, §9)


class Timers:
    """A deadline, or none, for each timer."""

    __slots__ = ("_deadlines",)

    def __init__(self) -> None:
        self._deadlines: list[float | None] = [None] * len(Timer)

    def set(self, timer: Timer, deadline: float | None) -> None:
        self._deadlines[timer] = deadline

    def clear(self) -> None:
        self._deadlines = [None] * len(Timer)

    def next(self) -> float | None:
        earliest: float | None = None
        for deadline in self._deadlines:
            if deadline is not None and (earliest is None or deadline < earliest):
                earliest = deadline
        return earliest

    def expired(self, now: float) -> list[Timer]:
        """The timers that are due; they are off then."""
        due = [
            Timer(i) for i, deadline in enumerate(self._deadlines) if deadline is not None and deadline <= now
        ]
        for timer in due:
            self._deadlines[timer] = None
        return due

"""ECN on one path (RFC 9000 §13.4): mark, count, and stop marking when the counts cannot be right."""

from __future__ import annotations

import enum
from typing import Final

NOT_ECT: Final = 0
ECT_1: Final = 1
ECT_0: Final = 2
CE: Final = 3

_TESTING_PACKETS: Final = 10


class EcnState(enum.Enum):
    """RFC 9000 §A.4: TESTING -> UNKNOWN -> CAPABLE, and from any of them to FAILED."""

    TESTING = enum.auto()
    UNKNOWN = enum.auto()
    CAPABLE = enum.auto()
    FAILED = enum.auto()


class Ecn:
    """What we send with, and whether the peer's reports make sense."""

    __slots__ = ("_before", "_ce", "_ect0", "_marked", "state")

    def __init__(self, *, enabled: bool = True) -> None:
        self.state = EcnState.TESTING if enabled else EcnState.FAILED
        self._marked = 0  # packets sent with ECT(0), on all paths: so does the peer count
        self._before = 0  # those of them that took other paths
        self._ect0 = 0  # the peer's counts as of the newest ACK
        self._ce = 0

    @property
    def codepoint(self) -> int:
        return ECT_0 if self.state in (EcnState.TESTING, EcnState.CAPABLE) else NOT_ECT

    @property
    def reported(self) -> tuple[int, int]:
        """The peer's newest counts of ECT(0) and CE."""
        return self._ect0, self._ce

    def on_sent(self, packets: int) -> None:
        self._marked += packets
        if self.state is EcnState.TESTING and self._marked - self._before >= _TESTING_PACKETS:
            self.state = EcnState.UNKNOWN

    def follow(self, other: Ecn) -> None:
        """Packets take this path from now on, after `other`: the peer goes on counting where it was."""
        self._before = other._marked - (self._marked - self._before)
        self._marked, self._ect0, self._ce = other._marked, other._ect0, other._ce

    def on_ack(
        self,
        newly_acked_marked: int,
        counts: tuple[int, int, int] | None,
        *,
        this_path: bool = True,
    ) -> bool:
        """An ACK raised the largest acknowledged and newly acknowledged that many packets that we had marked. Its
        largest took `this_path`, or another one before.

        True if it reports congestion (RFC 9002 §7.1). Fails the path when the counts contradict
        what was sent (RFC 9000 §13.4.2.1).
        """
        if self.state is EcnState.FAILED or not self._marked:
            return False
        if counts is None:
            if newly_acked_marked and this_path:
                self.state = EcnState.FAILED
            return False
        ect0, ect1, ce = counts
        grown = (ect0 - self._ect0) + (ce - self._ce)
        if (
            ect1
            or ect0 < self._ect0
            or ce < self._ce
            or grown < newly_acked_marked
            or ect0 + ce > self._marked
        ):
            self.state = EcnState.FAILED
            return False
        congested = ce > self._ce
        self._ect0, self._ce = ect0, ce
        if newly_acked_marked and this_path:
            self.state = EcnState.CAPABLE
        return congested and this_path

    def on_all_lost(self) -> None:
        """Everything that was marked is lost: maybe the network drops ECT packets (RFC 9000 §13.4.2)."""
        if self.state in (EcnState.TESTING, EcnState.UNKNOWN):
            self.state = EcnState.FAILED

"""Path MTU discovery by probing (RFC 8899, RFC 9000 §14.3): what size of datagram gets through.

    SEARCHING --nothing left to try--> SEARCH_COMPLETE
        ^                                     |
        +------- raise timer, black hole -----+

The handshake has shown that the base size passes, so there is no BASE state of its own (RFC 9000 §14.3): the
caller asks for probes once the handshake is confirmed.

Sizes are UDP payloads. The first probe is as large as the interface and the peer allow, which settles
the matter in one round trip on a plain link. Where that fails, sizes that paths really have are searched by
halving, and at last a few between two of them. Each size is given up after three losses.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from enum import Enum

from quicfs.transport import limits

MAX_PROBES = 3  # RFC 8899 §5.1.2
MAX_REFINEMENTS = 3
BLACK_HOLE_THRESHOLD = 3
"""Consecutive losses of datagrams above the base, with none of them acknowledged in between."""

# UDP payloads of common MTUs: 1280, 1400, 1420 (WireGuard), 1492 (PPPoE), 1500, 4352, 9000 and up,
# each over IPv6 (48 bytes of headers) and IPv4 (28 bytes).
COMMON_SIZES = (
    1_232,
    1_252,
    1_352,
    1_372,
    1_392,
    1_444,
    1_452,
    1_464,
    1_472,
    4_304,
    8_952,
    8_972,
    16_384,
    32_768,
    65_487,
    65_507,
    65_527,
)


class PmtudState(Enum):
    SEARCHING = "searching"
    SEARCH_COMPLETE = "search complete"


class Pmtud:
    """One path's search between `base` and what the interface takes."""

    __slots__ = (
        "_base",
        "_failing",
        "_full_size_losses",
        "_outstanding",
        "_probe_losses",
        "_raise_at",
        "_raise_interval",
        "_refinements",
        "_tried_upper_bound",
        "_upper_bound",
        "current",
        "state",
    )

    def __init__(
        self, base: int, upper_bound: int, raise_interval: float = limits.MTU_RAISE_INTERVAL
    ) -> None:
        self.state = PmtudState.SEARCHING
        self._base = base
        self.current = base
        """The largest datagram to send now."""
        self._upper_bound = max(upper_bound, base)
        self._raise_interval = raise_interval
        self._raise_at: float | None = None
        self._outstanding: int | None = None
        self._full_size_losses = 0
        self._begin_search()

    def _begin_search(self) -> None:
        self._failing = self._upper_bound + 1  # the smallest size known not to pass
        self._tried_upper_bound = False
        self._probe_losses = 0
        self._refinements = 0  # sizes settled beyond the common ones

    # --- searching

    def set_bound(self, size: int) -> None:
        """The peer's max_udp_payload_size became known: nothing larger is ever sent (RFC 9000 §18.2)."""
        self._upper_bound = max(min(size, self._upper_bound), self._base)
        self._failing = min(self._failing, self._upper_bound + 1)
        self.current = min(self.current, self._upper_bound)

    def next_probe(self, now: float) -> int | None:
        """Size of the probe to send now; None while one is under way or nothing is to be found out."""
        if self._outstanding is not None:
            return None
        if self.state is not PmtudState.SEARCHING:
            return None
        size = self._candidate()
        if size is None:
            self.state = PmtudState.SEARCH_COMPLETE
            # At the bound there is nothing to raise; a smaller path may have become a larger one.
            self._raise_at = now + self._raise_interval if self.current < self._upper_bound else None
        return size

    def _candidate(self) -> int | None:
        """The size that halves what is left between `current` and `_failing`."""
        if self._failing - self.current <= 1:
            return None
        if not self._tried_upper_bound:
            return self._upper_bound
        first = bisect_right(COMMON_SIZES, self.current)
        last = bisect_left(COMMON_SIZES, self._failing)
        if first < last:
            return COMMON_SIZES[(first + last) // 2]
        # RFC 8899 §5.3.2: the search may end when a better size would be little better
        if self._refinements >= MAX_REFINEMENTS or self._failing - self.current <= 16:
            return None
        return (self.current + self._failing) // 2

    def on_probe_sent(self, size: int, pn: int, now: float) -> None:
        self._outstanding = size

    def on_probe_acked(self, size: int) -> None:
        """A probe of `size` got through: `current` is at least that from now on."""
        if size != self._outstanding:
            return
        self._outstanding = None
        self._settle(size)
        self.current = max(self.current, min(size, self._upper_bound))

    def on_probe_lost(self, size: int) -> None:
        """A probe of `size` was lost, or the socket refused it as too large."""
        if size != self._outstanding:
            return
        self._outstanding = None
        self._probe_losses += 1
        if self._probe_losses >= MAX_PROBES:
            self._settle(size)
            self._failing = min(self._failing, size)

    def forget_probe(self) -> None:
        """The path is left: what becomes of the probe under way, nobody will say."""
        self._outstanding = None

    def _settle(self, size: int) -> None:
        self._probe_losses = 0
        if self._tried_upper_bound and size not in COMMON_SIZES:
            self._refinements += 1
        self._tried_upper_bound = True

    # --- black holes (RFC 8899 §4.3)

    def on_acked(self, size: int) -> None:
        """A datagram of `size`, the largest of one ACK, got through."""
        if size > self._base:
            self._full_size_losses = 0

    def on_lost(self, size: int, now: float) -> bool:
        """Datagrams were lost, or a probe timeout expired; `size` is the largest of them. Call it once per
        ACK or timeout. True when this makes a black hole: `current` is the base again."""
        if size <= self._base or self.current <= self._base:
            return False
        self._full_size_losses += 1
        if self._full_size_losses < BLACK_HOLE_THRESHOLD:
            return False
        self.on_black_hole()
        return True

    def on_black_hole(self) -> None:
        """Fall back to the base and search again from there."""
        self.current = self._base
        self.state = PmtudState.SEARCHING
        self._outstanding = None
        self._full_size_losses = 0
        self._begin_search()

    # --- the raise timer

    def timeout(self) -> float | None:
        """When `on_timeout` is due; None for never."""
        return self._raise_at if self.state is PmtudState.SEARCH_COMPLETE else None

    def on_timeout(self, now: float) -> None:
        """Search again: the path may have become wider (RFC 8899 §5.1.1)."""
        if self.state is PmtudState.SEARCH_COMPLETE and self._raise_at is not None and now >= self._raise_at:
            self._begin_search()
            self.state = PmtudState.SEARCHING

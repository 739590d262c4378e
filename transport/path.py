"""A network path: a pair of addresses, how far the peer's is trusted, and what is known of the network between them."""

from __future__ import annotations

from typing import Any, Final

from quicfs.transport import limits
from quicfs.transport.cong import CongestionControl, make_congestion_control
from quicfs.transport.connid import ConnectionId
from quicfs.transport.ecn import Ecn
from quicfs.transport.pacer import Pacer
from quicfs.transport.pmtud import Pmtud
from quicfs.transport.rtt import RttEstimator

Address = Any
"""A socket address as the socket module has it; the transport only compares and returns it."""

_UNLIMITED: Final = 1 << 62


class CongestionState:
    """Congestion control and RTT of one path (RFC 9000 §9.4). Packets count where they were sent."""

    __slots__ = ("bytes_in_flight", "cong", "pacer", "rtt")

    def __init__(self, cong: CongestionControl, pacer: Pacer, rtt: RttEstimator) -> None:
        self.cong = cong
        self.pacer = pacer
        self.rtt = rtt
        self.bytes_in_flight = 0


class Challenge:
    """A path validation under way (RFC 9000 §8.2). Times in seconds."""

    __slots__ = ("blocked", "deadline", "interval", "next_at", "sent")

    def __init__(self, now: float, interval: float, deadline: float) -> None:
        self.interval = interval  # until the next attempt; doubles with each
        self.next_at = now
        self.deadline = deadline
        self.blocked = False  # no attempt is possible: for the anti-amplification limit, or for want of an ID
        self.sent: dict[bytes, tuple[float, bool]] = {}  # data -> when, and whether in a full-sized datagram

    def on_sent(self, data: bytes, now: float, *, full: bool) -> None:
        self.sent[data] = (now, full)
        self.next_at = now + self.interval
        self.interval *= 2
        self.blocked = False

    def timeout(self) -> float:
        return self.deadline if self.blocked else min(self.next_at, self.deadline)


class Path:
    """State that belongs to one pair of addresses (RFC 9000 §8, §9, §13.4, §14)."""

    __slots__ = (
        "active_at",
        "bytes_received",
        "bytes_sent",
        "challenge",
        "congestion",
        "dcid",
        "ecn",
        "expires_at",
        "limited",
        "local",
        "peer_cid",
        "pmtud",
        "remote",
        "responses",
        "validated",
        "wanted",
    )

    def __init__(
        self,
        remote: Address,
        local: Address,
        *,
        congestion: CongestionState,
        pmtud: Pmtud,
        ecn: Ecn,
        validated: bool,
        limited: bool,
    ) -> None:
        self.remote = remote
        self.local = local  # which of our addresses the peer speaks to; None: the socket's own
        self.validated = validated
        self.limited = limited  # sends at most three times what came, until it is validated (§8.1)
        self.bytes_received = 0
        self.bytes_sent = 0
        self.congestion = congestion
        self.pmtud = pmtud
        self.ecn = ecn
        self.responses: list[bytes] = []  # PATH_RESPONSE data to be sent
        self.challenge: Challenge | None = None
        self.peer_cid: ConnectionId | None = None  # for packets on it, while it is not the active path
        self.dcid = b""  # ours, to which the peer's last packet on it was sent
        self.active_at: float | None = None  # when packets other than probes were last sent to be on it
        self.expires_at: float | None = None
        self.wanted = False  # we move here as soon as it is validated

    def allowance(self) -> int:
        """Bytes that may be sent now before the address is validated (RFC 9000 §8.1)."""
        if self.validated or not self.limited:
            return _UNLIMITED
        return limits.AMPLIFICATION_FACTOR * self.bytes_received - self.bytes_sent

    def handle_challenge(self, data: bytes) -> None:
        """PATH_CHALLENGE came; a flood of them is answered as far as the limit allows (CVE-2023-49295)."""
        if len(self.responses) < limits.MAX_PENDING_PATH_RESPONSES:
            self.responses.append(data)

    def inherit(self, other: Path) -> None:
        """Only the peer's port differs: it is the same network (RFC 9000 §9.4)."""
        self.congestion = other.congestion
        self.pmtud = other.pmtud
        self.ecn = other.ecn


def make_path(
    remote: Address,
    local: Address,
    *,
    algorithm: int,
    initial_rtt: float,
    mtu_bound: int,
    mtu_raise_interval: float,
    ecn: bool,
    validated: bool,
    limited: bool,
) -> Path:
    """A path of which nothing is known yet."""
    pmtud = Pmtud(limits.MIN_INITIAL_DATAGRAM, min(mtu_bound, limits.MAX_UDP_PAYLOAD), mtu_raise_interval)
    size = pmtud.current
    return Path(
        remote,
        local,
        congestion=CongestionState(
            make_congestion_control(algorithm, size), Pacer(size), RttEstimator(initial_rtt)
        ),
        pmtud=pmtud,
        ecn=Ecn(enabled=ecn),
        validated=validated,
        limited=limited,
    )

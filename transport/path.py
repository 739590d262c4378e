"""A network path: the peer's address, how far it is trusted, and what fits through it."""

from __future__ import annotations

from typing import Any

from quicfs.transport import limits
from quicfs.transport.ecn import Ecn
from quicfs.transport.pmtud import Pmtud

Address = Any
"""A socket address as the socket module has it; the transport only compares and returns it."""


class Path:
    """State that belongs to one pair of addresses (RFC 9000 §8, §13.4, §14)."""

    __slots__ = ("bytes_received", "bytes_sent", "ecn", "local", "pmtud", "remote", "responses", "validated")

    def __init__(
        self, remote: Address, local: Address, pmtud: Pmtud, *, validated: bool, ecn: bool = True
    ) -> None:
        self.remote = remote
        self.local = local  # which of our addresses the peer speaks to; None: the socket's own
        self.validated = validated
        self.bytes_received = 0
        self.bytes_sent = 0
        self.ecn = Ecn(enabled=ecn)
        self.pmtud = pmtud
        self.responses: list[bytes] = []  # PATH_RESPONSE data to be sent

    def allowance(self) -> int:
        """Bytes that may be sent now before the address is validated (RFC 9000 §8.1)."""
        if self.validated:
            return 1 << 62
        return limits.AMPLIFICATION_FACTOR * self.bytes_received - self.bytes_sent

    def handle_challenge(self, data: bytes) -> None:
        """PATH_CHALLENGE came; a flood of them is answered as far as the limit allows (CVE-2023-49295)."""
        if len(self.responses) < limits.MAX_PENDING_PATH_RESPONSES:
            self.responses.append(data)

"""Grease: unpredictable values where the specification leaves them open, so that nobody on the way gets used to one.

The Fixed Bit of packets, once the peer has said that it may have any value (RFC 9287), and a reserved transport
parameter (RFC 9000 §18.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from quicfs.transport.packet import FIXED_BIT

_BITS: Final = 256  # drawn at a time


class Grease:
    """`parameter` is entropy for one reserved transport parameter, the same whenever parameters are encoded."""

    __slots__ = ("_bits", "_entropy", "allowed", "parameter")

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self.allowed = False  # by the peer's transport parameters
        self.parameter = entropy(2 + entropy(1)[0] % 8)
        self._entropy = entropy
        self._bits = 1

    def fixed_bit(self) -> int:
        """FIXED_BIT or 0, for the next packets."""
        if not self.allowed:
            return FIXED_BIT
        if self._bits == 1:  # all are used up
            self._bits = 1 << _BITS | int.from_bytes(self._entropy(_BITS // 8), "big")
        bit = self._bits & 1
        self._bits >>= 1
        return FIXED_BIT if bit else 0

"""A client that has come, until it is known to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quicfs.transport import limits
from quicfs.transport.packet import LongHeader
from quicfs.transport.path import Address

if TYPE_CHECKING:
    from quicfs.transport.endpoint import Listener


class Arrival:
    """A client's first Initial, and what else came before its ClientHello was complete.

    Which listener gets the connection is known only then, and with it the configuration. With several listeners the
    datagrams are kept until then, and nothing is answered: the connection may have to begin again with another
    configuration, or the client be asked to prove its address first.
    """

    __slots__ = ("_bytes", "datagrams", "header", "listener", "local", "original_dcid", "remote", "validated")

    def __init__(
        self,
        header: LongHeader,
        remote: Address,
        local: Address,
        listener: Listener,
        *,
        original_dcid: bytes | None,
        validated: bool,
    ) -> None:
        self.header = header
        self.remote = remote
        self.local = local
        self.listener = listener  # whose configuration is assumed
        self.original_dcid = original_dcid  # of a Retry token
        self.validated = validated
        self.datagrams: list[tuple[bytes, int]] = []  # with their ECN codepoints
        self._bytes = 0

    def keep(self, data: memoryview, segment_size: int, ecn: int) -> None:
        """More than a ClientHello can need is not kept: its rest will have to be sent again."""
        for start in range(0, len(data), segment_size):
            datagram = bytes(data[start : start + segment_size])
            self._bytes += len(datagram)
            if self._bytes <= 2 * limits.MAX_CLIENT_HELLO:
                self.datagrams.append((datagram, ecn))

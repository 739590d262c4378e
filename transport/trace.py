"""Tracing: where a connection tells what it does. `Connection.trace` is None, or one of these.

A connection asks for its tracer once per train. Packets and losses are told as they happen; everything else a
tracer finds by itself: `update` is called after each thing that happened to the connection, and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from quicfs.transport.packet import PacketType
from quicfs.transport.sent import SentRun

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection

_Opened = Sequence[tuple[int, int, memoryview]]


class Tracer(Protocol):
    """Must not raise, and must not keep the views that it is shown. `now` is the connection's clock."""

    def packets_sent(
        self, now: float, packet_type: PacketType, first_pn: int, payloads: Sequence[bytes], overhead: int
    ) -> None:
        """Consecutive packets, sealed into a train; each has `overhead` bytes beside its payload."""

    def packets_received(
        self, now: float, packet_type: PacketType, opened: _Opened, came: int, overhead: int
    ) -> None:
        """`came` packets, of which `opened` (as `Keys.open_run` returns them) were authentic; their frames are
        processed next. Each has `overhead` bytes beside its payload and its packet number."""

    def packet_unopened(self, now: float, packet_type: PacketType, size: int, *, kept: bool) -> None:
        """A packet came before its keys; `kept` until they are there, or dropped."""

    def packets_lost(self, now: float, packet_type: PacketType, run: SentRun) -> None:
        """A run was declared lost."""

    def event(self, now: float, name: str, data: dict[str, Any]) -> None:
        """Something rare; `name` and `data` as qlog has them."""

    def update(self, now: float) -> None:
        """Something happened to the connection: whatever changed in its state is of interest now."""

    def close(self) -> None:
        """The connection is forgotten; nothing comes any more."""


TracerFactory = Callable[["Connection", float], Tracer | None]
"""`(connection, now)`: its tracer, when it begins; None leaves it untraced."""

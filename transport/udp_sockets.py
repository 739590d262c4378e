"""The UDP sockets of one driver: the one it began with, others for preferred addresses and for paths that a client
moved to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from quicfs.transport.builder import Transmit
from quicfs.transport.path import Address
from quicfs.transport.udp import LocalAddress, UdpSocket, family_of

_WILDCARDS: Final = ("", "0.0.0.0", "::")


class UdpSockets:
    """`readable(socket)` is called from the event loop. Sockets of listeners stay, others go when no path uses them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, readable: Callable[[UdpSocket], None]) -> None:
        self._loop = loop
        self._readable = readable
        self._sockets: dict[int, UdpSocket] = {}
        self._listening: set[int] = set()
        self._next = 0

    def __len__(self) -> int:
        return len(self._sockets)

    def __iter__(self) -> Iterator[UdpSocket]:
        return iter(tuple(self._sockets.values()))

    def open(
        self, family: int, local: Address | None, remote: Address | None = None, *, listening: bool = False
    ) -> UdpSocket:
        """OSError as bind and connect raise it."""
        udp = UdpSocket(family, local, remote, number=self._next)
        self._next += 1
        self._sockets[udp.number] = udp
        if listening:
            self._listening.add(udp.number)
        self._loop.add_reader(udp.fileno(), self._readable, udp)
        return udp

    def also_listen(self, address: tuple[str, int]) -> None:
        """Hear what comes to `address` as well. OSError if it is not ours, or taken."""
        host, port = address
        family = family_of(address)
        for udp in self:
            name = udp.sock.getsockname()
            if name[1] == port and (name[0] == host or (name[0] in _WILDCARDS and udp.takes(family))):
                return
        self.open(family, (host, port), listening=True)

    def of(self, transmit: Transmit) -> UdpSocket | None:
        """The socket to send from; None if it is closed already."""
        local: LocalAddress = transmit.local
        return self._sockets.get(local.socket)

    def get(self, local: LocalAddress) -> UdpSocket | None:
        return self._sockets.get(local.socket)

    def keep(self, used: set[int]) -> None:
        """Close those that no path uses any more."""
        for udp in self:
            if udp.number not in used and udp.number not in self._listening:
                self.close(udp)

    def close(self, udp: UdpSocket) -> None:
        del self._sockets[udp.number]
        self._listening.discard(udp.number)
        self._loop.remove_reader(udp.fileno())
        self._loop.remove_writer(udp.fileno())
        udp.close()

    def close_all(self) -> None:
        for udp in self:
            self.close(udp)

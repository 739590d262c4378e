"""The stage of the soak: a network and hosts that tell what passes, and a clock for what is to happen."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from .endpoints import CLIENT, SERVER, Host
from .network import Address, Datagram, Link, Network


class WatchedNetwork(Network):
    """A network with two links, whatever the client's addresses, which tells what is sent."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.on_send: Callable[[Datagram], None] = lambda datagram: None

    def link(self, source: str, destination: str) -> Link:
        server = SERVER[0]
        return super().link(
            server if source == server else CLIENT[0], server if destination == server else CLIENT[0]
        )

    def send(self, datagram: Datagram) -> None:
        self.on_send(datagram)
        self.log.clear()
        super().send(datagram)

    def seen_at(self, address: Address) -> Address:
        """How others see it."""
        return self._outside.get(address, address)


OnTrain = Callable[[Address, Address, bytes, int], None]
"""`(source, destination, data, segment size)`"""


class WatchedHost(Host):
    def __init__(
        self, network: WatchedNetwork, address: Address, seed: int, on_train: OnTrain, mtu: int
    ) -> None:
        self._on_train = on_train
        super().__init__(network, address, seed, mtu=mtu)

    def handle_train(
        self,
        now: float,
        source: Address,
        data: bytearray,
        segment_size: int,
        ecn: int,
        local: Address | None = None,
    ) -> None:
        self._on_train(source, local or self.address, bytes(data), segment_size)
        super().handle_train(now, source, data, segment_size, ecn, local)


class Clock:
    """A node that does things at their time."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), action))

    def clear(self) -> None:
        self._due.clear()

    def next_timeout(self) -> float | None:
        return self._due[0][0] if self._due else None

    def handle_timeout(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()

    def handle_train(self, now: float, source: Address, data: bytearray, segment_size: int, ecn: int) -> None:
        raise AssertionError("nobody sends to a clock")

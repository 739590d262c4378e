"""A network in virtual time: links with delay, bandwidth, queues, loss, reordering, duplication, corruption,
MTU and ECN. Everything random comes from one seed, so that a failure repeats itself.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Address = tuple[str, int]

CE = 3


@dataclass
class Datagram:
    source: Address
    destination: Address
    data: bytes
    ecn: int = 0


@dataclass
class Link:
    """One direction of a path. Rates in bits per second, sizes in bytes (UDP payload), times in seconds.

    The fields may be changed while the simulation runs.
    """

    delay: float = 0.01
    rate: float | None = None
    queue: int = 64_000
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    reorder_delay: float = 0.005
    mtu: int = 65_535
    up: bool = True
    mark_above: int | None = None  # bytes in the queue from which on ECT packets become CE
    bleach: bool = False  # a router that clears the ECN bits
    drop: Callable[[Datagram], bool] | None = None

    busy_until: float = 0.0
    sent: int = 0
    dropped: int = 0
    bytes: int = 0
    marked: int = 0


class Node(Protocol):
    """What is attached to the network. Trains come in the order of their arrival."""

    def handle_train(
        self, now: float, source: Address, data: bytearray, segment_size: int, ecn: int
    ) -> None: ...

    def handle_timeout(self, now: float) -> None: ...

    def next_timeout(self) -> float | None: ...


class Network:
    """Nodes by address, a link for each ordered pair of hosts, and the clock."""

    def __init__(self, seed: int = 0, start: float = 1000.0) -> None:
        self.now = start
        self.random = random.Random(seed)
        self.log: list[Datagram] = []
        self._nodes: dict[Address, Node] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._outside: dict[Address, Address] = {}  # NAT: how others see an address of a node
        self._inside: dict[Address, Address] = {}
        self._hosts: dict[str, str] = {}  # outside -> inside: the link stays the same
        self._events: list[tuple[float, int, Datagram]] = []
        self._numbers = itertools.count()

    def attach(self, address: Address, node: Node) -> None:
        self._nodes[address] = node

    def link(self, source: str, destination: str) -> Link:
        """The link from one host to another; made with defaults when first asked for."""
        return self._links.setdefault((source, destination), Link())

    def rebind(self, address: Address, outside: Address) -> None:
        """A NAT shows a node's `address` as `outside` from now on; what comes for its former binding is dropped."""
        self._inside.pop(self._outside.get(address, address), None)
        self._outside[address] = outside
        self._inside[outside] = address
        self._hosts[outside[0]] = address[0]

    def send(self, datagram: Datagram) -> None:
        """A datagram leaves its source now; what becomes of it is up to the link."""
        link = self.link(
            datagram.source[0], self._hosts.get(datagram.destination[0], datagram.destination[0])
        )
        datagram.source = self._outside.get(datagram.source, datagram.source)
        chance = self.random.random
        link.sent += 1
        link.bytes += len(datagram.data)
        self.log.append(datagram)
        if (
            not link.up
            or len(datagram.data) > link.mtu
            or (link.drop is not None and link.drop(datagram))
            or (link.loss and chance() < link.loss)
        ):
            link.dropped += 1
            return
        if link.bleach:
            datagram.ecn = 0
        leaves = self.now
        if link.rate is not None:
            backlog = max(0.0, link.busy_until - self.now) * link.rate / 8
            if backlog + len(datagram.data) > link.queue:
                link.dropped += 1
                return
            if link.mark_above is not None and backlog > link.mark_above and datagram.ecn:
                datagram.ecn = CE
                link.marked += 1
            leaves = link.busy_until = max(link.busy_until, self.now) + len(datagram.data) * 8 / link.rate
        if link.corrupt and chance() < link.corrupt:
            broken = bytearray(datagram.data)
            broken[self.random.randrange(len(broken))] ^= 1 << self.random.randrange(8)
            datagram.data = bytes(broken)
        arrives = leaves + link.delay
        if link.reorder and chance() < link.reorder:
            arrives += link.reorder_delay * (1 + chance())
        self._push(arrives, datagram)
        if link.duplicate and chance() < link.duplicate:
            self._push(arrives + link.delay * chance(), datagram)

    def _push(self, when: float, datagram: Datagram) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), datagram))

    def run(self, done: Callable[[], bool], limit: float = 60.0) -> None:
        """Jump from event to event until `done()`; fails after `limit` virtual seconds."""
        deadline = self.now + limit
        idle = 0
        while not done():
            upcoming = self._next()
            assert upcoming is not None, "nothing is going to happen any more"
            assert upcoming <= deadline, f"not done after {limit} s"
            idle = idle + 1 if upcoming <= self.now else 0
            assert idle < 10_000, "time stands still"
            self.now = max(self.now, upcoming)
            self._step()

    def run_for(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        deadline = self.now + seconds
        while (upcoming := self._next()) is not None and upcoming <= deadline:
            self.now = max(self.now, upcoming)
            self._step()
        self.now = deadline

    def advance(self, until: float | None) -> bool:
        """Jump to what happens next, or to `until` if that is sooner; False if nothing will ever happen."""
        upcoming = self._next()
        if upcoming is not None and (until is None or upcoming <= until):
            self.now = max(self.now, upcoming)
            self._step()
        elif until is not None:
            self.now = max(self.now, until)
        else:
            return False
        return True

    def _next(self) -> float | None:
        times = [self._events[0][0]] if self._events else []
        times += [due for node in self._nodes.values() if (due := node.next_timeout()) is not None]
        return min(times, default=None)

    def _step(self) -> None:
        """Deliver what arrives now, in trains as UDP_GRO would make them, then let timers expire."""
        train: list[Datagram] = []
        while self._events and self._events[0][0] <= self.now:
            datagram = heapq.heappop(self._events)[2]
            if train and not _joins(train, datagram):
                self._deliver(train)
                train = []
            train.append(datagram)
        if train:
            self._deliver(train)
        for node in list(self._nodes.values()):
            due = node.next_timeout()
            if due is not None and due <= self.now:
                node.handle_timeout(self.now)

    def _deliver(self, train: list[Datagram]) -> None:
        first = train[0]
        destination = self._inside.get(first.destination, first.destination)
        if destination == first.destination and destination in self._outside:
            return  # its binding is another one now
        node = self._nodes.get(destination)
        if node is not None:
            data = bytearray().join(datagram.data for datagram in train)
            node.handle_train(self.now, first.source, data, len(first.data), first.ecn)


def _joins(train: list[Datagram], datagram: Datagram) -> bool:
    """Whether GRO would append: same flow and ECN, full-sized so far, and 64 KiB at most."""
    first = train[0]
    size = len(first.data)
    return (
        (first.source, first.destination, first.ecn) == (datagram.source, datagram.destination, datagram.ecn)
        and len(train[-1].data) == size
        and len(datagram.data) <= size
        and size * len(train) + len(datagram.data) <= 65_000
        and len(train) < 64
    )

"""One direction of the link, without sockets and clocks: a packet goes in, what comes out and when is the answer."""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from tests.netlab import ip
from tests.netlab.settings import LinkSettings


@dataclass(slots=True)
class Counters:
    """What became of the packets of one direction. Sizes are those of IP packets."""

    packets: int = 0
    bytes: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    duplicated: int = 0
    reordered: int = 0
    corrupted: int = 0
    marked: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # by reason

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__} | {"dropped": dict(self.dropped)}


class Chance:
    """A random event with its own generator, so that one kind of event does not shift another."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self._row = 0

    def happens(self, probability: float, burst: int = 0) -> bool:
        """At most `burst` times in a row, if that is not 0. Draws once, whatever the answer."""
        if self.random.random() >= probability or (burst and self._row >= burst):
            self._row = 0
            return False
        self._row += 1
        return True


class Direction:
    """Decides on each packet when it comes; everything random depends on the seed and the packets' order alone."""

    def __init__(self, settings: LinkSettings, seed: int, name: str) -> None:
        self.settings = settings
        self.counters = Counters()
        self.fate = ""  # why the latest packet was dropped, empty if it was not
        self._number = 0  # of UDP and TCP packets
        self._leaving: deque[float] = deque()  # when the packets of the queue will have been sent
        self._loss, self._damage, self._twin, self._late = (
            Chance(f"{seed} {name} {event}") for event in ("loss", "corrupt", "duplicate", "reorder")
        )

    def handle(
        self, now: float, elapsed: float, packet: bytearray, at: ip.Shape
    ) -> list[tuple[float, bytearray]]:
        """The packets that arrive at the far end, with their times. `elapsed` is on the lab's clock."""
        settings, counters = self.settings, self.counters
        counters.packets += 1
        counters.bytes += len(packet)
        self.fate = ""
        if settings.mtu is not None and len(packet) > settings.mtu:
            return self._drop("mtu")
        leaves = now
        if settings.rate is not None:
            leaving = self._leaving
            while leaving and leaving[0] <= now:
                leaving.popleft()
            waiting = len(leaving) - 1  # one is being sent
            if waiting >= settings.queue:
                return self._drop("queue")
            if settings.mark_above is not None and waiting >= settings.mark_above and ip.ecn(packet):
                ip.set_ecn(packet, ip.CE)
                counters.marked += 1
            leaves = (leaving[-1] if leaving else now) + len(packet) * 8 / settings.rate
            leaving.append(leaves)
        if settings.bleach:
            ip.set_ecn(packet, 0)
        if settings.blackhole is not None and elapsed % sum(settings.blackhole) >= settings.blackhole[0]:
            return self._drop("blackhole")
        arrives = leaves + settings.delay
        if not at.transport:
            return [(arrives, packet)]
        self._number += 1
        return self._transport(arrives, packet, at)

    def _transport(self, arrives: float, packet: bytearray, at: ip.Shape) -> list[tuple[float, bytearray]]:
        settings, counters = self.settings, self.counters
        number = self._number
        if any(first <= number <= last for first, last in settings.drop):
            return self._drop("listed")
        if settings.drop_if is not None and settings.drop_if(bytes(packet), number):
            return self._drop("condition")
        if settings.loss and self._loss.happens(settings.loss, settings.burst):
            return self._drop("loss")
        if settings.corrupt and self._damage.happens(settings.corrupt, settings.burst):
            self._corrupt(packet, at)
        if settings.reorder and self._late.happens(settings.reorder):
            arrives += settings.reorder_delay
            counters.reordered += 1
        if settings.duplicate and self._twin.happens(settings.duplicate):
            counters.duplicated += 1
            return [(arrives, packet), (arrives, bytearray(packet))]
        return [(arrives, packet)]

    def _corrupt(self, packet: bytearray, at: ip.Shape) -> None:
        start = ip.payload_at(packet, at)
        size = min(len(packet) - start, self.settings.corrupt_within)
        place, mask = self._damage.random.random(), self._damage.random.randrange(1, 256)
        # A Version Negotiation packet is not authenticated: damage to it would be a forgery.
        if size > 0 and not (at.protocol == ip.UDP and packet[start + 1 : start + 5] == bytes(4)):
            ip.corrupt(packet, at, start + int(place * size), mask)
            self.counters.corrupted += 1

    def _drop(self, reason: str) -> list[tuple[float, bytearray]]:
        self.fate = reason
        self.counters.dropped[reason] += 1
        return []

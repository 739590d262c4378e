"""What a link does to packets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

DropIf = Callable[[bytes, int], bool]
"""Asked with an IP packet and its number (from 1 on). Runs in the relay's process: a function of a module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """One direction of the link. Times in seconds, rates in bits per second (of IP packets), chances from 0 to 1.

    A packet first has to fit (`mtu`), then to find room in the queue, then takes its time on the link; what is lost
    or damaged is so at the far end, like in the public interop runner's simulator. Loss, lists, damage, duplicates
    and reordering are for UDP and TCP; ICMP only has to fit, to wait and to survive black holes.

    Clocks (`blackhole`, and those of `Rebind`) start with the first packet of UDP or TCP.
    """

    delay: float = 0.0
    rate: float | None = None
    queue: int = 1000  # packets waiting while another one is being sent; only with a rate
    mtu: int | None = None  # larger packets vanish without a word; the interfaces do not know of it
    loss: float = 0.0
    corrupt: float = 0.0
    corrupt_within: int = 50  # the first bytes of the payload, where headers are
    burst: int = 0  # at most so many losses, or damaged packets, in a row; 0: any number
    drop: tuple[tuple[int, int], ...] = ()  # packets by number from 1 on, ends included: ((2, 7),)
    drop_if: DropIf | None = None
    blackhole: tuple[float, float] | None = None  # alive so long, dead so long, and so on
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_delay: float = 0.005  # by which a reordered packet comes late
    mark_above: int | None = None  # packets waiting from which on ECT packets become CE (RFC 3168)
    bleach: bool = False  # clears the ECN field, as some routers do


@dataclass(frozen=True, slots=True)
class Rebind:
    """A NAT in front of the client that forgets its bindings: packets to the old ones are dropped.

    `what` is "port", or "address" for a new address and a new port.
    """

    what: Literal["port", "address"]
    start: float = 1.0
    every: float | None = 5.0  # None: only once


RUNNER: Final = LinkSettings(delay=0.015, rate=10e6, queue=25)
"""The link of the public interop runner, each way."""

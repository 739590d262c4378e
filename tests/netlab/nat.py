"""A NAT in front of the client, which now and then forgets its bindings."""

from __future__ import annotations

import random

from tests.netlab import ip
from tests.netlab.settings import Rebind

_Endpoint = tuple[bytes, int]
_Flow = tuple[int, bytes, int]  # protocol, address, port

FIRST_ADDRESS, LAST_ADDRESS = 100, 250  # the last byte of the addresses that it gives out


class Nat:
    """Until the first rebinding clients are seen as they are. Times are seconds on the lab's clock."""

    def __init__(self, rebind: Rebind | None, seed: int) -> None:
        self.rebindings = 0
        self._random = random.Random(f"{seed} nat")
        self._what = rebind.what if rebind is not None else "port"
        self._next = rebind.start if rebind is not None else None
        self._every = rebind.every if rebind is not None else None
        self._host: int | None = None  # the last byte of the address now in use; None: the client's own
        self._outside: dict[_Flow, _Endpoint] = {}
        self._inside: dict[_Flow, _Endpoint] = {}
        self._forgotten: set[_Flow] = set()

    def advance(self, elapsed: float) -> None:
        """Rebind if it is time to."""
        while self._next is not None and elapsed >= self._next:
            self._next = self._next + self._every if self._every else None
            self.rebind()

    def rebind(self, what: str | None = None) -> None:
        """Forget all bindings; "port" or "address", by default what the settings say."""
        self.rebindings += 1
        if (what or self._what) == "address":
            previous = self._host
            while self._host == previous:
                self._host = self._random.randint(FIRST_ADDRESS, LAST_ADDRESS)
        self._forgotten.update(self._inside)
        self._inside.clear()
        for flow in self._outside:
            self._bind(flow, fresh_port=True)

    def outward(self, packet: bytearray, at: ip.Shape) -> None:
        """A packet of the client leaves."""
        address, port = ip.addresses(packet, at).source
        flow = (at.protocol, address, port)
        if flow not in self._outside:
            self._bind(flow, fresh_port=False)
        ip.rewrite(packet, at, self._outside[flow], source=True)

    def inward(self, packet: bytearray, at: ip.Shape) -> bool:
        """A packet for the client comes; False if there is no binding for it."""
        address, port = ip.addresses(packet, at).destination
        inside = self._inside.get((at.protocol, address, port))
        if inside is None:
            return False
        ip.rewrite(packet, at, inside, source=False)
        return True

    def _bind(self, flow: _Flow, *, fresh_port: bool) -> None:
        protocol, address, port = flow
        seen = address if self._host is None else address[:-1] + bytes((self._host,))
        while (
            fresh_port or (protocol, seen, port) in self._inside or (protocol, seen, port) in self._forgotten
        ):
            port = self._random.randint(1024, 65_535)
            fresh_port = False
        self._outside[flow] = (seen, port)
        self._inside[protocol, seen, port] = (address, flow[2])

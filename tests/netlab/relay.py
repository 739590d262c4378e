"""The process between the two TUN devices: reads packets, lets `link.Direction` decide, and writes them when due.

`main` takes three descriptors: the client's device, the server's, and a control channel (SOCK_SEQPACKET, pickled
`Request`s, each answered). When its other end is closed without a goodbye, the lab's owner was killed: the relay then
ends what is left in the namespaces, and itself.
"""

from __future__ import annotations

import heapq
import os
import pickle
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.netlab import ip, processes
from tests.netlab.link import Direction
from tests.netlab.nat import Nat
from tests.netlab.pcap import SIDES, PcapWriter
from tests.netlab.settings import LinkSettings, Rebind

CLIENT, SERVER = 0, 1
MESSAGE: Final = 1 << 16
_BURST: Final = 32  # packets read from one device before the others get a turn
_SIZE: Final = 65_536


@dataclass(frozen=True, slots=True)
class Start:
    settings: tuple[LinkSettings, LinkSettings]  # of what the client, of what the server sends
    rebind: Rebind | None
    seed: int
    inodes: tuple[int, int]  # of the namespaces
    pcap: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """`verb` is the name of a method of `Relay`."""

    verb: str
    arguments: tuple[Any, ...] = ()


class Relay:
    def __init__(self, start: Start, tuns: tuple[int, int], control: socket.socket) -> None:
        self._tuns = tuns
        self._control = control
        self._inodes = start.inodes
        self._directions = tuple(
            Direction(settings, start.seed, side)
            for settings, side in zip(start.settings, SIDES, strict=True)
        )
        self._nat = Nat(start.rebind, start.seed) if start.rebind is not None else None
        self._pcap = PcapWriter(Path(start.pcap)) if start.pcap is not None else None
        self._wall_ns = time.time_ns() - time.monotonic_ns()
        self._epoch: float | None = None  # when the first packet of UDP or TCP came
        self._due: list[tuple[float, int, int, bytearray]] = []
        self._number = 0
        self._running = True

    def run(self) -> None:
        monotonic, due = time.monotonic, self._due
        control = self._control.fileno()
        sources = {self._tuns[CLIENT]: CLIENT, self._tuns[SERVER]: SERVER}
        watched = [*sources, control]
        while self._running:
            timeout = max(0.0, due[0][0] - monotonic()) if due else None
            for fd in select.select(watched, (), (), timeout)[0]:
                if fd == control:
                    self._serve()
                else:
                    self._read(fd, sources[fd])
            if due:
                self._deliver(monotonic())

    # --- packets

    def _read(self, fd: int, side: int) -> None:
        direction = self._directions[side]
        for _ in range(_BURST):
            try:
                raw = os.read(fd, _SIZE)
            except BlockingIOError:
                return
            now = time.monotonic()
            packet = bytearray(raw)
            at = ip.shape(packet)
            if at is None:
                continue
            if at.transport and self._epoch is None:
                self._epoch = now
            for when, arriving in direction.handle(now, self._elapsed(now), packet, at):
                self._number += 1
                heapq.heappush(self._due, (when, self._number, side, arriving))
            if self._pcap is not None:
                self._capture(now, side, raw, outbound=True, comment=direction.fate)

    def _deliver(self, now: float) -> None:
        due, nat = self._due, self._nat
        while due and due[0][0] <= now:
            _, _, side, packet = heapq.heappop(due)
            counters = self._directions[side].counters
            if nat is not None and not self._translate(nat, side, packet, now):
                counters.dropped["nat"] += 1
                continue
            try:
                os.write(self._tuns[1 - side], packet)
            except OSError:
                counters.dropped["undeliverable"] += 1
                continue
            counters.delivered += 1
            counters.delivered_bytes += len(packet)
            if self._pcap is not None:
                self._capture(now, 1 - side, packet, outbound=False)

    def _translate(self, nat: Nat, side: int, packet: bytearray, now: float) -> bool:
        """False if there is no binding. Both ways it is the packets that arrive which are translated, as in the public
        runner's simulator: those under way from the client at a rebinding show the server where it is now."""
        nat.advance(self._elapsed(now))
        at = ip.shape(packet)
        if at is None or not at.transport:
            return True
        if side == SERVER:
            return nat.inward(packet, at)
        nat.outward(packet, at)
        return True

    def _elapsed(self, now: float) -> float:
        return now - self._epoch if self._epoch is not None else 0.0

    def _capture(
        self, now: float, side: int, packet: bytes | bytearray, *, outbound: bool, comment: str = ""
    ) -> None:
        assert self._pcap is not None
        comment = f"dropped: {comment}" if comment else ""
        stamp = int(now * 1e9) + self._wall_ns
        self._pcap.write(stamp, SIDES[side], packet, outbound=outbound, comment=comment)

    # --- control

    def _serve(self) -> None:
        try:
            message = self._control.recv(MESSAGE)
        except ConnectionError:
            message = b""
        if not message:
            processes.end_all(self._inodes)
            self.goodbye()
            return
        request: Request = pickle.loads(message)
        self._control.send(pickle.dumps(getattr(self, request.verb)(*request.arguments)))

    def stats(self) -> dict[str, Any]:
        client, server = self._directions
        rebindings = self._nat.rebindings if self._nat is not None else 0
        return {"client": client.counters, "server": server.counters, "rebindings": rebindings}

    def configure(self, side: int, settings: LinkSettings) -> None:
        self._directions[side].settings = settings

    def rebind(self, what: str | None) -> None:
        assert self._nat is not None
        self._nat.rebind(what)

    def flush(self) -> None:
        if self._pcap is not None:
            self._pcap.flush()

    def goodbye(self) -> None:
        self._running = False
        if self._pcap is not None:
            self._pcap.close()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the lab's owner ends us
    client, server, control = (int(argument) for argument in sys.argv[1:])
    with socket.socket(fileno=control) as channel:
        start: Start = pickle.loads(channel.recv(MESSAGE))
        relay = Relay(start, (client, server), channel)
        channel.send(pickle.dumps(None))
        relay.run()

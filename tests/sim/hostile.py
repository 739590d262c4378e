"""A hostile peer, and what it costs its victim.

The attacker has been through the handshake and knows the keys; from then on it writes packets that no honest
stack would. `Meter` counts the processor time that the victim spends on them, and the memory that it holds.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from quicfs.transport import frame
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.crypto import Keys
from quicfs.transport.packet import FIXED_BIT
from quicfs.transport.uapi import CryptoLevel

from .endpoints import CLIENT, SERVER, Host, make_pair
from .fake_tls import SUITE, traffic_secret
from .network import Address, Datagram

PN_LENGTH = 4
FIRST_PN = 100_000  # far from the numbers that the real client used


class Sealer:
    """Writes 1-RTT packets with whatever in them: the keys and the destination ID of a connection that is up."""

    def __init__(self, keys: Keys, cid: bytes) -> None:
        self.keys = keys
        self.cid = cid
        self.pn = FIRST_PN
        self.written = 0  # bytes of stream 0

    def seal(self, payload: bytes, bits: int = 0) -> bytes:
        """The next packet with this payload."""
        out = memoryview(bytearray(len(payload) + 100))
        prefix = bytes((FIXED_BIT | bits | (PN_LENGTH - 1),)) + self.cid
        end = self.keys.seal_run(out, 0, prefix, self.pn, PN_LENGTH, (payload,))
        self.pn += 1
        return bytes(out[:end])


class Attacker(Sealer):
    """Sends packets in the client's name; the client itself falls silent."""

    def __init__(self, seed: int = 0, *, server: ConnectionConfig | None = None) -> None:
        self.pair = make_pair(seed, server=server).establish()
        self.pair.network.run_for(1.0)
        self.sent_before = self.pair.network.link(SERVER[0], CLIENT[0]).sent
        keys = Keys(SUITE, traffic_secret(CryptoLevel.APP, from_server=False))
        super().__init__(keys, self.pair.client.conn.peer_cids.current.cid)

    def send(self, *payloads: bytes, bits: int = 0, settle: float = 0.03) -> None:
        """One packet for each payload, each in a datagram of its own."""
        for payload in payloads:
            self.pair.network.send(Datagram(CLIENT, SERVER, self.seal(payload, bits)))
        self.pair.network.run_for(settle)

    @property
    def code(self) -> int | None:
        """With which error the server closed, if it did."""
        closed = self.pair.server.conn.closed
        return None if closed is None or closed.remote else closed.code

    @property
    def answers(self) -> int:
        """Datagrams from the server since the attack began."""
        return self.pair.network.link(SERVER[0], CLIENT[0]).sent - self.sent_before


@dataclass
class Cost:
    seconds: float
    datagrams: int
    bytes: int
    held: int = 0  # bytes of memory more than before
    peak: int = 0  # at the worst moment

    @property
    def per_datagram(self) -> float:
        return self.seconds / self.datagrams


class Meter:
    """Feeds datagrams to one host and adds up the time that its endpoint takes for them."""

    def __init__(self, host: Host, source: Address = CLIENT) -> None:
        self._host = host
        self._source = source

    def run(self, datagrams: Iterable[bytes], *, sources: Callable[[int], Address] | None = None) -> Cost:
        """Each datagram arrives alone, a millisecond after the one before; answers leave in between."""
        host, network = self._host, self._host.network
        seconds = 0.0
        number = size = 0
        for number, data in enumerate(datagrams, 1):
            source = self._source if sources is None else sources(number)
            size += len(data)
            buffer = bytearray(data)
            begin = time.process_time()
            host.handle_train(network.now, source, buffer, len(buffer), 0)
            seconds += time.process_time() - begin
            network.run_for(0.001)
            del network.log[:]
        return Cost(seconds, number, size)

    def run_traced(
        self, datagrams: Iterable[bytes], *, sources: Callable[[int], Address] | None = None
    ) -> Cost:
        """The same, with the memory that it took; the time means nothing then."""
        ready = list(datagrams)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            cost = self.run(ready, sources=sources)
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        cost.held, cost.peak = after - before, peak - before
        return cost


def ordinary(attacker: Sealer, count: int) -> list[bytes]:
    """Packets of a chatty application: forty small pieces of one stream in each."""
    packets = []
    offset = attacker.written
    for _ in range(count):
        frames = []
        for _ in range(40):
            frames.append(frame.write_stream_header(0, offset, 20, False) + bytes(20))
            offset += 20
        packets.append(attacker.seal(b"".join(frames)))
    attacker.written = offset
    return packets


def pings(attacker: Sealer, count: int) -> list[bytes]:
    """The cheapest packets that there are."""
    return [attacker.seal(frame.write_ping()) for _ in range(count)]

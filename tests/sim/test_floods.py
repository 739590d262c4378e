"""Floods: what each may cost its victim, in processor time as a multiple of ordinary traffic in the same run, and in
memory. And what an honest connection to the same server notices of it: nothing.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from quicfs.transport import frame, limits
from quicfs.transport.packet import FIXED_BIT
from quicfs.transport.state import State

from .endpoints import CLIENT, SERVER, Host, make_pair
from .hostile import Attacker, Meter, ordinary, pings
from .network import Address, Datagram, Network

KIB = 1024

Make = Callable[[Attacker, int], list[bytes]]


def _full(frames: Callable[[int], bytes], size: int = 1150) -> Make:
    """Packets full of one kind of frame; `frames` gets a running number."""

    def make(attacker: Attacker, count: int) -> list[bytes]:
        packets, number = [], 0
        for _ in range(count):
            payload = b""
            while len(payload) < size:
                payload += frames(number)
                number += 1
            packets.append(attacker.seal(payload))
        return packets

    return make


def _stream(stream_id: int, offset: int, data: bytes, fin: bool = False) -> bytes:
    return frame.write_stream_header(stream_id, offset, len(data), fin) + data


def _far_apart(number: int) -> bytes:
    """One byte here, one there."""
    return _stream(0, (number * 7919) % (limits.STREAM_WINDOW - 2), b"x")


def _crypto_comb(number: int) -> bytes:
    return frame.write_crypto_header(1 + 2 * (number % 20_000), 1) + b"x"


def _open_and_reset(attacker: Attacker, count: int) -> list[bytes]:
    """As many streams as allowed, each reset at once, again and again."""
    packets, number = [], 0
    for _ in range(count):
        payload = b""
        while len(payload) < 1100:
            stream_id = 4 * (number % limits.MAX_STREAMS_UNI) + 2
            payload += _stream(stream_id, 0, b"x") + frame.write_reset_stream(stream_id, 7, 1)
            number += 1
        packets.append(attacker.seal(payload))
    return packets


def _ranges(attacker: Attacker, count: int) -> list[bytes]:
    """ACK frames of a thousand ranges, each of one packet that is under way, with one between them left out."""
    pair = attacker.pair
    client = pair.client
    server = pair.server
    stream = server.open()
    server.write(stream, bytes(8 << 20))
    pair.run(lambda: len(client.received[1]) == 8 << 20)  # the windows are wide open now
    pair.network.link(SERVER[0], CLIENT[0]).up = False
    server.write(stream, bytes(8 << 20))
    pair.network.run_for(0.05)  # the pacer lets them out
    numbers = [pn for run in server.conn.application.sent for pn in range(run.first, run.last + 1)]
    assert len(numbers) > 2000
    chosen = numbers[-2000::2]
    attacker.cid = client.conn.peer_cids.current.cid
    packets = []
    for n in range(count):
        part = chosen[n % 3 :]
        ack = frame.write_ack([(pn, pn) for pn in reversed(part)], 0, None, 60_000)
        packets.append(attacker.seal(ack))
    return packets


def _acks(attacker: Attacker, count: int) -> list[bytes]:
    """ACK frames of as many ranges as a datagram holds, of packets that were sent and long acknowledged."""
    ack = frame.write_ack([(0, 0)], 0, None, 1000)
    return [attacker.seal(ack * (1150 // len(ack))) for _ in range(count)]


def _retired(attacker: Attacker, count: int) -> list[bytes]:
    """Whatever ID the server issues is retired."""
    return [attacker.seal(frame.write_retire_connection_id(number % 4 + 1)) for number in range(count)]


def _resets(attacker: Attacker, count: int) -> list[bytes]:
    """Guesses at a stateless reset token, for the ID in use."""
    rng = random.Random(1)
    return [bytes((FIXED_BIT,)) + attacker.cid + rng.randbytes(60) for _ in range(count)]


def _replayed(attacker: Attacker, count: int) -> list[bytes]:
    packet = attacker.seal(_stream(0, 0, b"once"))
    return [packet] * count


def _forged(attacker: Attacker, count: int) -> list[bytes]:
    """Full packets for the right ID that do not open."""
    rng = random.Random(2)
    return [bytes((FIXED_BIT,)) + attacker.cid + rng.randbytes(1190) for _ in range(count)]


@dataclass
class Flood:
    make: Make
    memory: int
    """Bytes that it may make the server hold."""
    times: float = 4.0
    """Processor time per datagram, as a multiple of what an ordinary full packet takes."""
    survives: bool = True
    """False if the server closes the connection for it."""
    count: int = 200


FLOODS: dict[str, Flood] = {
    "PATH_CHALLENGE": Flood(
        _full(lambda n: frame.write_path_challenge(n.to_bytes(8, "big"))), 256 * KIB, times=6.0
    ),
    "NEW_CONNECTION_ID with Retire Prior To": Flood(
        _full(
            lambda n: frame.write_new_connection_id(n + 10, n + 10, (n + 10).to_bytes(8, "big"), bytes(16))
        ),
        64 * KIB,
        survives=False,
    ),
    "RETIRE_CONNECTION_ID": Flood(_retired, 128 * KIB),
    "CRYPTO in pieces": Flood(_full(_crypto_comb), 2048 * KIB, times=8.0, survives=False),
    "STREAM frames far apart": Flood(_full(_far_apart), 2048 * KIB, times=8.0, survives=False),
    "streams opened and reset": Flood(_open_and_reset, 512 * KIB, times=8.0),
    "MAX_STREAM_DATA": Flood(_full(lambda n: frame.write_max_stream_data(0, n)), 128 * KIB, times=6.0),
    "STREAM_DATA_BLOCKED": Flood(
        _full(lambda n: frame.write_stream_data_blocked(0, n)), 128 * KIB, times=6.0
    ),
    "PING": Flood(_full(lambda n: frame.write_ping()), 128 * KIB, times=30.0),
    "ACK of a thousand ranges": Flood(_ranges, 2048 * KIB, times=100.0, count=3),
    "ACK again and again": Flood(_acks, 128 * KIB, times=14.0),
    "packets replayed": Flood(_replayed, 128 * KIB, times=1.0),
    "packets that do not open": Flood(_forged, 128 * KIB, times=1.0),
    "guesses at a reset token": Flood(_resets, 128 * KIB, times=1.0),
    "zero-length and tiny datagrams": Flood(
        lambda attacker, count: [b"", b"\x40", b"\xc0"] * count, 128 * KIB, 1.0
    ),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_flood(flood: Flood) -> None:
    attacker = Attacker()
    packets = flood.make(
        attacker, flood.count
    )  # before the attacker's numbers make the real client's unreadable
    meter = Meter(attacker.pair.server_host)
    normal = meter.run(ordinary(attacker, 200))
    cost = meter.run(packets)
    assert cost.per_datagram <= flood.times * normal.per_datagram
    assert (attacker.pair.server.conn.state is State.CONNECTED) is flood.survives


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_flood_memory(flood: Flood) -> None:
    attacker = Attacker()
    packets = flood.make(attacker, flood.count)
    meter = Meter(attacker.pair.server_host)
    meter.run(pings(attacker, 10))
    cost = meter.run_traced(packets)
    assert cost.held <= flood.memory
    assert cost.peak <= 2 * flood.memory


# --- from many addresses ------------------------------------------------------------------------------


def _elsewhere(number: int) -> Address:
    return (f"203.0.{number >> 8 & 255}.{number & 255}", 1024 + number % 60_000)


def _initials(server: Host, count: int) -> list[bytes]:
    """First datagrams of clients that are honest but for never being heard of again."""
    network = Network(99)
    for number in range(count):
        Host(network, _elsewhere(number), 1000 + number).connect(SERVER)
    return [datagram.data for datagram in network.log]


def test_initials_from_many_addresses_turn_retry_on() -> None:
    """CVE-2026-14456: half-open connections stay few; a client that proves its address gets through all the while."""
    pair = make_pair().establish()
    server, network = pair.server_host, pair.network
    meter = Meter(server)
    normal = Attacker()
    yardstick = Meter(normal.pair.server_host)
    ordinary_cost = yardstick.run(ordinary(normal, 200))
    flood = _initials(server, 1500)
    meter.run(flood[: limits.RETRY_ABOVE], sources=_elsewhere)
    full = len(server.endpoint)
    assert full <= limits.RETRY_ABOVE + 1
    cost = meter.run(flood[limits.RETRY_ABOVE :], sources=lambda n: _elsewhere(n + 5000))
    assert len(server.endpoint) <= full
    assert cost.per_datagram <= 4 * ordinary_cost.per_datagram
    late = Host(network, ("198.51.100.9", 77), 5).connect(SERVER)
    network.run(lambda: late.confirmed, 5.0)
    assert late.conn.retry_scid is not None
    network.run_for(limits.HANDSHAKE_TIMEOUT + 1)
    assert len(server.endpoint) <= 2
    after = Host(network, ("198.51.100.10", 78), 6).connect(SERVER)
    network.run(lambda: after.confirmed, 5.0)
    assert after.conn.retry_scid is None  # peace again


def test_initials_cost_little_memory() -> None:
    pair = make_pair().establish()
    cost = Meter(pair.server_host).run_traced(_initials(pair.server_host, 300), sources=_elsewhere)
    assert cost.held <= limits.RETRY_ABOVE * 64 * KIB


def test_a_flood_of_unknown_ids_is_answered_within_reason() -> None:
    """RFC 9000 §10.3: a stateless reset for what belongs to nobody, but not for all of it."""
    pair = make_pair().establish()
    rng = random.Random(3)
    before = len(pair.server_host.endpoint)
    link = pair.network.link(SERVER[0], CLIENT[0])
    sent = link.sent
    Meter(pair.server_host).run(bytes((FIXED_BIT,)) + rng.randbytes(100) for _ in range(2000))
    assert link.sent - sent <= 3 * limits.RESETS_PER_SECOND  # it took two seconds
    assert len(pair.server_host.endpoint) == before


def test_connections_closed_at_once_leave_nothing() -> None:
    """A client that connects, closes and starts again."""
    pair = make_pair().establish()
    network, server = pair.network, pair.server_host
    for number in range(150):
        app = Host(network, _elsewhere(number), 3000 + number).connect(SERVER)
        network.run(lambda app=app: app.confirmed)
        app.close()
        network.run_for(0.02)
    network.run_for(5.0)
    assert len(server.endpoint) == 1
    assert pair.server.conn.state is State.CONNECTED


def test_a_closed_connection_answers_less_and_less() -> None:
    attacker = Attacker()
    attacker.pair.server.close(7, "enough")
    attacker.pair.network.run_for(0.05)
    before = attacker.answers
    Meter(attacker.pair.server_host).run(pings(attacker, 100))
    assert attacker.answers - before <= 8


# --- beside an honest connection ----------------------------------------------------------------------

BESIDE = [
    "PATH_CHALLENGE",
    "ACK again and again",
    "streams opened and reset",
    "packets that do not open",
    "PING",
]


def _time_of_transfer(flood: Flood | None) -> float:
    """Virtual seconds that an honest client on a link of its own takes for 2 MB from the same server."""
    attacker = Attacker()
    network, server = attacker.pair.network, attacker.pair.server_host
    home = ("198.51.100.200", 5000)
    for link in (network.link(home[0], SERVER[0]), network.link(SERVER[0], home[0])):
        link.rate = 10e6
    honest = Host(network, home, 77).connect(SERVER)
    network.run(lambda: honest.confirmed)
    hostile = iter(flood.make(attacker, 1500)) if flood is not None else iter(())
    begin = network.now
    server.apps[-1].send(bytes(2_000_000))
    while not honest.ended:
        for packet in itertools.islice(hostile, 2):
            network.send(Datagram(CLIENT, SERVER, packet))
        network.run_for(0.002)
        assert network.now < begin + 20
    return network.now - begin


@pytest.mark.parametrize("name", BESIDE)
def test_an_honest_connection_keeps_its_speed(name: str) -> None:
    assert _time_of_transfer(FLOODS[name]) <= 1.2 * _time_of_transfer(None)

"""Floods: what each may cost its victim, in processor time as a multiple of ordinary traffic in the same run, and in
memory. And what an honest connection to the same server notices of it: nothing.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from quicfs.transport import frame_ack, limits
from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.frame import write_ping
from quicfs.transport.frame_datagram import write_datagram_header
from quicfs.transport.packet import FIXED_BIT
from quicfs.transport.state import State
from quicfs.transport.streams import UNI

from .endpoints import CLIENT, SERVER, Host, make_pair
from .floods import FLOODS, KIB, Flood, stream
from .hostile import Attacker, Meter, ordinary, pings
from .network import Address, Datagram, Network


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_flood(flood: Flood) -> None:
    attacker = Attacker()
    meter = Meter(attacker.pair.server_host)
    normal = meter.run(ordinary(attacker, 200))
    cost = meter.run(flood.make(attacker, flood.count))
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


def _thousand_ranges(attacker: Attacker) -> bytes:
    """An ACK frame of a thousand ranges, each of one packet that is under way, with one between them left out."""
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
    ack = frame_ack.write_ack([(pn, pn) for pn in reversed(chosen)], 0, None, 60_000)
    return attacker.seal(ack)


def test_ack_of_a_thousand_ranges() -> None:
    attacker = Attacker()
    packet = _thousand_ranges(attacker)
    meter = Meter(attacker.pair.server_host)
    normal = meter.run(ordinary(attacker, 200))
    cost = meter.run([packet])
    # It is as long as four packets, and each range takes what was lost around it out of the books.
    assert cost.per_datagram <= 500 * normal.per_datagram
    again = meter.run([attacker.seal(packet)])
    assert again.per_datagram <= 40 * normal.per_datagram


def test_datagrams_that_nobody_receives_do_not_pile_up() -> None:
    config = ConnectionConfig(parameters=replace(default_parameters(), max_datagram_frame_size=65_535))
    attacker = Attacker(server=config)
    meter = Meter(attacker.pair.server_host)
    content = write_datagram_header(1100) + bytes(1100)
    cost = meter.run_traced([attacker.seal(content) for _ in range(2000)])
    assert attacker.pair.server.conn.state is State.CONNECTED
    assert cost.held <= limits.MAX_DATAGRAM_BYTES_IN + 512 * KIB


def test_work_for_nothing_is_done_within_limits() -> None:
    """However fast it comes; and once the flood is over, the connection is as good as new."""
    attacker = Attacker()
    pair = attacker.pair
    work = pair.server.conn.work
    meter = Meter(pair.server_host)
    begin = pair.network.now
    meter.run(FLOODS["MAX_STREAM_DATA"].make(attacker, 1000))
    passed = pair.network.now - begin
    packet = 1000
    assert work.dropped > 800
    assert (
        pair.server.conn.application.received.packets < 100 + passed * limits.WORK_PER_SECOND / packet * 1.2
    )
    pair.network.run_for(1.0)
    before = work.dropped
    attacker.send(stream(8, 0, b"words"))
    assert work.dropped == before
    assert pair.server.conn.streams.get(8) is not None


def test_small_requests_on_streams_of_their_own_are_no_flood() -> None:
    """Two thousand of them as fast as the limits of streams allow, with losses."""
    pair = make_pair(5).establish()
    network = pair.network
    for link in (network.link(CLIENT[0], SERVER[0]), network.link(SERVER[0], CLIENT[0])):
        link.loss = 0.02
    client, server = pair.client, pair.server
    asked, begin = 0, network.now
    while asked < 2000:
        while asked < 2000 and client.conn.streams.can_open(UNI):
            client.write(client.open(unidirectional=True), b"GET /some/file/of/32/bytes\r\n", fin=True)
            asked += 1
        network.run_for(0.001)
        assert network.now < begin + 60
    network.run_for(2.0)
    assert server.conn.streams.counts[1] >= 2000
    assert not client.conn.work.dropped
    assert not server.conn.work.dropped


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
    assert cost.per_datagram <= 12 * ordinary_cost.per_datagram
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


def test_packets_from_many_addresses_are_few_paths() -> None:
    """Whoever knows the keys may say that it has moved with each packet; nobody hears more than three times what he
    sent, and the books stay small."""
    attacker = Attacker()
    pair = attacker.pair
    packets = [attacker.seal(write_ping()) for _ in range(400)]
    normal = Meter(pair.server_host).run(ordinary(attacker, 100))
    cost = Meter(pair.server_host).run(packets, sources=_elsewhere)
    assert len(pair.server.conn.paths) <= limits.MAX_PATHS
    assert cost.per_datagram <= 25 * normal.per_datagram
    for number in range(1, 401):
        link = pair.network.link(SERVER[0], _elsewhere(number)[0])
        assert link.bytes <= limits.AMPLIFICATION_FACTOR * len(packets[number - 1])
    assert len(pair.server_host.endpoint) <= 1


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

BESIDE = [name for name, flood in FLOODS.items() if flood.survives]


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


def test_acknowledgements_that_nobody_acknowledges_are_forgotten() -> None:
    attacker = Attacker()
    Meter(attacker.pair.server_host).run(pings(attacker, 3 * limits.MAX_ACK_ONLY_RUNS))
    history = attacker.pair.server.conn.application.sent
    assert sum(not run.in_flight for run in history) <= limits.MAX_ACK_ONLY_RUNS

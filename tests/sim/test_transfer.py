"""Bulk transfer: over clean paths, through queues, and under loss, reordering, duplication and corruption."""

from __future__ import annotations

import random

import pytest

from quicfs.transport.config import ConnectionConfig
from quicfs.transport.uapi import CongestionAlgo

from .endpoints import Pair, both_ways, make_pair


def transfer(pair: Pair, size: int, limit: float = 60.0) -> float:
    """Both ways on one stream; the seconds that it took."""
    rng = random.Random(size)
    there, back = rng.randbytes(size), rng.randbytes(size)
    start = pair.network.now
    stream = pair.client.send(there)
    pair.run(lambda: stream.stream_id in pair.server.accepted, limit)
    pair.server.write(pair.server.stream(stream.stream_id), back, fin=True)
    pair.run(lambda: stream.stream_id in pair.server.ended and stream.stream_id in pair.client.ended, limit)
    assert pair.server.received[stream.stream_id] == there
    assert pair.client.received[stream.stream_id] == back
    return pair.network.now - start


def test_handshake_takes_one_round_trip_and_the_answer_another() -> None:
    pair = make_pair(prepare=lambda network: both_ways(network, delay=0.05))
    start = pair.network.now
    pair.run(lambda: pair.client.tls.complete)
    assert pair.network.now - start < 0.11 + 0.001
    pair.establish()
    assert pair.network.now - start == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("algorithm", [CongestionAlgo.RENO, CongestionAlgo.CUBIC])
@pytest.mark.parametrize(
    ("rate", "delay", "seconds"), [(10e6, 0.015, 3.0), (50e6, 0.05, 2.0), (200e6, 0.002, 0.3)]
)
def test_uses_the_bandwidth(rate: float, delay: float, seconds: float, algorithm: int) -> None:
    config = ConnectionConfig(congestion=algorithm)
    queue = max(40_000, int(rate * delay / 4))  # one bandwidth-delay product
    pair = make_pair(
        client=config,
        server=config,
        prepare=lambda network: both_ways(network, rate=rate, delay=delay, queue=queue),
    ).establish()
    size = int(rate * seconds / 8)
    stream = pair.client.send(bytes(size))
    start = pair.network.now
    pair.run(lambda: stream.stream_id in pair.server.ended)
    took = pair.network.now - start
    assert len(pair.server.received[stream.stream_id]) == size
    assert seconds <= took < seconds * 1.4


def test_unlimited_link() -> None:
    pair = make_pair(prepare=lambda network: both_ways(network, delay=0.0001), mtu=65_507).establish()
    took = transfer(pair, 20_000_000)
    assert took < 0.3
    assert pair.client.conn.path.pmtud.current == 65_507
    assert pair.client.conn.recovery.stats.packets_lost == 0
    assert pair.client_host.transmitted + pair.server_host.transmitted < 3000


TROUBLE = {
    "loss": {"loss": 0.02},
    "heavy loss": {"loss": 0.1},
    "reordering": {"reorder": 0.1},
    "duplication": {"duplicate": 0.2},
    "corruption": {"corrupt": 0.02},
    "everything": {"loss": 0.02, "reorder": 0.05, "duplicate": 0.05, "corrupt": 0.02},
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE.keys())
def test_under(trouble: dict[str, float], seed: int) -> None:
    pair = make_pair(seed, prepare=lambda network: both_ways(network, rate=50e6, **trouble))
    pair.establish()
    transfer(pair, 700_000)


def test_reordering_alone_loses_little() -> None:
    """Packets that overtake others by less than the thresholds are not sent again."""
    pair = make_pair(
        prepare=lambda network: both_ways(network, reorder=0.05, reorder_delay=0.0005, rate=20e6)
    ).establish()
    transfer(pair, 2_000_000)
    stats = pair.client.conn.recovery.stats
    assert stats.packets_lost < stats.packets_sent * 0.02


def test_same_seed_same_run() -> None:
    def run() -> list[tuple[int, int]]:
        pair = make_pair(7, prepare=lambda network: both_ways(network, loss=0.05, reorder=0.05, rate=50e6))
        pair.establish()
        transfer(pair, 200_000)
        return [(len(datagram.data), datagram.ecn) for datagram in pair.network.log]

    assert run() == run()


def test_many_streams_share_the_path() -> None:
    pair = make_pair(prepare=lambda network: both_ways(network, rate=50e6, loss=0.01)).establish()
    rng = random.Random(3)
    sent = {}
    for number in range(60):
        data = rng.randbytes(rng.randrange(60_000))
        sent[pair.client.send(data, unidirectional=number % 2 == 0).stream_id] = data
    pair.run(lambda: pair.server.ended >= sent.keys())
    assert {stream_id: bytes(pair.server.received[stream_id]) for stream_id in sent} == sent


def test_streams_take_turns() -> None:
    pair = make_pair(prepare=lambda network: both_ways(network, rate=20e6)).establish()
    first = pair.client.send(bytes(2_000_000))
    second = pair.client.send(bytes(2_000_000))
    pair.run(lambda: bool(pair.server.ended))
    done = len(pair.server.received[first.stream_id]), len(pair.server.received[second.stream_id])
    assert min(done) > 1_500_000


def test_small_messages_back_and_forth() -> None:
    """A request and its answer cost one round trip: nothing waits for a timer."""
    pair = make_pair(prepare=lambda network: both_ways(network, delay=0.02)).establish()
    stream = pair.client.open()

    def echo(app: object, _: object) -> None:
        data = bytes(pair.server.received[stream.stream_id])
        pair.server.received[stream.stream_id].clear()
        if data:
            pair.server.write(pair.server.stream(stream.stream_id), data)

    pair.server.on_data = echo
    start = pair.network.now
    for number in range(50):
        message = number.to_bytes(4, "big") * 20
        pair.client.received[stream.stream_id].clear()
        pair.client.write(stream, message)
        pair.run(lambda message=message: pair.client.received[stream.stream_id] == message)  # type: ignore[misc]
    assert pair.network.now - start == pytest.approx(50 * 0.04, rel=0.01)


def test_tail_loss_is_repaired_by_a_probe() -> None:
    """The last packets of a burst vanish: no later ACK reveals it, the probe timeout does."""
    pair = make_pair(prepare=lambda network: both_ways(network, delay=0.02)).establish()
    link = pair.network.link(pair.client_host.address[0], pair.server_host.address[0])
    link.up = False
    stream = pair.client.send(b"x" * 3000)
    link.up = True
    start = pair.network.now
    pair.run(lambda: stream.stream_id in pair.server.ended)
    assert pair.network.now - start < 0.3
    assert pair.client.conn.recovery.stats.ptos >= 1


def test_outage_of_two_seconds() -> None:
    pair = make_pair(prepare=lambda network: both_ways(network, rate=10e6, delay=0.015)).establish()
    data = random.Random(9).randbytes(4_000_000)
    stream = pair.client.send(data)
    pair.network.run_for(1.0)
    both_ways(pair.network, up=False)
    pair.network.run_for(2.0)
    both_ways(pair.network, up=True)
    start = pair.network.now
    pair.run(lambda: stream.stream_id in pair.server.ended)
    assert pair.server.received[stream.stream_id] == data
    assert pair.network.now - start < 6.0

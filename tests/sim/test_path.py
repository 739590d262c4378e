"""What the path does to datagrams: sizes, black holes, ECN, probe timeouts."""

from __future__ import annotations

import pytest

from quicfs.transport.config import ConnectionConfig
from quicfs.transport.ecn import EcnState

from .endpoints import CLIENT, SERVER, both_ways, make_pair

# --- DPLPMTUD ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interface", "path"),
    [(1472, 1472), (8972, 8972), (65_507, 65_507), (65_507, 8972), (8972, 1472), (1472, 1392)],
)
def test_finds_the_size_of_the_path(interface: int, path: int) -> None:
    pair = make_pair(mtu=interface, prepare=lambda network: both_ways(network, mtu=path)).establish()
    stream = pair.client.send(bytes(300_000))
    pair.run(lambda: stream.stream_id in pair.server.ended)
    pair.network.run_for(5.0)
    assert pair.client.conn.path.pmtud.current == path
    assert pair.server.conn.path.pmtud.current == path


def test_probes_do_not_count_as_congestion() -> None:
    pair = make_pair(mtu=65_507, prepare=lambda network: both_ways(network, mtu=1472)).establish()
    pair.network.run_for(5.0)
    assert not pair.client.conn.recovery.cong.in_recovery
    assert pair.client.conn.recovery.stats.packets_lost == 0


def test_a_narrow_path_is_found_while_data_flow() -> None:
    """The probe comes early in a transfer, not when it is over."""
    pair = make_pair(
        mtu=8972, prepare=lambda network: both_ways(network, rate=100e6, delay=0.005)
    ).establish()
    stream = pair.client.send(bytes(3_000_000))
    pair.run(lambda: len(pair.server.received[stream.stream_id]) > 300_000)
    assert pair.client.conn.path.pmtud.current == 8972


def test_a_sender_that_never_pauses_probes_too() -> None:
    pair = make_pair(mtu=8972, prepare=lambda network: both_ways(network, delay=0.0001))
    stream = None

    def more(app: object, _: object) -> None:
        assert stream is not None
        pair.client.write(stream, bytes(40_000))

    pair.run(lambda: pair.client.tls.complete)
    stream = pair.client.open()
    pair.client.write(stream, bytes(2_000_000))
    pair.run(lambda: bool(pair.server_host.apps))
    pair.server.on_data = more
    pair.run(lambda: len(pair.server.received[stream.stream_id]) > 400_000)
    assert pair.client.conn.path.pmtud.current == 8972


def test_black_hole() -> None:
    """The path becomes narrower in the middle of a transfer and tells nobody."""
    pair = make_pair(mtu=8972, prepare=lambda network: both_ways(network, rate=50e6, delay=0.005)).establish()
    stream = pair.client.send(bytes(4_000_000))
    pair.run(lambda: len(pair.server.received[stream.stream_id]) > 1_000_000)
    assert pair.client.conn.path.pmtud.current == 8972
    both_ways(pair.network, mtu=1400)
    start = pair.network.now
    pair.run(lambda: stream.stream_id in pair.server.ended, 30)
    assert pair.network.now - start < 10
    assert pair.client.conn.path.pmtud.current <= 1400


def test_narrow_path_for_large_answers_only() -> None:
    pair = make_pair(mtu=1472).establish()
    pair.network.link(SERVER[0], CLIENT[0]).mtu = 1300
    stream = pair.server.send(bytes(500_000))
    pair.run(lambda: stream.stream_id in pair.client.ended, 30)
    assert pair.server.conn.path.pmtud.current <= 1300


# --- ECN ---------------------------------------------------------------------------------------------


def test_clean_path_is_found_capable() -> None:
    pair = make_pair().establish()
    stream = pair.client.send(bytes(200_000))
    pair.run(lambda: stream.stream_id in pair.server.ended)
    pair.network.run_for(1.0)
    assert pair.client.conn.path.ecn.state is EcnState.CAPABLE
    assert all(datagram.ecn in {0, 2} for datagram in pair.network.log)
    marked = sum(1 for datagram in pair.network.log if datagram.ecn == 2 and datagram.source == CLIENT)
    assert marked > 100


def test_marks_slow_the_sender_without_loss() -> None:
    def prepare(network: object) -> None:
        both_ways(network, rate=20e6, delay=0.01, queue=400_000, mark_above=30_000)  # type: ignore[arg-type]

    pair = make_pair(prepare=prepare).establish()
    stream = pair.client.send(bytes(5_000_000))
    pair.run(lambda: stream.stream_id in pair.server.ended)
    link = pair.network.link(CLIENT[0], SERVER[0])
    assert link.marked > 0
    assert link.dropped == 0
    assert pair.client.conn.recovery.stats.packets_lost == 0
    assert pair.client.conn.recovery.cong.ssthresh < 1 << 40
    assert pair.client.conn.path.ecn.state is EcnState.CAPABLE


def test_router_that_clears_the_bits() -> None:
    pair = make_pair(prepare=lambda network: both_ways(network, bleach=True)).establish()
    stream = pair.client.send(bytes(200_000))
    pair.run(lambda: stream.stream_id in pair.server.ended)
    assert pair.client.conn.path.ecn.state is EcnState.FAILED
    assert pair.network.log[-1].ecn == 0


def test_router_that_drops_marked_packets() -> None:
    def prepare(network: object) -> None:
        both_ways(network, drop=lambda datagram: datagram.ecn != 0)  # type: ignore[arg-type]

    pair = make_pair(prepare=prepare).establish()
    stream = pair.client.send(bytes(200_000))
    pair.run(lambda: stream.stream_id in pair.server.ended)


def test_ecn_can_be_switched_off() -> None:
    pair = make_pair(client=ConnectionConfig(ecn=False), server=ConnectionConfig(ecn=False)).establish()
    stream = pair.client.send(bytes(100_000))
    pair.run(lambda: stream.stream_id in pair.server.ended)
    assert all(datagram.ecn == 0 for datagram in pair.network.log)


# --- probe timeouts ----------------------------------------------------------------------------------


def test_probes_back_off_when_nothing_comes_back() -> None:
    pair = make_pair(prepare=lambda network: both_ways(network, delay=0.05)).establish()
    pair.network.run_for(1.0)
    both_ways(pair.network, up=False)
    link = pair.network.link(CLIENT[0], SERVER[0])
    before = link.sent
    pair.client.send(bytes(100_000))
    pair.network.run_for(1.0)
    early = link.sent - before
    pair.network.run_for(20.0)
    late = link.sent - before - early
    assert late <= 14  # two at most for each doubling
    assert early < 100


def test_recovers_after_persistent_congestion() -> None:
    pair = make_pair(prepare=lambda network: both_ways(network, rate=10e6, delay=0.02)).establish()
    stream = pair.client.send(bytes(2_000_000))
    pair.network.run_for(0.5)
    for _ in range(3):
        both_ways(pair.network, loss=0.97)
        pair.network.run_for(2.0)
        both_ways(pair.network, loss=0.0)
        pair.network.run_for(0.3)
    pair.run(lambda: stream.stream_id in pair.server.ended, 30)

"""What the soak has found, each as a test of its own."""

from __future__ import annotations

import pytest

from quicfs.transport.config import ConnectionConfig, default_parameters

from .endpoints import CLIENT, SERVER, both_ways, make_pair


@pytest.mark.parametrize("delay_ms", [0, 5, 100])
def test_acknowledgements_wait_no_longer_than_the_peer_was_told(delay_ms: int) -> None:
    """A peer whose probe timeout counts on less would probe for ever."""
    parameters = default_parameters()
    parameters.max_ack_delay_ms = delay_ms
    pair = make_pair(
        server=ConnectionConfig(parameters=parameters, probe_mtu=False),
        client=ConnectionConfig(probe_mtu=False),
        prepare=lambda network: both_ways(network, delay=0.001),
    ).establish()
    pair.network.run_for(1.0)
    start = pair.network.now
    pair.client.send(b"one packet")
    pair.run(lambda: pair.client.conn.recovery.bytes_in_flight == 0, 1.0)
    assert pair.network.now - start == pytest.approx(0.002 + delay_ms / 1000, abs=0.0005)
    assert pair.client.conn.recovery.stats.ptos == 0


def test_what_does_not_fit_into_the_congestion_window_waits() -> None:
    pair = make_pair().establish()
    recovery = pair.client.conn.recovery
    pair.client.send(bytes(500_000))
    full = 0

    def check() -> bool:
        nonlocal full
        assert recovery.bytes_in_flight <= recovery.cong.cwnd
        full += recovery.window < 1472
        return bool(pair.server.ended)

    pair.run(check)
    assert full


def test_a_black_hole_is_found_although_the_oldest_packet_is_small() -> None:
    pair = make_pair().establish()
    pair.network.run_for(1.0)
    assert pair.client.conn.path.pmtud.current == 1472
    link = pair.network.link(CLIENT[0], SERVER[0])
    link.up = False
    pair.client.send(b"small")
    link.up, link.mtu = True, 1250
    stream = pair.client.send(bytes(50_000))
    pair.run(lambda: stream.stream_id in pair.server.ended, 30.0)


def test_a_valid_address_is_kept_when_the_link_dies_before_large_datagrams_were_seen_on_it() -> None:
    """The server may send little to a new address: its first challenge is a small one."""
    pair = make_pair(prepare=lambda network: both_ways(network, delay=0.05)).establish()
    pair.network.run_for(100.0 * pair.server.conn.recovery.rtt.smoothed)
    network, server = pair.network, pair.server.conn
    network.rebind(CLIENT, (CLIENT[0], CLIENT[1] + 1))
    pair.client.send(b"here I am")
    pair.run(lambda: server.path.remote != CLIENT and server.path.validated)
    assert server.path.challenge is not None  # the full-sized one
    both_ways(network, up=False)
    network.run_for(20.0)
    both_ways(network, up=True)
    stream = pair.client.send(b"and still am")
    pair.run(lambda: stream.stream_id in pair.server.ended)


def test_a_client_that_moved_still_listens_where_it_was() -> None:
    """The server did not hear of the move in time, and needs another connection ID to follow."""
    parameters = default_parameters()
    parameters.active_connection_id_limit = 2
    config = ConnectionConfig(parameters=parameters)
    pair = make_pair(client=config, server=config).establish()
    pair.network.run_for(1.0)
    network, client = pair.network, pair.client.conn
    local = pair.client_host.attach(("203.0.113.1", 60_000))
    client.migrate(network.now, local)
    pair.client_host.flush()
    network.run_for(0.015)  # the challenge has arrived, and the server's own is on its way
    network.link(local[0], SERVER[0]).up = False
    pair.run(lambda: client.path.local == local)
    pair.client.send(b"nobody hears this")
    network.run_for(5.0)
    network.link(local[0], SERVER[0]).up = True
    stream = pair.client.send(b"here I am")
    pair.run(lambda: stream.stream_id in pair.server.ended and not client.recovery.bytes_in_flight, 20.0)
    assert pair.server.conn.path.remote == local

"""Statistics of connections whose network is known."""

from __future__ import annotations

import dataclasses
import json

import pytest

from quicfs.transport.config import ConnectionConfig, default_parameters

from .endpoints import CLIENT, both_ways, make_pair
from .network import Network

SIZE = 400_000


def test_before_anything_came() -> None:
    stats = make_pair().client.conn.stats
    assert stats.handshake_time is None
    assert stats.rtt_smoothed is None and stats.rtt_min is None
    assert stats.slow_start_threshold is None
    assert stats.packets_received == stats.streams_open == 0
    assert stats.packets_sent == 1 and stats.bytes_sent == 1200
    assert stats.loss == 0.0


def test_a_transfer() -> None:
    pair = make_pair(prepare=lambda network: both_ways(network, delay=0.02)).establish()
    stream = pair.client.send(bytes(SIZE))
    pair.run(lambda: stream.stream_id in pair.server.ended)
    client, server = pair.client.conn.stats, pair.server.conn.stats
    assert client.handshake_time == pytest.approx(0.04, abs=0.01)
    assert client.rtt_min == pytest.approx(0.04, abs=0.001)
    assert client.rtt_smoothed is not None and client.rtt_smoothed >= 0.04
    assert client.mtu == 1472
    assert client.bytes_sent == server.bytes_received > SIZE
    assert client.packets_sent == server.packets_received
    assert client.packets_lost == client.bytes_retransmitted == client.congestion_events == 0
    assert (client.streams_opened, client.streams_accepted, client.streams_open) == (1, 0, 1)
    assert (server.streams_opened, server.streams_accepted, server.streams_open) == (0, 1, 1)
    assert client.ecn == "capable"
    assert server.ecn_received[0] > 0 and server.ecn_received[1:] == (0, 0)
    assert client.ecn_reported[0] > 0
    assert client.pacing_rate > client.congestion_window / 0.05


def test_losses() -> None:
    def lossy(network: Network) -> None:
        both_ways(network, loss=0.03)

    pair = make_pair(7, prepare=lossy).establish()
    stream = pair.client.send(bytes(SIZE))
    pair.run(lambda: stream.stream_id in pair.server.ended)
    stats = pair.client.conn.stats
    assert stats.packets_lost > 0 and stats.bytes_lost > 0 and stats.bytes_retransmitted > 0
    assert stats.congestion_events > 0
    assert stats.slow_start_threshold is not None
    assert stats.loss == stats.packets_lost / stats.packets_sent


def test_it_is_a_snapshot_and_can_be_written_as_json() -> None:
    pair = make_pair().establish()
    stats = pair.client.conn.stats
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.mtu = 9  # type: ignore[misc]
    pair.client.send(b"more")
    assert stats.streams_opened == 0
    shown = json.loads(json.dumps(stats.as_dict()))
    assert shown["mtu"] == stats.mtu and shown["ecn_received"] == list(stats.ecn_received)
    assert f"MTU {stats.mtu}" in str(stats)


def test_datagrams_key_updates_and_migrations() -> None:
    parameters = default_parameters()
    parameters.max_datagram_frame_size = 1000
    config = ConnectionConfig(parameters=parameters)
    pair = make_pair(client=config, server=config).establish()
    client, server = pair.client.conn, pair.server.conn
    pair.network.run_for(1.0)
    client.update_keys(pair.network.now)
    pair.network.rebind(CLIENT, ("203.0.113.9", 61_000))
    for _ in range(3):
        client.datagrams.send(b"x", pair.network.now)
    pair.client_host.flush()
    pair.network.run_for(1.0)
    assert client.stats.datagrams_sent == server.stats.datagrams_received == 3
    assert client.stats.datagrams_dropped == server.stats.datagrams_dropped == 0
    assert client.stats.key_updates == server.stats.key_updates == 1
    assert (client.stats.migrations, server.stats.migrations) == (0, 1)

"""Datagrams over paths that lose, and beside streams; fewer ACKs on request."""

from __future__ import annotations

import pytest

from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.errors import TransportErrorCode

from .endpoints import Pair, both_ways, make_pair
from .test_transfer import transfer


def accepting(size: int) -> ConnectionConfig:
    parameters = default_parameters()
    parameters.max_datagram_frame_size = size
    return ConnectionConfig(parameters=parameters)


def pair_with_datagrams(seed: int = 0, **link: float) -> Pair:
    pair = make_pair(seed, client=accepting(65_535), server=accepting(65_535))
    pair.establish()
    both_ways(pair.network, **link)
    return pair


def test_they_arrive_beside_a_stream() -> None:
    pair = pair_with_datagrams(delay=0.01, rate=50e6)
    stream = pair.client.send(bytes(1_000_000))
    for number in range(100):
        pair.client.conn.datagrams.send(b"%d" % number, pair.network.now)
    pair.client_host.flush()
    pair.run(lambda: stream.stream_id in pair.server.ended)
    received = pair.server.conn.datagrams.received
    assert [int(data) for data in received] == list(range(100))


def test_lost_ones_stay_lost_and_a_full_window_holds_them_back() -> None:
    pair = pair_with_datagrams(seed=3, delay=0.01, rate=1e6, loss=0.1)
    conn = pair.client.conn
    sent = 0
    for turn in range(40):
        while not conn.datagrams.full:
            conn.datagrams.send(sent.to_bytes(4, "big") + bytes(996), pair.network.now)
            sent += 1
        pair.client_host.flush()
        if not turn:  # later the window may have become smaller than what is under way
            assert conn.recovery.bytes_in_flight <= conn.recovery.cong.cwnd + 1500
        until = pair.network.now + 0.05
        pair.network.run(lambda until=until: pair.network.now >= until, 1.0)  # type: ignore[misc]
    pair.network.run(lambda: not conn.datagrams.outgoing and not conn.recovery.bytes_in_flight, 10.0)
    numbers = [int.from_bytes(data[:4], "big") for data in pair.server.conn.datagrams.received]
    assert len(set(numbers)) == len(numbers) > 50
    assert len(numbers) < sent
    assert conn.datagrams.dropped  # a megabit lets few through; the rest grew too old


def test_one_that_was_not_allowed_ends_the_connection() -> None:
    pair = make_pair(client=accepting(1000), server=ConnectionConfig())
    pair.establish()
    conn = pair.client.conn
    assert conn.datagrams.largest(1200) <= 0
    conn.datagrams.limit = 1000  # a peer that does not care
    conn.datagrams.send(b"x", pair.network.now)
    pair.client_host.flush()
    pair.run(lambda: conn.closed is not None)
    assert conn.closed is not None and conn.closed.code == TransportErrorCode.PROTOCOL_VIOLATION


@pytest.mark.parametrize(
    ("rate", "delay", "loss"), [(100e6, 0.02, 0.0), (20e6, 0.03, 0.0), (50e6, 0.02, 0.002)]
)
def test_fewer_acks_cost_no_throughput(rate: float, delay: float, loss: float) -> None:
    """draft-ietf-quic-ack-frequency: beside a receiver that acknowledges every second packet."""
    seconds, acks = [], []
    for fewer in (False, True):
        config = ConnectionConfig(ack_frequency=fewer)
        pair = make_pair(
            5, client=config, server=ConnectionConfig(), prepare=lambda n: both_ways(n, delay=delay)
        )
        pair.establish()
        both_ways(pair.network, rate=rate, queue=int(rate * delay) // 8, loss=loss)
        seconds.append(transfer(pair, int(rate / 8)))
        assert pair.client.conn.ack_frequency.asked is fewer
        acks.append(pair.server.conn.application.received.acks_sent)
        pair.client.close()
    assert seconds[1] < seconds[0] * 1.1
    assert acks[1] < acks[0] * 0.85

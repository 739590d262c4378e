"""Streams over the network: flow control, limits, resets, in all directions."""

from __future__ import annotations

import random

import pytest

from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.errors import MisuseError

from .endpoints import CLIENT, SERVER, Pair, both_ways, make_pair


def config(**parameters: int) -> ConnectionConfig:
    chosen = default_parameters()
    for name, value in parameters.items():
        assert hasattr(chosen, name)
        setattr(chosen, name, value)
    return ConnectionConfig(parameters=chosen)


def small_windows() -> ConnectionConfig:
    return config(
        initial_max_data=20_000,
        initial_max_stream_data_bidi_local=10_000,
        initial_max_stream_data_bidi_remote=10_000,
        initial_max_stream_data_uni=10_000,
    )


def settle(pair: Pair) -> None:
    pair.network.run_for(2.0)


# --- flow control ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_small_windows_still_carry_everything(loss: float) -> None:
    pair = make_pair(
        client=small_windows(), server=small_windows(), prepare=lambda network: both_ways(network, loss=loss)
    ).establish()
    data = random.Random(2).randbytes(300_000)
    stream = pair.client.send(data)
    pair.run(lambda: stream.stream_id in pair.server.ended, 120)
    assert pair.server.received[stream.stream_id] == data


def test_a_reader_that_stops_holds_the_sender() -> None:
    pair = make_pair(server=small_windows()).establish()
    pair.run(lambda: bool(pair.server_host.apps))
    pair.server.paused = True
    stream = pair.client.send(bytes(100_000))
    settle(pair)
    held = pair.server.stream(stream.stream_id).recv
    assert held is not None
    assert held.queue.available == 10_000
    pair.server.paused = False
    pair.server.step(pair.network.now)
    pair.server_host.flush()
    pair.run(lambda: stream.stream_id in pair.server.ended)
    assert len(pair.server.received[stream.stream_id]) == 100_000


def test_connection_window_is_shared() -> None:
    pair = make_pair(server=small_windows()).establish()
    pair.run(lambda: bool(pair.server_host.apps))
    pair.server.paused = True
    streams = [pair.client.send(bytes(8_000)) for _ in range(5)]
    settle(pair)
    held = 0
    for stream in streams:
        there = pair.server.conn.streams.get(stream.stream_id)
        if there is not None and there.recv is not None:
            held += there.recv.queue.available
    assert held == 20_000
    pair.server.paused = False
    pair.server.step(pair.network.now)
    pair.server_host.flush()
    pair.run(lambda: pair.server.ended >= {stream.stream_id for stream in streams})


def test_windows_grow_with_the_path() -> None:
    """100 ms and 100 Mbit/s need 1.25 MB under way; the first window is far smaller."""
    start = config(
        initial_max_data=150_000,
        initial_max_stream_data_bidi_remote=100_000,
    )
    pair = make_pair(
        server=start, prepare=lambda network: both_ways(network, rate=100e6, delay=0.05, queue=2_000_000)
    ).establish()
    size = 12_000_000
    stream = pair.client.send(bytes(size))
    began = pair.network.now
    pair.run(lambda: stream.stream_id in pair.server.ended)
    assert pair.network.now - began < 3.5
    recv_window = pair.server.conn.streams.recv_window
    assert recv_window.window > 1_000_000


# --- limits of streams -------------------------------------------------------------------------------


def test_no_more_streams_than_allowed_at_one_time() -> None:
    pair = make_pair(server=config(initial_max_streams_bidi=3, initial_max_streams_uni=2)).establish()
    pair.run(lambda: bool(pair.server_host.apps))
    for _ in range(3):
        pair.client.open()
    with pytest.raises(MisuseError):
        pair.client.open()
    for _ in range(2):
        pair.client.open(unidirectional=True)
    with pytest.raises(MisuseError):
        pair.client.open(unidirectional=True)


def test_closed_streams_make_room() -> None:
    """Many more streams than the limit, as fast as MAX_STREAMS comes."""
    limits = config(initial_max_streams_bidi=4)
    pair = make_pair(server=limits, prepare=lambda network: both_ways(network, loss=0.05)).establish()
    pair.run(lambda: bool(pair.server_host.apps))

    def answer(app: object, stream: object) -> None:
        for stream_id in list(pair.server.ended):
            there = pair.server.conn.streams.get(stream_id)
            if there is not None and there.send is not None and not there.send.finished:
                pair.server.conn.write_stream(there, b"ok", fin=True)

    pair.server.on_data = answer
    for number in range(40):
        pair.run(lambda: pair.client.conn.streams.can_open(0), 30)
        stream = pair.client.send(number.to_bytes(2, "big") * 100)
        assert stream.stream_id == number * 4
    pair.run(lambda: len(pair.client.ended) == 40)
    pair.run(lambda: len(pair.server.conn.streams) == len(pair.client.conn.streams) == 0)


def test_server_opens_streams_too() -> None:
    pair = make_pair().establish()
    pair.run(lambda: bool(pair.server_host.apps))
    bidi = pair.server.send(b"from the server")
    uni = pair.server.send(b"one way", unidirectional=True)
    pair.run(lambda: pair.client.ended >= {bidi.stream_id, uni.stream_id})
    assert (bidi.stream_id, uni.stream_id) == (1, 3)
    assert pair.client.received[1] == b"from the server"
    assert pair.client.received[3] == b"one way"


# --- endings -----------------------------------------------------------------------------------------


def test_empty_stream_is_just_an_end() -> None:
    pair = make_pair().establish()
    stream = pair.client.send(b"")
    pair.run(lambda: bool(pair.server_host.apps) and stream.stream_id in pair.server.ended)
    assert pair.server.received[stream.stream_id] == b""


@pytest.mark.parametrize("seed", range(5))
def test_reset(seed: int) -> None:
    pair = make_pair(seed, prepare=lambda network: both_ways(network, loss=0.1, rate=10e6)).establish()
    stream = pair.client.open()
    pair.client.write(stream, bytes(500_000))
    pair.network.run_for(0.1)
    pair.client.conn.reset_stream(stream, 77)
    pair.client_host.flush()
    pair.run(lambda: stream.stream_id in pair.server.resets)
    assert pair.server.resets[stream.stream_id] == 77
    there = pair.server.stream(stream.stream_id)
    pair.server.write(there, b"bye", fin=True)  # the other direction lives on
    pair.run(lambda: stream.stream_id in pair.client.ended)
    assert pair.client.received[stream.stream_id] == b"bye"
    settle(pair)
    assert len(pair.client.conn.streams) == len(pair.server.conn.streams) == 0


def test_credit_of_a_reset_stream_comes_back() -> None:
    """Each stream takes all of the connection's window and is reset unread."""
    windows = config(initial_max_data=50_000, initial_max_stream_data_bidi_remote=50_000)
    pair = make_pair(server=windows).establish()
    pair.run(lambda: bool(pair.server_host.apps))
    pair.server.paused = True
    for number in range(5):
        stream = pair.client.open()
        pair.client.write(stream, bytes(50_000))
        settle(pair)
        pair.client.conn.reset_stream(stream, number)
        pair.client_host.flush()
        settle(pair)
        pair.server.read(pair.network.now)
        pair.server_host.flush()
    pair.server.paused = False
    stream = pair.client.send(bytes(50_000))
    pair.run(lambda: stream.stream_id in pair.server.ended)


@pytest.mark.parametrize("seed", range(5))
def test_stop_sending(seed: int) -> None:
    pair = make_pair(seed, prepare=lambda network: both_ways(network, loss=0.1, rate=10e6)).establish()
    stream = pair.client.open()
    pair.client.write(stream, bytes(500_000))
    pair.run(lambda: bool(pair.server_host.apps) and stream.stream_id in pair.server.accepted)
    pair.server.conn.stop_sending(pair.server.stream(stream.stream_id), 55)
    pair.server_host.flush()
    pair.run(lambda: stream.stream_id in pair.client.stops)
    assert pair.client.stops[stream.stream_id] == 55
    pair.run(lambda: stream.stream_id in pair.server.resets)
    with pytest.raises(MisuseError):
        pair.client.write(stream, b"more")


def test_reset_after_everything_arrived_changes_nothing() -> None:
    pair = make_pair().establish()
    stream = pair.client.send(b"all of it")
    pair.run(lambda: stream.stream_id in pair.server.ended)
    settle(pair)
    pair.client.conn.reset_stream(stream, 1)
    pair.client_host.flush()
    settle(pair)
    assert pair.server.received[stream.stream_id] == b"all of it"
    assert not pair.server.resets
    assert pair.client.conn.closed is None


def test_data_beside_a_blocked_stream_gets_through() -> None:
    """No head-of-line blocking: one reader sleeps, another stream goes on."""
    windows = config(initial_max_data=1_000_000, initial_max_stream_data_bidi_remote=10_000)
    pair = make_pair(server=windows).establish()
    pair.run(lambda: bool(pair.server_host.apps))
    asleep = pair.client.open()
    pair.server.paused = True
    pair.client.write(asleep, bytes(100_000))
    settle(pair)
    pair.server.conn.readable.clear()
    pair.server.paused = False
    awake = pair.client.send(bytes(200_000))
    pair.run(lambda: awake.stream_id in pair.server.ended)
    assert pair.network.link(CLIENT[0], SERVER[0]).dropped == 0


def test_a_blocked_peer_gets_less_than_half_a_window() -> None:
    """What two sleeping streams hold is most of the connection's window: what the third gives back is announced all the
    same, for the peer has nothing left."""
    windows = config(initial_max_data=1_000_000, initial_max_stream_data_bidi_remote=400_000)
    pair = make_pair(server=windows).establish()
    pair.run(lambda: bool(pair.server_host.apps))
    asleep = [pair.client.open() for _ in range(2)]
    pair.server.paused = True
    for stream in asleep:
        pair.client.write(stream, bytes(500_000))
    settle(pair)
    awake = pair.client.open()
    pair.client.write(awake, bytes(500_000), fin=True)
    settle(pair)
    for stream in asleep:
        pair.server.conn.readable.pop(pair.server.stream(stream.stream_id), None)
    pair.server.paused = False
    pair.server.read(pair.network.now)
    pair.server_host.flush()
    pair.run(lambda: awake.stream_id in pair.server.ended)


def test_a_peer_at_its_limit_of_streams_gets_one_for_each_that_closes() -> None:
    """Not half of the limit at a time, while the others live long."""
    pair = make_pair(server=config(initial_max_streams_bidi=8)).establish()
    pair.run(lambda: bool(pair.server_host.apps))
    streams = [pair.client.open() for _ in range(8)]
    for stream in streams:
        pair.client.write(stream, b"x")
    settle(pair)
    with pytest.raises(MisuseError):
        pair.client.open()
    pair.client.write(streams[3], b"", fin=True)
    settle(pair)
    answer = pair.server.stream(streams[3].stream_id)
    pair.server.write(answer, b"", fin=True)
    settle(pair)
    pair.client.open()
    with pytest.raises(MisuseError):
        pair.client.open()

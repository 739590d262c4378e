"""How connections end, and what keeps them alive: idle timeout, keep-alive, close, drain, stateless reset."""

from __future__ import annotations

import pytest

from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.errors import TransportErrorCode
from quicfs.transport.state import State

from .endpoints import CLIENT, SERVER, Host, Pair, both_ways, make_pair


def config(idle: float, keep_alive: float = 0.0) -> ConnectionConfig:
    parameters = default_parameters()
    parameters.max_idle_timeout_ms = int(idle * 1000)
    return ConnectionConfig(parameters=parameters, keep_alive=keep_alive)


def quiet(pair: Pair) -> Pair:
    """Let the handshake's leftovers and MTU probes settle."""
    pair.establish()
    pair.network.run_for(1.0)
    return pair


# --- idle timeout ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("client", "server", "effective"), [(5, 20, 5), (20, 5, 5), (5, 0, 5), (0, 5, 5)])
def test_the_smaller_idle_timeout_counts_for_both(client: float, server: float, effective: float) -> None:
    pair = quiet(make_pair(client=config(client), server=config(server)))
    start = pair.network.now - 1.0
    pair.run(lambda: pair.client.closed and pair.server.closed)
    assert pair.network.now - start == pytest.approx(effective, abs=0.5)
    assert "idle" in str(pair.client.conn.closed)
    assert len(pair.client_host.endpoint) == len(pair.server_host.endpoint) == 0


def test_no_idle_timeout_at_all() -> None:
    pair = quiet(make_pair(client=config(0), server=config(0)))
    pair.network.run_for(3600.0)
    stream = pair.client.send(b"still there?")
    pair.run(lambda: stream.stream_id in pair.server.ended)


def test_traffic_keeps_it_alive() -> None:
    pair = quiet(make_pair(client=config(3), server=config(3)))
    stream = pair.client.open()
    for _ in range(20):
        pair.network.run_for(2.0)
        pair.client.write(stream, b"x")
    assert not pair.client.closed
    assert pair.server.received[stream.stream_id] == b"x" * 19 or b"x" * 20


def test_keep_alive() -> None:
    pair = quiet(make_pair(client=config(3, keep_alive=1.0), server=config(3)))
    before = pair.network.link(CLIENT[0], SERVER[0]).sent
    pair.network.run_for(60.0)
    assert not pair.client.closed
    assert not pair.server.closed
    assert pair.network.link(CLIENT[0], SERVER[0]).sent - before < 130


def test_keep_alive_does_not_keep_a_dead_peer() -> None:
    pair = quiet(make_pair(client=config(5, keep_alive=1.0), server=config(5)))
    both_ways(pair.network, up=False)
    start = pair.network.now
    pair.run(lambda: pair.client.closed)
    assert pair.network.now - start < 12.0


# --- closing -----------------------------------------------------------------------------------------


def test_application_close_arrives_with_its_reason() -> None:
    pair = quiet(make_pair())
    pair.client.close(42, "enough")
    pair.run(lambda: pair.server.conn.closed is not None)
    closed = pair.server.conn.closed
    assert closed is not None
    assert (closed.code, closed.is_application, closed.reason, closed.remote) == (42, True, "enough", True)
    own = pair.client.conn.closed
    assert own is not None
    assert (own.code, own.remote) == (42, False)
    assert pair.client.conn.state is State.CLOSING
    assert pair.server.conn.state is State.DRAINING
    start = pair.network.now
    pair.run(lambda: pair.client.closed and pair.server.closed)
    assert pair.network.now - start < 1.0
    assert len(pair.client_host.endpoint) == len(pair.server_host.endpoint) == 0


def test_draining_says_nothing() -> None:
    pair = quiet(make_pair())
    pair.client.close(1, "x")
    pair.run(lambda: pair.server.conn.state is State.DRAINING)
    sent = pair.network.link(SERVER[0], CLIENT[0]).sent
    pair.run(lambda: pair.server.closed)
    assert pair.network.link(SERVER[0], CLIENT[0]).sent == sent


def test_lost_close_is_said_again() -> None:
    """The CONNECTION_CLOSE is lost; what the peer sends afterwards is answered with another."""
    pair = quiet(make_pair())
    link = pair.network.link(CLIENT[0], SERVER[0])
    link.up = False
    pair.client.close(9, "lost")
    link.up = True
    stream = pair.server.open()
    pair.server.write(stream, b"are you there?")
    pair.run(lambda: pair.server.conn.closed is not None, 5.0)
    assert pair.server.conn.closed is not None
    assert pair.server.conn.closed.code == 9


def test_a_closing_end_is_not_made_to_talk() -> None:
    """A flood towards a closing connection gets few answers."""
    pair = quiet(make_pair(prepare=lambda network: both_ways(network, rate=10e6)))
    link = pair.network.link(CLIENT[0], SERVER[0])
    stream = pair.server.open()
    pair.server.write(stream, bytes(2_000_000))
    pair.network.run_for(0.3)
    link.drop = lambda datagram: True
    before = link.sent
    pair.client.close(1, "stop")
    pair.run(lambda: pair.client.closed)
    assert link.sent - before < 20


def test_close_during_the_handshake() -> None:
    pair = make_pair()
    pair.run(lambda: bool(pair.server_host.apps))
    pair.server.close(0x100 + 42, "bad certificate", application=False)
    pair.run(lambda: pair.client.conn.closed is not None)
    closed = pair.client.conn.closed
    assert closed is not None
    assert (closed.code, closed.reason) == (0x12A, "bad certificate")


def test_application_close_during_the_handshake_hides_its_reason() -> None:
    pair = make_pair()
    pair.run(lambda: bool(pair.server_host.apps))
    pair.server.close(7, "secret reason")
    pair.run(lambda: pair.client.conn.closed is not None)
    closed = pair.client.conn.closed
    assert closed is not None
    assert closed.remote
    if not closed.is_application:
        assert closed.code == TransportErrorCode.APPLICATION_ERROR
        assert closed.reason == ""


def test_close_with_data_in_flight_frees_everything() -> None:
    pair = quiet(make_pair(prepare=lambda network: both_ways(network, rate=5e6)))
    pair.client.send(bytes(3_000_000))
    pair.network.run_for(0.5)
    pair.client.close()
    pair.run(lambda: pair.client.closed and pair.server.closed, 10)
    assert len(pair.server_host.endpoint) == 0


# --- stateless reset ---------------------------------------------------------------------------------


def test_server_that_lost_its_state_resets() -> None:
    """The same endpoint forgets the connection, as a restarted server with the same key would."""
    pair = quiet(make_pair())
    pair.server_host.endpoint.forget(pair.server.conn)
    start = pair.network.now
    pair.client.send(b"x" * 500)
    pair.run(lambda: pair.client.conn.closed is not None)
    assert pair.network.now - start < 0.1
    closed = pair.client.conn.closed
    assert closed is not None
    assert closed.remote
    assert pair.client.conn.state is State.DRAINING
    pair.run(lambda: pair.client.closed)


def test_another_servers_reset_means_nothing() -> None:
    """A restarted server with another key: the client notices by itself, in time."""
    pair = quiet(make_pair(client=config(4), server=config(4)))
    Host(pair.network, SERVER, 999).listen()
    pair.client.send(b"x" * 500)
    pair.network.run_for(2.0)
    assert pair.client.conn.closed is None
    pair.run(lambda: pair.client.closed)
    assert "idle" in str(pair.client.conn.closed)


def test_resets_do_not_answer_each_other_for_ever() -> None:
    pair = quiet(make_pair())
    pair.server_host.endpoint.forget(pair.server.conn)
    pair.client.send(b"x" * 500)
    pair.client_host.endpoint.forget(pair.client.conn)
    before = pair.network.link(SERVER[0], CLIENT[0]).sent + pair.network.link(CLIENT[0], SERVER[0]).sent
    pair.network.run_for(10.0)
    after = pair.network.link(SERVER[0], CLIENT[0]).sent + pair.network.link(CLIENT[0], SERVER[0]).sent
    assert after - before < 60

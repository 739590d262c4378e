"""Paths that change under a connection: NAT rebinding, spoofed addresses, migration, preferred addresses."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from quicfs.transport import limits, rotation
from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.ecn import EcnState
from quicfs.transport.errors import MisuseError
from quicfs.transport.state import State
from quicfs.transport.uapi import ConnectionIdInfo

from .endpoints import CLIENT, SERVER, Pair, both_ways, make_pair
from .network import Address, Datagram, Network

ELSEWHERE: Address = ("203.0.113.9", 61_000)


def transfer(pair: Pair, size: int = 600_000) -> dict[int, bytes]:
    """Start streams in both directions; what each has to deliver, by stream ID."""
    rng = random.Random(size)
    data = {}
    for app in (pair.client, pair.client, pair.server, pair.server):
        content = rng.randbytes(size)
        data[app.send(content).stream_id] = content
    return data


def finish(pair: Pair, data: dict[int, bytes], limit: float = 60.0) -> None:
    """Run until everything is delivered, and check it."""
    pair.run(lambda: len(pair.client.ended) + len(pair.server.ended) == len(data), limit)
    for stream_id, content in data.items():
        receiver = pair.server if stream_id in pair.server.ended else pair.client
        assert receiver.received[stream_id] == content


def slow(network: Network) -> None:
    both_ways(network, rate=10e6, delay=0.015, queue=40_000)


def sent_to(pair: Pair, address: Address) -> int:
    return sum(len(datagram.data) for datagram in pair.network.log if datagram.destination == address)


def sent_from(pair: Pair, address: Address) -> int:
    return sum(len(datagram.data) for datagram in pair.network.log if datagram.source == address)


# --- NAT rebinding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["port", "address"])
@pytest.mark.parametrize("loss", [0.0, 0.03])
def test_rebinding_during_transfers(what: str, loss: float) -> None:
    pair = make_pair(prepare=slow).establish()
    both_ways(pair.network, loss=loss)
    data = transfer(pair)
    for number in range(1, 6):
        pair.network.run_for(0.25)
        host = CLIENT[0] if what == "port" else f"203.0.113.{number}"
        pair.network.rebind(CLIENT, (host, 40_000 + number))
    finish(pair, data)
    pair.network.run_for(5.0)
    last = (CLIENT[0] if what == "port" else "203.0.113.5", 40_005)
    assert pair.server.conn.path.remote == last
    assert pair.server.conn.path.validated
    assert len(pair.server.conn.paths) == 1


def test_rebinding_while_idle() -> None:
    pair = make_pair().establish()
    pair.network.run_for(5.0)
    pair.network.rebind(CLIENT, ELSEWHERE)
    finish(pair, transfer(pair, 50_000))
    assert pair.server.conn.path.remote == ELSEWHERE


def test_the_first_packet_to_a_new_address_is_a_challenge_and_limited() -> None:
    pair = make_pair(prepare=slow).establish()
    data = transfer(pair)
    pair.network.run_for(0.3)
    pair.network.rebind(CLIENT, ELSEWHERE)
    server = pair.server.conn
    pair.run(lambda: server.path.remote == ELSEWHERE)
    while not server.path.validated:
        assert sent_to(pair, ELSEWHERE) <= limits.AMPLIFICATION_FACTOR * sent_from(pair, ELSEWHERE)
        pair.network.run_for(0.001)
    finish(pair, data)


def test_a_changed_port_keeps_what_is_known_of_the_network_and_a_changed_host_does_not() -> None:
    for outside, kept in (((CLIENT[0], 1234), True), (ELSEWHERE, False)):
        pair = make_pair(prepare=slow).establish()
        finish(pair, transfer(pair))
        before = pair.server.conn.recovery.cong
        pair.network.rebind(CLIENT, outside)
        finish_stream = pair.client.send(bytes(100))
        pair.run(lambda: finish_stream.stream_id in pair.server.ended)  # noqa: B023
        assert (pair.server.conn.recovery.cong is before) is kept


# --- somebody else's address -------------------------------------------------------------------------


def copier(pair: Pair, sources: list[Address], chance: float = 0.2) -> None:
    """An attacker beside the path who sees the client's datagrams and overtakes them from other addresses."""
    rng = random.Random(1)
    link = pair.network.link(CLIENT[0], SERVER[0])
    for source in sources:
        fast = pair.network.link(source[0], SERVER[0])
        fast.delay = link.delay / 2

    def watch(datagram: Datagram) -> bool:
        if datagram.source == CLIENT and rng.random() < chance:
            copy = Datagram(rng.choice(sources), SERVER, datagram.data)
            pair.network.send(copy)
        return False

    link.drop = watch


def test_copies_from_elsewhere_neither_amplify_nor_steal() -> None:
    pair = make_pair(prepare=slow).establish()
    sources = [(f"203.0.113.{n}", 7000 + n) for n in range(1, 9)]
    copier(pair, sources)
    finish(pair, transfer(pair), limit=120)
    for source in sources:
        assert sent_to(pair, source) <= limits.AMPLIFICATION_FACTOR * sent_from(pair, source)
        assert len(pair.server.conn.paths) <= limits.MAX_PATHS
    pair.network.link(CLIENT[0], SERVER[0]).drop = None
    pair.network.run_for(10.0)
    last = pair.client.send(bytes(1000))
    pair.run(lambda: last.stream_id in pair.server.ended)
    assert pair.server.conn.path.remote == CLIENT


def test_an_address_that_does_not_answer_is_left_again() -> None:
    """The attacker's copy overtakes the last packet of a client that then is silent (RFC 9000 §9.3.2)."""
    pair = make_pair().establish()
    copier(pair, [ELSEWHERE], chance=1.0)
    stream = pair.client.send(bytes(500))
    pair.run(lambda: pair.server.conn.path.remote == ELSEWHERE)
    pair.network.link(CLIENT[0], SERVER[0]).drop = None
    pair.network.run_for(10.0)
    assert stream.stream_id in pair.server.ended
    assert pair.server.conn.path.remote == CLIENT
    assert len(pair.server.conn.paths) == 1


def test_forged_packets_leave_no_trace() -> None:
    pair = make_pair().establish()
    rng = random.Random(3)
    cid = next(d.data[1:9] for d in pair.network.log if d.source == CLIENT and not d.data[0] & 0x80)
    for _ in range(50):
        forged = bytes((0x40 | rng.randrange(64),)) + cid + rng.randbytes(400)
        pair.network.send(Datagram(ELSEWHERE, SERVER, forged))
    pair.network.run_for(1.0)
    assert len(pair.server.conn.paths) == 1
    assert sent_to(pair, ELSEWHERE) == 0


def test_a_client_does_not_listen_to_other_servers() -> None:
    pair = make_pair().establish()
    pair.network.rebind(SERVER, ("192.0.2.77", 443))
    received = pair.client.conn.application.received.largest
    stream = pair.server.send(bytes(3000))
    pair.network.run_for(5.0)
    assert stream.stream_id not in pair.client.ended
    assert pair.client.conn.application.received.largest == received


def test_nobody_valid_to_return_to_ends_in_silence() -> None:
    pair = make_pair(prepare=lambda network: both_ways(network, delay=0.05)).establish()
    server = pair.server.conn
    pair.network.rebind(CLIENT, ELSEWHERE)
    pair.client.send(bytes(100))
    pair.run(lambda: server.path.remote == ELSEWHERE)
    both_ways(pair.network, up=False)
    pair.network.run_for(40.0)
    assert server.state is State.CLOSED


# --- migration by the client -------------------------------------------------------------------------


def test_migration_with_streams_in_flight() -> None:
    pair = make_pair(prepare=slow).establish()
    data = transfer(pair)
    pair.network.run_for(0.3)
    old_dcid = pair.client.conn.peer_cids.current
    here = pair.client_host.attach(("198.51.100.8", 50_001))
    for source, destination in ((here[0], SERVER[0]), (SERVER[0], here[0])):
        link = pair.network.link(source, destination)
        link.rate, link.delay, link.queue = 20e6, 0.03, 40_000
    pair.client.conn.migrate(pair.network.now, here)
    pair.client_host.flush()
    assert pair.client.conn.path.local == CLIENT  # not before the new path is valid
    finish(pair, data)
    assert pair.client.conn.path.local == here
    assert pair.server.conn.path.remote == here
    pair.network.run_for(5.0)
    assert len(pair.client.conn.paths) == len(pair.server.conn.paths) == 1
    assert pair.client.conn.peer_cids.current != old_dcid
    assert old_dcid.sequence not in pair.client.conn.peer_cids  # retired
    assert pair.server.conn.peer_cids.current.sequence != 0  # RFC 9000 §9.5: the server too


def test_migration_to_where_nothing_answers_is_given_up() -> None:
    pair = make_pair().establish()
    here = pair.client_host.attach(("198.51.100.8", 50_001))
    pair.network.link(SERVER[0], here[0]).up = False
    pair.client.conn.migrate(pair.network.now, here)
    finish(pair, transfer(pair, 50_000))
    pair.network.run_for(10.0)
    assert pair.client.conn.path.local == CLIENT
    assert len(pair.client.conn.paths) == 1
    assert pair.client.conn.state is State.CONNECTED


def test_migration_again_and_again() -> None:
    pair = make_pair().establish()
    for number in range(12):
        here = pair.client_host.attach((f"198.51.100.{20 + number}", 50_001))
        pair.client.conn.migrate(pair.network.now, here)
        finish_stream = pair.client.send(bytes(20_000))
        pair.run(lambda: finish_stream.stream_id in pair.server.ended)  # noqa: B023
        pair.network.run_for(5.0)
        assert pair.client.conn.path.local == here
    assert len(pair.client.conn.paths) == 1


def test_a_dead_network_is_left_at_once() -> None:
    pair = make_pair().establish()
    both_ways(pair.network, up=False)
    data = transfer(pair, 20_000)
    pair.network.run_for(1.0)
    here = pair.client_host.attach(("198.51.100.8", 50_001))
    pair.client.conn.migrate(pair.network.now, here, at_once=True)
    pair.client_host.flush()
    finish(pair, data)
    assert pair.client.conn.path.local == here


def test_who_may_migrate() -> None:
    pair = make_pair()
    with pytest.raises(MisuseError, match="confirmed"):
        pair.client.conn.migrate(pair.network.now, ("198.51.100.8", 1))
    pair.establish()
    with pytest.raises(MisuseError, match="client"):
        pair.server.conn.migrate(pair.network.now, ("192.0.2.2", 443))
    with pytest.raises(MisuseError, match="already"):
        pair.client.conn.migrate(pair.network.now, CLIENT)


def test_a_server_that_forbids_migration_still_follows_a_nat() -> None:
    """RFC 9000 §9: disable_active_migration binds the client, not the network."""
    parameters = replace(default_parameters(), disable_active_migration=True)
    pair = make_pair(server=ConnectionConfig(parameters=parameters)).establish()
    here = pair.client_host.attach(("198.51.100.8", 50_001))
    with pytest.raises(MisuseError, match="disable_active_migration"):
        pair.client.conn.migrate(pair.network.now, here)
    pair.network.rebind(CLIENT, ELSEWHERE)
    finish(pair, transfer(pair, 50_000))
    assert pair.server.conn.path.remote == ELSEWHERE


# --- preferred address -------------------------------------------------------------------------------

PREFERRED: Address = ("192.0.2.2", 8443)


def invited(*, reachable: bool = True) -> Pair:
    config = ConnectionConfig(preferred_ipv4=PREFERRED)
    pair = make_pair(server=config).establish()
    if reachable:
        pair.server_host.attach(PREFERRED)
    invitation = pair.client.conn.invitation
    assert invitation is not None and invitation.ipv4 == PREFERRED
    pair.client.conn.migrate(pair.network.now, CLIENT, remote=invitation.ipv4)
    pair.client_host.flush()
    return pair


def test_preferred_address() -> None:
    pair = invited()
    data = transfer(pair)
    finish(pair, data)
    pair.network.run_for(5.0)
    assert pair.client.conn.path.remote == PREFERRED
    assert pair.server.conn.path.local == PREFERRED
    assert len(pair.client.conn.paths) == len(pair.server.conn.paths) == 1
    assert pair.client.conn.peer_cids.current.sequence == 1  # the ID that came with the address


def test_preferred_address_that_nobody_hears() -> None:
    pair = invited(reachable=False)
    finish(pair, transfer(pair, 100_000))
    pair.network.run_for(10.0)
    assert pair.client.conn.path.remote == SERVER
    assert len(pair.client.conn.paths) == 1
    finish_stream = pair.client.send(bytes(1000))
    pair.run(lambda: finish_stream.stream_id in pair.server.ended)


def test_a_nat_rebinds_while_the_client_moves_to_the_preferred_address() -> None:
    pair = invited()
    data = transfer(pair)
    pair.network.run_for(0.03)
    pair.network.rebind(CLIENT, ELSEWHERE)
    finish(pair, data)
    pair.network.run_for(5.0)
    assert pair.client.conn.path.remote == PREFERRED
    assert (pair.server.conn.path.remote, pair.server.conn.path.local) == (ELSEWHERE, PREFERRED)


# --- connection IDs ----------------------------------------------------------------------------------


def test_rotation_on_request() -> None:
    pair = make_pair().establish()
    finish(pair, transfer(pair, 20_000))
    client, server = pair.client.conn, pair.server.conn
    for number in range(1, 20):
        rotation.apply(client, ConnectionIdInfo(0, 0, client.local_cids.lowest + 1), pair.network.now)
        rotation.apply(client, ConnectionIdInfo(1, 0, client.peer_cids.lowest + 1), pair.network.now)
        pair.client_host.flush()
        pair.network.run_for(0.5)
        assert client.local_cids.lowest == server.peer_cids.lowest == number
        assert client.peer_cids.lowest == server.local_cids.lowest == number
    stream = pair.client.send(bytes(1000))
    pair.run(lambda: stream.stream_id in pair.server.ended)


def test_the_peer_may_take_back_the_ids_of_every_path() -> None:
    pair = make_pair().establish()
    here = pair.client_host.attach(("198.51.100.8", 50_001))
    pair.client.conn.migrate(pair.network.now, here)
    rotation.apply(
        pair.server.conn,
        ConnectionIdInfo(0, 0, pair.server.conn.local_cids.retire_prior_to + 4),
        pair.network.now,
    )
    pair.server_host.flush()
    finish(pair, transfer(pair, 100_000))
    assert pair.client.conn.path.local == here
    assert pair.client.conn.peer_cids.lowest >= 4


def test_a_reset_is_recognised_on_the_path_it_comes_on() -> None:
    """The server forgets everything after the client has moved (RFC 9000 §10.3)."""
    pair = invited()
    finish(pair, transfer(pair, 50_000))
    pair.network.run_for(5.0)
    assert pair.client.conn.path.remote == PREFERRED
    server = pair.server.conn
    server.abandon("forgotten")
    pair.server_host.endpoint.forget(server)
    pair.client.send(bytes(5000))
    pair.network.run_for(1.0)
    assert pair.client.conn.closed is not None
    assert "lost its state" in pair.client.conn.closed.reason


# --- bounds ------------------------------------------------------------------------------------------


def test_a_client_that_wanders_stays_bounded() -> None:
    """Every packet from another address: the server follows, and remembers no more than the limit."""
    pair = make_pair().establish()
    data = transfer(pair, 200_000)
    for number in range(300):
        pair.network.rebind(CLIENT, (f"203.0.113.{number % 200}", 20_000 + number))
        pair.network.run_for(0.003)
        assert len(pair.server.conn.paths) <= limits.MAX_PATHS
    finish(pair, data, 120)


def test_new_paths_probe_for_their_size_and_test_ecn() -> None:
    pair = make_pair(mtu=8972).establish()
    finish(pair, transfer(pair))
    pair.network.run_for(2.0)
    assert pair.client.conn.path.pmtud.current == 8972
    here = pair.client_host.attach(("198.51.100.8", 50_001))
    for source, destination in ((here[0], SERVER[0]), (SERVER[0], here[0])):
        pair.network.link(source, destination).mtu = 1400
        pair.network.link(source, destination).bleach = True
    assert pair.client.conn.path.ecn.codepoint
    pair.client.conn.migrate(pair.network.now, here)
    pair.client_host.flush()
    pair.run(lambda: pair.client.conn.path.local == here)
    finish_stream = pair.client.send(bytes(500_000))
    pair.run(lambda: finish_stream.stream_id in pair.server.ended)
    assert 1200 <= pair.client.conn.path.pmtud.current <= 1400
    assert pair.client.conn.path.ecn.state is EcnState.FAILED

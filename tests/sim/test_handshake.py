"""Handshakes: under loss, with Retry, other versions, other protocols, and the amplification limit."""

from __future__ import annotations

import pytest

from quicfs.transport import packet
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.packet import PacketType

from .endpoints import CLIENT, SERVER, Host, Pair, both_ways, make_pair
from .network import Datagram, Network

CHECK = b"after the handshake"


class Recorder:
    """A node that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def handle_train(self, now: float, source: object, data: bytearray, segment_size: int, ecn: int) -> None:
        self.got += [bytes(data[i : i + segment_size]) for i in range(0, len(data), segment_size)]

    def handle_timeout(self, now: float) -> None:
        return None

    def next_timeout(self) -> float | None:
        return None


def check(pair: Pair, limit: float = 60.0) -> None:
    pair.establish(limit)
    stream = pair.client.send(CHECK)
    pair.run(lambda: bool(pair.server_host.apps) and stream.stream_id in pair.server.ended, limit)
    assert pair.server.received[stream.stream_id] == CHECK


@pytest.mark.parametrize("seed", range(30))
def test_under_thirty_percent_loss(seed: int) -> None:
    check(make_pair(seed, prepare=lambda network: both_ways(network, loss=0.3)), limit=30)


@pytest.mark.parametrize("seed", range(15))
def test_under_thirty_percent_corruption(seed: int) -> None:
    check(make_pair(seed, prepare=lambda network: both_ways(network, corrupt=0.3)), limit=30)


@pytest.mark.parametrize("seed", range(10))
def test_under_reordering_and_duplication(seed: int) -> None:
    check(make_pair(seed, prepare=lambda network: both_ways(network, reorder=0.5, duplicate=0.5)))


def test_long_round_trip() -> None:
    """1.5 s: the client sends its first flight again before the answer can come."""
    pair = make_pair(prepare=lambda network: both_ways(network, delay=0.75))
    check(pair)
    assert len(pair.server_host.apps) == 1


def test_client_hello_over_several_datagrams() -> None:
    pair = make_pair(padding=4000)
    check(pair)
    assert len(pair.server_host.apps) == 1


@pytest.mark.parametrize("seed", range(5))
def test_long_client_hello_under_loss(seed: int) -> None:
    check(make_pair(seed, padding=4000, prepare=lambda network: both_ways(network, loss=0.2, reorder=0.3)))


def test_client_hello_that_never_ends_is_refused() -> None:
    pair = make_pair(padding=20_000)
    pair.run(lambda: pair.client.conn.closed is not None)
    assert pair.client.conn.closed is not None
    assert pair.client.conn.closed.remote
    assert not pair.server_host.apps


def test_nobody_speaks_the_protocol() -> None:
    network = Network()
    server = Host(network, SERVER, 1)
    server.listen(alpn=b"sunrpc")
    client = Host(network, CLIENT, 2)
    app = client.connect(SERVER, alpn=b"h3")
    network.run(lambda: app.conn.closed is not None)
    assert app.conn.closed is not None
    assert app.conn.closed.code == 0x100 + 120
    assert app.conn.closed.remote
    network.run(lambda: len(server.endpoint) == 0)


def test_two_listeners_are_told_apart() -> None:
    network = Network()
    server = Host(network, SERVER, 1)
    chosen: list[str] = []
    server.listen(alpn=b"smb", accept=lambda app: chosen.append("smb"))
    server.listen(alpn=b"sunrpc", accept=lambda app: chosen.append("sunrpc"))
    apps = [Host(network, CLIENT, 2).connect(SERVER, alpn=b"sunrpc")]
    network.run(lambda: apps[0].confirmed)
    assert chosen == ["sunrpc"]


def test_every_client_initial_is_1200_bytes() -> None:
    pair = make_pair(prepare=lambda network: both_ways(network, loss=0.2))
    pair.establish()
    for datagram in pair.network.log:
        if datagram.source == CLIENT and datagram.data[0] & 0xF0 == 0xC0:
            assert len(datagram.data) >= 1200


# --- address validation ------------------------------------------------------------------------------


def test_amplification_limit() -> None:
    """Only the client's first datagram arrives: the server may answer with three times as much, ever."""
    first: list[Datagram] = []

    def all_but_first(datagram: Datagram) -> bool:
        first.append(datagram)
        return len(first) > 1

    def prepare(network: Network) -> None:
        network.link(CLIENT[0], SERVER[0]).drop = all_but_first

    pair = make_pair(certificate=9000, prepare=prepare)
    pair.network.run_for(20.0)
    answered = pair.network.link(SERVER[0], CLIENT[0]).bytes
    assert 1200 < answered <= 3 * len(first[0].data)


def test_damaged_datagrams_count_for_the_amplification_limit() -> None:
    """RFC 9000 §8.1: all that comes for a connection counts, as long as it can be told whose it is."""
    passing: list[bytes] = []

    def all_but_those(datagram: Datagram) -> bool:
        if not passing:
            passing.append(bytes(datagram.data))
        return bytes(datagram.data) not in passing

    def prepare(network: Network) -> None:
        network.link(CLIENT[0], SERVER[0]).drop = all_but_those

    pair = make_pair(certificate=9000, prepare=prepare)
    pair.network.run_for(5.0)
    back = pair.network.link(SERVER[0], CLIENT[0])
    size = len(passing[0])
    assert size < back.bytes <= 3 * size
    damaged = bytearray(passing[0])
    token_length = 7 + damaged[5] + damaged[6 + damaged[5]]
    damaged[token_length : token_length + 2] = b"\x7f\xff"  # beyond the datagram
    passing.append(bytes(damaged))
    pair.network.send(Datagram(CLIENT, SERVER, bytes(damaged), 0))
    pair.network.run_for(10.0)
    assert 3 * size < back.bytes <= 6 * size


def test_large_certificate_waits_for_the_client() -> None:
    check(make_pair(certificate=12_000))


@pytest.mark.parametrize("seed", range(5))
def test_deadlock_is_broken_by_the_client(seed: int) -> None:
    """Packets 2 to 7 towards the server vanish, and its certificate needs more than its allowance."""
    count = 0

    def drop(datagram: Datagram) -> bool:
        nonlocal count
        count += 1
        return 2 <= count <= 7

    def prepare(network: Network) -> None:
        network.link(CLIENT[0], SERVER[0]).drop = drop

    pair = make_pair(seed, certificate=9000, prepare=prepare)
    check(pair, limit=60)


@pytest.mark.parametrize("sender", [CLIENT, SERVER], ids=["client", "server"])
def test_either_probe_is_enough(sender: tuple[str, int]) -> None:
    """The first flight is lost, and so is the first of the two probes that repeat it."""
    count = 0

    def drop(datagram: Datagram) -> bool:
        nonlocal count
        count += bool(datagram.data[0] & 0x80)
        return count <= first + 1

    first = 1 if sender is CLIENT else 2
    receiver = SERVER if sender is CLIENT else CLIENT

    def prepare(network: Network) -> None:
        network.link(sender[0], receiver[0]).drop = drop

    pair = make_pair(prepare=prepare)
    pair.establish(2.5)  # before the second probe timeout, which is after 3 s


def test_retry() -> None:
    pair = make_pair(validate_address=True)
    check(pair)
    kinds = [
        packet.parse_long_header(memoryview(d.data), 0, len(d.data)).packet_type
        for d in pair.network.log
        if d.data[0] & 0x80
    ]
    assert kinds[:3] == [PacketType.INITIAL, PacketType.RETRY, PacketType.INITIAL]
    assert kinds.count(PacketType.RETRY) == 1
    assert len(pair.server_host.apps) == 1


@pytest.mark.parametrize("seed", range(8))
def test_retry_under_loss(seed: int) -> None:
    pair = make_pair(
        seed,
        validate_address=True,
        prepare=lambda network: both_ways(network, loss=0.3, duplicate=0.2),
    )
    check(pair)


def test_stolen_retry_token_is_refused() -> None:
    """Another address uses the token, before its owner does: INVALID_TOKEN, and no connection."""
    stolen: list[Datagram] = []

    def steal(datagram: Datagram) -> bool:
        stolen.append(datagram)
        return len(stolen) == 2

    def prepare(network: Network) -> None:
        network.link(CLIENT[0], SERVER[0]).drop = steal

    pair = make_pair(validate_address=True, prepare=prepare)
    pair.run(lambda: len(stolen) >= 2)
    thief = ("203.0.113.9", 999)
    recorder = Recorder()
    pair.network.attach(thief, recorder)
    pair.network.send(Datagram(thief, SERVER, stolen[1].data))
    pair.run(lambda: bool(recorder.got))
    assert len(pair.server_host.endpoint) == 0
    header = packet.parse_long_header(memoryview(recorder.got[0]), 0, len(recorder.got[0]))
    assert header.packet_type is PacketType.INITIAL
    assert len(recorder.got[0]) < 100
    check(pair)


# --- versions ----------------------------------------------------------------------------------------


def test_unknown_version_is_negotiated() -> None:
    network = Network()
    server = Host(network, SERVER, 1)
    server.listen()
    recorder = Recorder()
    network.attach(CLIENT, recorder)
    probe = b"\xc0\x1a\x2a\x3a\x4a\x08destdest\x04srcs"
    network.send(Datagram(CLIENT, SERVER, probe + bytes(1199 - len(probe))))
    network.send(Datagram(CLIENT, SERVER, probe + bytes(1200 - len(probe))))
    network.run(lambda: bool(recorder.got))
    network.run_for(1.0)
    assert len(recorder.got) == 1  # the one below 1200 bytes gets no answer
    answer = recorder.got[0]
    header = packet.parse_long_header(memoryview(answer), 0, len(answer))
    assert header.packet_type is PacketType.VERSION_NEGOTIATION
    assert (header.dcid, header.scid) == (b"srcs", b"destdest")
    assert packet.VERSION_1 in header.supported_versions
    assert len(server.endpoint) == 0


def test_version_negotiation_is_not_answered() -> None:
    """RFC 9000 §6.1: two servers would go on for ever."""
    network = Network()
    server = Host(network, SERVER, 1)
    server.listen()
    recorder = Recorder()
    network.attach(CLIENT, recorder)
    data = packet.write_version_negotiation(b"destdest", b"srcs", [0x0A0A0A0A] * 300, 0)
    assert len(data) >= 1200
    network.send(Datagram(CLIENT, SERVER, data))
    network.run_for(1.0)
    assert not recorder.got and len(server.endpoint) == 0


def negotiation(pair: Pair, versions: list[int], *, swap: bool = False) -> Datagram:
    first = pair.network.log[0].data
    header = packet.parse_long_header(memoryview(first), 0, len(first))
    ids = (header.dcid, header.scid) if swap else (header.scid, header.dcid)
    return Datagram(SERVER, CLIENT, packet.write_version_negotiation(*ids, versions, 0))


def test_client_gives_up_when_the_server_has_other_versions() -> None:
    pair = make_pair(prepare=lambda network: both_ways(network, up=False))
    pair.network.link(SERVER[0], CLIENT[0]).up = True
    pair.network.send(negotiation(pair, [0x709A50C4, 0x0A0A0A0A]))
    pair.run(lambda: pair.client.conn.closed is not None, 1.0)
    assert pair.client.conn.closed is not None
    assert "0x709a50c4" in str(pair.client.conn.closed)


def test_forged_version_negotiation_is_ignored() -> None:
    """One that lists our own version, one with wrong IDs, and one that comes after the server spoke."""
    pair = make_pair()
    pair.network.send(negotiation(pair, [1, 2]))
    pair.network.send(negotiation(pair, [2], swap=True))
    pair.run(lambda: pair.client.tls.complete)
    pair.network.send(negotiation(pair, [2]))
    check(pair)


# --- hostile beginnings ------------------------------------------------------------------------------


def test_garbage_at_the_server_is_met_with_silence_or_little() -> None:
    network = Network()
    server = Host(network, SERVER, 1)
    server.listen()
    recorder = Recorder()
    network.attach(CLIENT, recorder)
    rng = network.random
    for _ in range(500):
        size = rng.choice([1, 7, 20, 21, 40, 1199, 1200, 1400])
        data = bytearray(rng.randbytes(size))
        if rng.random() < 0.5:
            data[0] |= 0xC0
            data[1:5] = b"\0\0\0\1"[: max(0, len(data) - 1)]
        network.send(Datagram(CLIENT, SERVER, bytes(data)))
    network.run_for(40.0)
    assert sum(map(len, recorder.got)) <= 3 * network.link(CLIENT[0], SERVER[0]).bytes
    assert len(server.endpoint) == 0
    pair = Pair(
        network, Host(network, ("198.51.100.8", 4), 3), server, server.apps[0] if server.apps else None
    )  # type: ignore[arg-type]
    client = pair.client_host.connect(SERVER)
    network.run(lambda: client.confirmed)


def test_handshake_that_gets_no_answer_ends() -> None:
    config = ConnectionConfig(handshake_timeout=8.0)
    pair = make_pair(client=config, prepare=lambda network: both_ways(network, up=False))
    start = pair.network.now
    pair.run(lambda: pair.client.closed)
    assert pair.network.now - start == pytest.approx(8.0, abs=0.01)
    assert "does not answer" in str(pair.client.conn.closed)
    sent = pair.network.link(CLIENT[0], SERVER[0]).sent
    assert 3 <= sent <= 14  # backed off exponentially


def test_server_forgets_a_client_that_vanished() -> None:
    first = 0

    def drop(datagram: Datagram) -> bool:
        nonlocal first
        first += 1
        return first > 1

    def prepare(network: Network) -> None:
        network.link(CLIENT[0], SERVER[0]).drop = drop

    config = ConnectionConfig(handshake_timeout=5.0)
    pair = make_pair(server=config, prepare=prepare)
    pair.network.run_for(1.0)
    assert len(pair.server_host.endpoint) == 1
    pair.network.run_for(5.0)
    assert len(pair.server_host.endpoint) == 0

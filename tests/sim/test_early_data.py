"""0-RTT, session tickets and tokens: accepted, refused, lost, reordered, after a Retry, and under other limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from quicfs.transport import limits, packet
from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.early_data import EarlyState
from quicfs.transport.errors import MisuseError
from quicfs.transport.packet import PacketType
from quicfs.transport.stream import RecvState
from quicfs.transport.transport_param import TransportParameters

from .endpoints import CLIENT, SERVER, App, Host, Pair, both_ways
from .network import Datagram, Network

REQUEST = bytes(range(256)) * 8
START = 1000.0  # the network's clock


def write_requests(count: int, data: bytes = REQUEST) -> Callable[[App], None]:
    def write(app: App) -> None:
        for _ in range(count):
            app.send(data)

    return write


def make(
    seed: int = 0,
    *,
    accepts: bool = True,
    early: Callable[[App], None] | None = None,
    remembered: TransportParameters | None = None,
    server: ConnectionConfig | None = None,
    prepare: Callable[[Network], None] | None = None,
    validate_address: bool = False,
    certificate: int = 2500,
    tickets: int = 0,
) -> Pair:
    """A client that resumes, and writes requests before its handshake."""
    network = Network(seed)
    if prepare is not None:
        prepare(network)
    server_host = Host(network, SERVER, seed * 2 + 1)
    server_host.listen(
        server,
        early_data=accepts,
        validate_address=validate_address,
        certificate=certificate,
        tickets=tickets,
    )
    client_host = Host(network, CLIENT, seed * 2 + 2)
    client = client_host.connect(
        SERVER, remembered=remembered or default_parameters(), early=early or write_requests(3)
    )
    return Pair(network, client_host, server_host, client)


def kinds(pair: Pair, source: tuple[str, int]) -> list[PacketType]:
    """The types of all packets with long headers."""
    found: list[PacketType] = []
    for datagram in pair.network.log:
        data, pos = memoryview(datagram.data), 0
        while datagram.source == source and pos < len(data) and data[pos] & 0x80:
            header = packet.parse_long_header(data, pos, len(data))
            found.append(header.packet_type)
            pos = header.end
    return found


def all_arrived(pair: Pair, count: int = 3) -> None:
    pair.run(lambda: bool(pair.server_host.apps) and len(pair.server.ended) == count)
    assert all(data == REQUEST for data in pair.server.received.values())
    assert len(pair.server.received) == count


def test_data_travel_beside_the_client_hello() -> None:
    pair = make()
    assert pair.client.conn.early.state is EarlyState.OFFERED
    half_way = pair.network.link(CLIENT[0], SERVER[0]).delay
    all_arrived(pair)
    # One way, not three: the requests came before the client had heard anything.
    assert pair.network.now - START < 2 * half_way
    assert all(pair.server.stream(stream_id).early for stream_id in pair.server.received)
    pair.establish()
    assert pair.client.conn.early.state is EarlyState.ACCEPTED
    assert pair.server.conn.early.state is EarlyState.ACCEPTED
    assert kinds(pair, CLIENT)[:2] == [PacketType.INITIAL, PacketType.ZERO_RTT]
    assert pair.client.conn.recovery.stats.packets_lost == 0


def test_an_answer_comes_before_the_handshake_is_complete() -> None:
    pair = make(early=write_requests(1))

    def answer(app: App, stream: object) -> None:
        if 0 in app.ended:
            app.write(app.stream(0), b"answer", fin=True)

    pair.run(lambda: bool(pair.server_host.apps))
    pair.server.on_data = answer
    if 0 in pair.server.ended:
        answer(pair.server, None)
    pair.run(lambda: 0 in pair.client.ended)
    assert pair.client.received[0] == b"answer"
    # one round trip, when the client has just completed
    assert pair.network.now - START <= 2.2 * pair.network.link(CLIENT[0], SERVER[0]).delay


def test_refused_data_go_out_again() -> None:
    pair = make(accepts=False)
    all_arrived(pair)
    pair.establish()
    assert pair.client.conn.early.state is EarlyState.REFUSED
    assert not any(pair.server.stream(stream_id).early for stream_id in pair.server.received)
    assert not pair.server.conn.undecryptable
    pair.network.run_for(5)
    assert pair.client.conn.recovery.bytes_in_flight == 0


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize("seed", range(25))
def test_under_loss_and_reordering(seed: int, accepts: bool) -> None:
    pair = make(
        seed,
        accepts=accepts,
        early=write_requests(8),
        prepare=lambda network: both_ways(network, loss=0.25, reorder=0.3, duplicate=0.2),
    )
    all_arrived(pair, 8)
    pair.establish()


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_more_than_the_first_window(seed: int, accepts: bool) -> None:
    data = bytes(300_000)
    pair = make(seed, accepts=accepts, early=write_requests(1, data))
    pair.run(lambda: bool(pair.server_host.apps) and 0 in pair.server.ended)
    assert pair.server.received[0] == data


def test_the_first_datagram_is_lost() -> None:
    """What follows it is 0-RTT that nobody can read; the ClientHello comes again."""
    dropped: list[Datagram] = []

    def drop(datagram: Datagram) -> bool:
        dropped.append(datagram)
        return len(dropped) == 1

    def prepare(network: Network) -> None:
        network.link(CLIENT[0], SERVER[0]).drop = drop

    all_arrived(make(prepare=prepare))


@pytest.mark.parametrize("accepts", [True, False])
def test_after_a_retry(accepts: bool) -> None:
    """The early data come again with the token, with new packet numbers (RFC 9000 §17.2.5.3)."""
    pair = make(accepts=accepts, validate_address=True)
    all_arrived(pair)
    sent = kinds(pair, CLIENT)
    again = sent.index(PacketType.INITIAL, 1)
    assert PacketType.ZERO_RTT in sent[:again]
    assert PacketType.ZERO_RTT in sent[again:]


def test_a_large_certificate_waits_for_the_client() -> None:
    """The server is at its amplification limit and owes an acknowledgement of early data."""
    pair = make(certificate=9000)
    all_arrived(pair)
    pair.establish()


def test_keys_are_discarded() -> None:
    pair = make()
    pair.establish()
    assert pair.client.conn.early.keys_out is None
    pair.network.run_for(10)
    assert pair.server.conn.early.keys_in is None


# --- limits


def limited(**values: int) -> TransportParameters:
    return replace(default_parameters(), **values)


def test_limits_are_those_remembered() -> None:
    """The server's real ones are larger; before they are known the old ones count."""
    small = limited(
        initial_max_data=5000, initial_max_stream_data_bidi_remote=4096, initial_max_streams_bidi=2
    )

    def early(app: App) -> None:
        app.send(bytes(6000))
        app.send(bytes(6000))
        with pytest.raises(MisuseError):
            app.open()

    pair = make(early=early, remembered=small)
    assert pair.client.conn.streams.send_credit.used <= 5000
    pair.run(lambda: bool(pair.server_host.apps) and len(pair.server.ended) == 2)
    assert [len(data) for data in pair.server.received.values()] == [6000, 6000]
    pair.establish()
    assert pair.client.conn.early.state is EarlyState.ACCEPTED


@pytest.mark.parametrize(
    "name",
    [
        "active_connection_id_limit",
        "initial_max_data",
        "initial_max_stream_data_bidi_local",
        "initial_max_stream_data_bidi_remote",
        "initial_max_stream_data_uni",
        "initial_max_streams_bidi",
        "initial_max_streams_uni",
        "max_datagram_frame_size",
    ],
)
def test_a_server_that_accepts_must_keep_its_limits(name: str) -> None:
    larger = limited(**{name: getattr(default_parameters(), name) + 1})
    pair = make(remembered=larger)
    pair.run(lambda: pair.client.conn.closed is not None)
    closed = pair.client.conn.closed
    assert closed is not None and not closed.remote
    assert closed.code == 0x0A
    assert name in closed.reason


def test_a_server_that_refuses_may_have_smaller_limits() -> None:
    """Flow control starts from the new ones; streams beyond them are given back to whoever opened them."""
    parameters = limited(
        initial_max_data=3000, initial_max_stream_data_bidi_remote=2000, initial_max_streams_bidi=2
    )
    pair = make(accepts=False, server=ConnectionConfig(parameters=parameters))
    streams = list(pair.client.conn.streams)
    pair.run(lambda: bool(pair.server_host.apps) and len(pair.server.ended) == 2)
    assert all(data == REQUEST for data in pair.server.received.values())
    lost = streams[2]
    assert lost.recv is not None and lost.recv.state in (RecvState.RESET_RECVD, RecvState.RESET_READ)
    assert pair.client.resets == {8: 0}
    assert pair.client.stops == {8: 0}
    # its number is free again, once the server allows more
    for stream_id in (0, 4):
        pair.server.write(pair.server.stream(stream_id), b"", fin=True)
    pair.run(lambda: pair.client.conn.streams.can_open(0))
    assert pair.client.open().stream_id == 8
    assert pair.client.conn.closed is None


def test_a_stream_that_was_reset_before_the_refusal() -> None:
    def early(app: App) -> None:
        stream = app.open()
        app.write(stream, REQUEST)
        app.conn.reset_stream(stream, 7)

    pair = make(accepts=False, early=early)
    pair.run(lambda: bool(pair.server_host.apps) and bool(pair.server.resets))
    assert pair.server.resets == {0: 7}
    pair.establish()
    assert pair.client.conn.closed is None


# --- consent, and hostile clients


def test_without_a_secret_nothing_leaves_early() -> None:
    """TLS did not like the ticket: what was written waits for the handshake."""
    network = Network()
    server_host = Host(network, SERVER, 1)
    server_host.listen(early_data=True)
    client_host = Host(network, CLIENT, 2)
    client = client_host.connect(SERVER)
    client.conn.prepare_early_data(default_parameters())
    client.send(REQUEST)
    pair = Pair(network, client_host, server_host, client)
    all_arrived(pair, 1)
    assert PacketType.ZERO_RTT not in kinds(pair, CLIENT)


def test_streams_cannot_be_opened_without_consent() -> None:
    network = Network()
    Host(network, SERVER, 1).listen(early_data=True)
    client = Host(network, CLIENT, 2).connect(SERVER)
    with pytest.raises(MisuseError):
        client.open()


def test_early_data_from_a_server_are_dropped() -> None:
    """And a server cannot be made to offer any."""
    pair = make()
    pair.establish()
    with pytest.raises(MisuseError):
        pair.server.conn.prepare_early_data(default_parameters())
    header = packet.write_long_header(
        PacketType.ZERO_RTT,
        packet.VERSION_1,
        pair.client.conn.local_cid,
        pair.server.conn.local_cid,
        b"",
        0,
        1,
        60,
    )
    pair.network.send(Datagram(SERVER, CLIENT, header + bytes(59)))
    pair.network.run_for(1)
    assert pair.client.conn.closed is None


def test_unreadable_early_data_stay_bounded() -> None:
    """A flood of 0-RTT packets before and after the ClientHello."""
    flood: list[bytes] = []

    def prepare(network: Network) -> None:
        both_ways(network, delay=0.05)

    pair = make(accepts=False, prepare=prepare, early=write_requests(40))
    first = pair.network.log[0].data
    header = packet.parse_long_header(memoryview(first), 0, len(first))
    for number in range(200):
        head = packet.write_long_header(
            PacketType.ZERO_RTT, packet.VERSION_1, header.dcid, header.scid, b"", number, 2, 1000
        )
        flood.append(head + bytes(998))
    for data in flood:
        pair.network.send(Datagram(CLIENT, SERVER, data))
    pair.run(lambda: bool(pair.server_host.apps))
    for _ in range(100):
        pair.network.run_for(0.001)
        assert len(pair.server.conn.undecryptable) <= limits.MAX_UNDECRYPTABLE
    all_arrived(pair, 40)


def test_crypto_frames_in_early_data_are_a_violation() -> None:
    """RFC 9000 §12.4: they are not permitted in 0-RTT packets."""
    pair = make()
    pair.client.conn.control[0x06, (0, 1)] = None
    pair.client.conn.application.crypto_out.write(b"x")
    pair.client.send(b"more")
    pair.run(lambda: bool(pair.server_host.apps) and pair.server.conn.closed is not None)
    assert pair.server.conn.closed is not None
    assert pair.server.conn.closed.code == 0x0A


# --- session tickets


@pytest.mark.parametrize("seed", range(10))
def test_tickets_arrive_whole_and_in_order(seed: int) -> None:
    pair = make(seed, tickets=3, prepare=lambda network: both_ways(network, loss=0.3, reorder=0.3))
    pair.run(lambda: len(pair.client.tls.tickets) == 3)
    assert pair.client.tls.tickets == [bytes((number,)) * 1500 for number in range(3)]
    pair.network.run_for(20)
    assert not pair.server.conn.application.crypto_out.pending


# --- tokens of NEW_TOKEN frames (RFC 9000 §8.1.3)


def token_pair(seed: int = 0, *, validate_address: bool = True) -> tuple[Network, Host, Host, bytes]:
    network = Network(seed)
    server = Host(network, SERVER, 1)
    server.listen(validate_address=validate_address)
    client = Host(network, CLIENT, 2)
    app = client.connect(SERVER)
    network.run(lambda: bool(app.conn.new_token))
    return network, server, client, app.conn.new_token


def retries(network: Network, since: int) -> int:
    count = 0
    for datagram in network.log[since:]:
        if datagram.source == SERVER and datagram.data[0] & 0x80:
            header = packet.parse_long_header(memoryview(datagram.data), 0, len(datagram.data))
            count += header.packet_type is PacketType.RETRY
    return count


def test_a_token_saves_the_retry_once() -> None:
    network, server, client, token = token_pair()
    for use in range(3):
        since = len(network.log)
        app = client.connect(SERVER, token=token)
        network.run(lambda app=app: app.confirmed)  # type: ignore[misc]
        assert retries(network, since) == (use > 0)
        assert server.apps[-1].confirmed


def test_a_token_lifts_the_amplification_limit() -> None:
    network, server, client, token = token_pair(validate_address=False)
    app = client.connect(SERVER, token=token)
    network.run(lambda: len(server.apps) == 2)
    assert server.apps[1].conn.path.validated
    network.run(lambda: app.confirmed)


@pytest.mark.parametrize("kind", ["another address", "garbage", "changed", "expired"])
def test_other_tokens_are_as_good_as_none(kind: str) -> None:
    network, _, client, token = token_pair()
    if kind == "another address":
        client = Host(network, ("203.0.113.5", 1), 3)
    elif kind == "garbage":
        token = bytes(80)
    elif kind == "changed":
        token = token[:-1] + bytes((token[-1] ^ 1,))
    else:
        network.run_for(limits.NEW_TOKEN_LIFETIME + 1)
    since = len(network.log)
    app = client.connect(SERVER, token=token)
    network.run(lambda: app.confirmed)
    assert retries(network, since) == 1


def test_a_token_that_leaves_no_room_is_not_kept() -> None:
    pair = make()
    pair.establish()
    before = pair.client.conn.new_token
    pair.server.conn.queue_control(0x07, bytes(limits.MAX_TOKEN + 1))
    pair.server_host.flush()
    pair.network.run_for(1)
    assert pair.client.conn.new_token == before


def test_a_lost_server_hello_behind_a_full_window() -> None:
    """The rest of the server's flight fills its window; a probe that repeats only that could never be read."""
    pair = make(
        193,
        accepts=False,
        early=write_requests(9, bytes(20_000)),
        certificate=9000,
        prepare=lambda network: both_ways(network, loss=0.1, corrupt=0.1, reorder=0.3, delay=0.3),
    )
    pair.run(lambda: bool(pair.server_host.apps) and len(pair.server.ended) == 9, limit=120)

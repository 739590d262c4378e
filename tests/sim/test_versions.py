"""Versions 1 and 2 of QUIC: servers that prefer another version, servers that do not know the client's, and
somebody on the way who wants the worse one (RFC 9368, RFC 9369)."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from quicfs.transport import packet
from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.conn import Connection
from quicfs.transport.errors import ProtocolViolation
from quicfs.transport.errors import TransportErrorCode as Code
from quicfs.transport.packet import VERSION_1, VERSION_2, PacketType
from quicfs.transport.transport_param import VersionInformation

from .endpoints import CLIENT, SERVER, App, Host, Pair, both_ways, make_pair
from .network import Datagram, Network

DATA = random.Random(9).randbytes(100_000)
V1 = ConnectionConfig(version=VERSION_1)
V2 = ConnectionConfig(version=VERSION_2, versions=(VERSION_2, VERSION_1))
ONLY_V1 = ConnectionConfig(versions=(VERSION_1,))
ONLY_V2 = ConnectionConfig(versions=(VERSION_2,))
ANY = ConnectionConfig()


def check(pair: Pair, version: int) -> None:
    """Both ends speak `version`, and data go through."""
    pair.establish()
    assert pair.client.conn.version == pair.server.conn.version == version
    up, down = pair.client.send(DATA), pair.server.send(DATA)
    pair.run(lambda: up.stream_id in pair.server.ended and down.stream_id in pair.client.ended)
    assert pair.server.received[up.stream_id] == pair.client.received[down.stream_id] == DATA


def long_headers(pair: Pair, source: str) -> list[tuple[PacketType, int]]:
    """Type and version of each packet with a long header that a host sent."""
    found = []
    for datagram in pair.network.log:
        data, pos = memoryview(datagram.data), 0
        while datagram.source[0] == source and pos < len(data) and data[pos] & 0x80:
            header = packet.parse_long_header(data, pos, len(data))
            found.append((header.packet_type, header.version))
            pos = header.end
    return found


@pytest.mark.parametrize(
    ("client", "server", "version"),
    [
        (ANY, ANY, VERSION_1),
        (V2, ANY, VERSION_2),
        (ANY, V2, VERSION_2),
        (V2, V1, VERSION_1),
        (V2, V2, VERSION_2),
        (ONLY_V1, V2, VERSION_1),
        (ONLY_V2, V2, VERSION_2),
        (replace(V1, compatible_versions=False), V2, VERSION_1),
        (ANY, replace(V2, compatible_versions=False), VERSION_1),
        (V2, ONLY_V1, VERSION_1),
        (ANY, ONLY_V2, VERSION_2),
    ],
)
def test_version_in_use(client: ConnectionConfig, server: ConnectionConfig, version: int) -> None:
    check(make_pair(client=client, server=server), version)


def test_server_changes_to_version_2_at_once() -> None:
    """RFC 9369 §4.1: it costs no round trip, and the client follows in its next packet."""
    pair = make_pair(client=ANY, server=V2)
    start = pair.network.now
    check(pair, VERSION_2)
    plain = make_pair()
    plain_start = plain.network.now
    plain.establish()
    assert pair.client.conn.established_at is not None and plain.client.conn.established_at is not None
    assert pair.client.conn.established_at - start == pytest.approx(
        plain.client.conn.established_at - plain_start, abs=0.002
    )
    sent = long_headers(pair, CLIENT[0])
    assert sent[0] == (PacketType.INITIAL, VERSION_1)
    assert set(sent[1:]) == {(PacketType.INITIAL, VERSION_2), (PacketType.HANDSHAKE, VERSION_2)}
    assert {version for _, version in long_headers(pair, SERVER[0])} == {VERSION_2}
    theirs = pair.client.conn.peer
    assert theirs is not None
    assert theirs.version_information == VersionInformation(VERSION_2, (VERSION_2, VERSION_1))


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("padding", [0, 3000])
def test_change_on_a_bad_link(seed: int, padding: int) -> None:
    """A ClientHello of one datagram, and of three: then the server begins in the client's version."""

    def prepare(network: Network) -> None:
        both_ways(network, loss=0.25, reorder=0.3, reorder_delay=0.05, duplicate=0.1, corrupt=0.05)

    pair = make_pair(
        seed,
        client=V1 if seed % 2 else V2,
        server=V2 if seed % 2 else V1,
        padding=padding,
        prepare=prepare,
        validate_address=seed % 3 == 0,
    )
    pair.establish(120)
    both_ways(pair.network, loss=0.02)
    check(pair, VERSION_2 if seed % 2 else VERSION_1)


@pytest.mark.parametrize(("client", "server"), [(V1, V2), (V2, V1), (V2, V2)])
def test_retry_comes_in_the_clients_version(client: ConnectionConfig, server: ConnectionConfig) -> None:
    """RFC 9369 §4.1."""
    pair = make_pair(client=client, server=server, validate_address=True)
    check(pair, server.version)
    assert long_headers(pair, SERVER[0])[0] == (PacketType.RETRY, client.version)
    sent = long_headers(pair, CLIENT[0])
    assert sent[:2] == [(PacketType.INITIAL, client.version)] * 2


@pytest.mark.parametrize("seed", range(6))
def test_begins_anew_after_version_negotiation(seed: int) -> None:
    """RFC 9368 §2.1."""

    def prepare(network: Network) -> None:
        both_ways(network, loss=0.2)

    pair = make_pair(seed, client=ANY, server=ONLY_V2, prepare=prepare if seed else None)
    check(pair, VERSION_2)
    assert pair.client.conn.versions.reacted
    assert long_headers(pair, SERVER[0])[0][0] is PacketType.VERSION_NEGOTIATION


def test_nothing_in_common() -> None:
    pair = make_pair(client=ONLY_V1, server=ONLY_V2)
    pair.run(lambda: pair.client.conn.closed is not None, 5.0)
    closed = pair.client.conn.closed
    assert closed is not None and closed.code == Code.VERSION_NEGOTIATION_ERROR
    assert f"{VERSION_2:#010x}" in str(closed)


# --- somebody meddles --------------------------------------------------------------------------------


def negotiation(pair: Pair, versions: list[int]) -> Datagram:
    first = pair.network.log[-1].data
    header = packet.parse_long_header(memoryview(first), 0, len(first))
    data = packet.write_version_negotiation(header.scid, header.dcid, versions, 0)
    return Datagram(SERVER, CLIENT, data)


def test_forged_version_negotiation_does_not_downgrade() -> None:
    """RFC 9368 §4: the server's parameters tell that it speaks the better version too."""
    pair = make_pair(client=V2, server=ANY)
    pair.network.link(SERVER[0], CLIENT[0]).delay = 0.001
    pair.network.send(negotiation(pair, [VERSION_1, 0x1A2A3A4A]))
    pair.run(lambda: pair.client.conn.version == VERSION_1)
    pair.run(lambda: pair.client.conn.closed is not None)
    closed = pair.client.conn.closed
    assert closed is not None and closed.code == Code.VERSION_NEGOTIATION_ERROR and not closed.remote


def test_second_version_negotiation_is_ignored() -> None:
    """RFC 9368 §4."""
    pair = make_pair(client=ANY, server=ONLY_V2)
    pair.run(lambda: pair.client.conn.versions.reacted)
    pair.network.link(SERVER[0], CLIENT[0]).delay = 0.001
    pair.network.send(negotiation(pair, [VERSION_1]))
    check(pair, VERSION_2)


def test_header_of_another_version_alone_changes_nothing() -> None:
    """A client follows authentic packets only."""
    pair = make_pair(client=ANY, server=ANY)
    first = pair.network.log[0].data
    header = packet.parse_long_header(memoryview(first), 0, len(first))
    forged = packet.write_long_header(
        PacketType.INITIAL, VERSION_2, header.scid, b"attacker", b"", 0, 1, 500
    ) + bytes(500)
    pair.network.link(SERVER[0], CLIENT[0]).delay = 0.001
    pair.network.send(Datagram(SERVER, CLIENT, forged))
    pair.network.run_for(0.005)
    assert pair.client.conn.version == VERSION_1
    check(pair, VERSION_1)


def client_and_server(**server: object) -> tuple[Connection, Connection]:
    """A pair in the middle of its handshake, to be given parameters by hand."""
    pair = make_pair(client=ANY, server=ConnectionConfig(**server))  # type: ignore[arg-type]
    pair.client.conn.peer_cid_fixed = True
    pair.run(lambda: bool(pair.server_host.apps))
    return pair.client.conn, pair.server.conn


@pytest.mark.parametrize(
    ("information", "code"),
    [
        (VersionInformation(VERSION_2, (VERSION_1, VERSION_2)), Code.VERSION_NEGOTIATION_ERROR),
        (VersionInformation(VERSION_1, (VERSION_2,)), Code.TRANSPORT_PARAMETER_ERROR),
        (VersionInformation(VERSION_1, ()), Code.TRANSPORT_PARAMETER_ERROR),
        (VersionInformation(VERSION_1, (VERSION_1, 0x0A0A0A0A)), None),
        (None, None),
    ],
)
def test_what_a_server_checks(information: VersionInformation | None, code: Code | None) -> None:
    """RFC 9368 §4."""
    client, server = client_and_server()
    data = replace(client.ours, version_information=information).encode(is_server=False)
    if code is None:
        server.set_peer_parameters(data)
        return
    with pytest.raises(ProtocolViolation) as violation:
        server.set_peer_parameters(data)
    assert violation.value.code == code


@pytest.mark.parametrize(
    ("in_use", "reacted", "information", "good"),
    [
        (VERSION_1, False, None, True),
        (VERSION_1, False, VersionInformation(VERSION_1, ()), True),
        (VERSION_1, False, VersionInformation(VERSION_2, (VERSION_1, VERSION_2)), False),
        (VERSION_1, False, VersionInformation(0x0A0A0A0A, (VERSION_1,)), False),
        (VERSION_2, False, None, False),
        (VERSION_2, False, VersionInformation(VERSION_1, (VERSION_1, VERSION_2)), False),
        (VERSION_2, False, VersionInformation(VERSION_2, (VERSION_1,)), True),
        (VERSION_1, True, None, True),  # RFC 9368 §8
        (VERSION_1, True, VersionInformation(VERSION_1, (VERSION_1,)), True),
        (VERSION_1, True, VersionInformation(VERSION_1, ()), False),
    ],
)
def test_what_a_client_checks(
    in_use: int, reacted: bool, information: VersionInformation | None, good: bool
) -> None:
    """RFC 9368 §4: `in_use` is the version of the server's packets, the client began with version 1."""
    client, server = client_and_server(version=in_use)
    client.version = in_use
    client.versions.reacted = reacted
    client.peer_cids.replace_first(server.local_cid)
    data = replace(server.ours, version_information=information).encode(is_server=True)
    if good:
        client.set_peer_parameters(data)
        return
    with pytest.raises(ProtocolViolation) as violation:
        client.set_peer_parameters(data)
    assert violation.value.code == Code.VERSION_NEGOTIATION_ERROR


@pytest.mark.parametrize("broken", [b"\x11", b"\x11\x03abc", b"\x11\x00", b"\x0f\x00" * 2])
def test_broken_parameters_are_left_to_tls(monkeypatch: pytest.MonkeyPatch, broken: bytes) -> None:
    """The endpoint reads them before TLS does, to choose the version; the error comes when TLS delivers them."""
    monkeypatch.setattr(App, "local_parameters", lambda self: broken)
    pair = make_pair(client=ANY, server=V2)
    pair.run(lambda: pair.client.conn.closed is not None)
    closed = pair.client.conn.closed
    assert closed is not None and closed.remote and closed.code == Code.TRANSPORT_PARAMETER_ERROR


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("accepts", [True, False])
def test_early_data_stay_in_the_clients_version(seed: int, accepts: bool) -> None:
    """RFC 9369 §4.1: 0-RTT packets of version 1 are read by a server that has changed to version 2."""
    network = Network(seed)
    if seed:
        both_ways(network, loss=0.1, reorder=0.3, reorder_delay=0.05)
    server_host = Host(network, SERVER, 1)
    server_host.listen(V2, early_data=accepts)
    client_host = Host(network, CLIENT, 2)

    def write_twice(app: App) -> None:
        app.send(DATA[:5000])
        app.send(DATA[:5000])

    client = client_host.connect(SERVER, ANY, remembered=default_parameters(), early=write_twice)
    pair = Pair(network, client_host, server_host, client)
    pair.run(lambda: bool(server_host.apps) and len(pair.server.ended) == 2)
    assert all(data == DATA[:5000] for data in pair.server.received.values())
    assert pair.establish().client.conn.version == VERSION_2
    early = [version for kind, version in long_headers(pair, CLIENT[0]) if kind is PacketType.ZERO_RTT]
    assert early and set(early) == {VERSION_1}

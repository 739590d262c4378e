"""Several listeners on one port: each gets the clients that ask for its protocol, with its own configuration."""

from __future__ import annotations

import pytest

from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.errors import TransportErrorCode
from quicfs.transport.uapi import CongestionAlgo

from .endpoints import CLIENT, SERVER, App, Host
from .network import Network


def configured(streams: int, congestion: CongestionAlgo = CongestionAlgo.CUBIC) -> ConnectionConfig:
    parameters = default_parameters()
    parameters.initial_max_streams_bidi = streams
    return ConnectionConfig(parameters=parameters, congestion=congestion)


class Port:
    """A server port with listeners "one" (plain) and "two" (which may want Retry)."""

    def __init__(self, *, first: bool = False, second: bool = False) -> None:
        self.network = Network(7)
        self.accepted: dict[str, list[App]] = {"one": [], "two": []}
        self.server = Host(self.network, SERVER, 1)
        self.server.listen(
            configured(7), alpn=b"one", validate_address=first, accept=self.accepted["one"].append
        )
        self.server.listen(
            configured(9, CongestionAlgo.RENO),
            alpn=b"two",
            validate_address=second,
            accept=self.accepted["two"].append,
        )
        self.clients = Host(self.network, CLIENT, 2)

    def dial(self, alpn: bytes, padding: int = 0) -> App:
        client = self.clients.connect(SERVER, alpn=alpn, padding=padding)
        self.network.run(lambda: client.confirmed or client.conn.closed is not None, 60.0)
        return client


@pytest.mark.parametrize("padding", [0, 3000], ids=["one datagram", "several datagrams"])
def test_each_listener_has_its_own_parameters(padding: int) -> None:
    port = Port()
    for alpn, streams, cong in (("two", 9, "NewReno"), ("one", 7, "Cubic"), ("two", 9, "NewReno")):
        client = port.dial(alpn.encode(), padding)
        assert client.conn.peer is not None and client.conn.peer.initial_max_streams_bidi == streams
        server = port.accepted[alpn].pop()
        assert type(server.conn.recovery.cong).__name__ == cong
        stream = client.send(b"hello")
        port.network.run(lambda s=server, i=stream.stream_id: i in s.ended, 10.0)  # type: ignore[misc]
        client.close()


@pytest.mark.parametrize("padding", [0, 3000], ids=["one datagram", "several datagrams"])
def test_each_listener_has_its_own_retry_policy(padding: int) -> None:
    port = Port(second=True)
    assert port.dial(b"one", padding).conn.retry_scid is None
    client = port.dial(b"two", padding)
    assert client.confirmed and client.conn.retry_scid is not None
    assert client.conn.peer is not None and client.conn.peer.initial_max_streams_bidi == 9


def test_lost_parts_of_a_long_client_hello_come_again() -> None:
    port = Port(second=True)
    port.network.link(CLIENT[0], SERVER[0]).loss = 0.3
    client = port.dial(b"two", 3000)
    assert client.confirmed and client.conn.retry_scid is not None


def test_a_protocol_that_nobody_speaks_is_told() -> None:
    """RFC 9001 §8.1."""
    client = Port().dial(b"three")
    assert client.conn.closed is not None
    assert client.conn.closed.code == TransportErrorCode.CRYPTO_ERROR + 120


def test_clients_that_never_finish_their_hello_hold_little() -> None:
    port = Port()
    port.network.link(CLIENT[0], SERVER[0]).drop = lambda datagram: dropper(datagram.data)
    count = 0

    def dropper(data: bytes) -> bool:
        nonlocal count
        count += 1
        return count % 2 == 0

    port.clients.connect(SERVER, alpn=b"two", padding=1500)
    port.network.run(lambda: count >= 8, 60.0)
    assert len(port.server.endpoint) <= 1

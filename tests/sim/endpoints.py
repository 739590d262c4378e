"""Hosts of a simulated network: the real endpoint and connections, with a scripted handshake and a small
application that writes what it is told and collects what comes.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from quicfs.transport import limits
from quicfs.transport.builder import Transmit
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.conn import Connection
from quicfs.transport.crypto import CipherSuite
from quicfs.transport.endpoint import Endpoint, Listener
from quicfs.transport.errors import ProtocolViolation
from quicfs.transport.state import State
from quicfs.transport.stream import RecvState, Stream
from quicfs.transport.transport_param import TransportParameters

from .fake_tls import FakeTls
from .network import Address, Datagram, Network

ALPN = b"smb"
SERVER: Address = ("192.0.2.1", 443)
CLIENT: Address = ("198.51.100.7", 50_000)


class App:
    """One end's application on one connection: collects streams, echoes or writes on request."""

    tls: FakeTls
    begin_anew: Callable[[], None]

    def __init__(self, host: Host, conn: Connection) -> None:
        self.host = host
        self.conn = conn
        self.received: defaultdict[int, bytearray] = defaultdict(bytearray)
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.stops: dict[int, int] = {}
        self.accepted: list[int] = []
        self.paused = False  # does not read
        self.on_data: Callable[[App, Stream], None] | None = None

    # --- what FakeTls does to a connection

    def send_crypto(self, level: int, data: bytes) -> None:
        self.conn.send_crypto(level, data)

    def install_secret(self, level: int, suite: CipherSuite, secret: bytes, *, send: bool) -> None:
        self.conn.install_secret(level, suite, secret, send=send)

    def local_parameters(self) -> bytes:
        return self.conn.local_parameters()

    def set_peer_parameters(self, data: bytes) -> None:
        self.conn.set_peer_parameters(data)

    def refuse_early_data(self) -> None:
        self.conn.refuse_early_data()

    def handshake_complete(self) -> None:
        self.conn.handshake_complete(self.host.network.now)

    # --- driving

    def step(self, now: float) -> None:
        """Look at what the connection has for us."""
        conn = self.conn
        if conn.versions.next is not None:
            self.begin_anew()
            return
        self.hand_to_tls(now)
        while conn.streams.incoming:
            self.accepted.append(conn.streams.incoming.popleft().stream_id)
        if not self.paused:
            self.read(now)
        for stream in list(conn.writable):
            del conn.writable[stream]
            if stream.send is not None and stream.send.stop_code is not None:
                self.stops[stream.stream_id] = stream.send.stop_code

    def hand_to_tls(self, now: float) -> None:
        conn = self.conn
        while conn.crypto_received:
            level, data = conn.crypto_received.popleft()
            try:
                self.tls.handle(level, data)
            except ProtocolViolation as violation:
                conn.close(now, violation.code, violation.reason)
            self.host.endpoint.replay(now, conn)

    def read(self, now: float, limit: int = 1 << 20) -> None:
        conn = self.conn
        for stream in list(conn.readable):
            recv = stream.recv
            assert recv is not None
            if recv.state is RecvState.RESET_RECVD:
                self.resets[stream.stream_id] = recv.error_code
                conn.reset_read(stream)
            else:
                while piece := conn.read_stream(stream, limit, now):
                    self.received[stream.stream_id] += piece
                if recv.state is RecvState.DATA_READ:
                    self.ended.add(stream.stream_id)
            del conn.readable[stream]
            if self.on_data is not None:
                self.on_data(self, stream)

    # --- verbs for tests

    def open(self, *, unidirectional: bool = False) -> Stream:
        return self.conn.open_stream(unidirectional=unidirectional)

    def write(self, stream: Stream, data: bytes, *, fin: bool = False) -> None:
        self.conn.write_stream(stream, data, fin=fin)
        self.host.flush()

    def send(self, data: bytes, *, unidirectional: bool = False) -> Stream:
        """Open a stream, write all of it, end it."""
        stream = self.open(unidirectional=unidirectional)
        self.write(stream, data, fin=True)
        return stream

    def stream(self, stream_id: int) -> Stream:
        stream = self.conn.streams.get(stream_id)
        assert stream is not None
        return stream

    def close(self, code: int = 0, reason: str = "", *, application: bool = True) -> None:
        self.conn.close(self.host.network.now, code, reason, frame_type=None if application else 0)
        self.host.flush()

    @property
    def confirmed(self) -> bool:
        return self.conn.recovery.handshake_confirmed

    @property
    def closed(self) -> bool:
        return self.conn.state is State.CLOSED


class Host:
    """An endpoint at an address of the network. A server accepts with one `App` per connection."""

    app_type: type[App] = App

    def __init__(self, network: Network, address: Address, seed: int, *, mtu: int = 1472) -> None:
        self.network = network
        self.address = address
        self.apps: list[App] = []
        self.endpoint = Endpoint(random.Random(seed).randbytes, mtu_of=lambda remote: mtu)
        self.transmitted = 0  # trains
        self._by_conn: dict[Connection, App] = {}
        self._buffer = memoryview(bytearray(limits.TRAIN_BYTES))
        network.attach(address, self)

    def attach(self, address: Address) -> Address:
        """Give the host another address, or port; returns it."""
        self.network.attach(address, _Interface(self, address))
        return address

    def listen(
        self,
        config: ConnectionConfig | None = None,
        *,
        alpn: bytes = ALPN,
        validate_address: bool = False,
        certificate: int = 2500,
        early_data: bool = False,
        tickets: int = 0,
        accept: Callable[[App], None] | None = None,
    ) -> None:
        def take(conn: Connection, chosen: bytes) -> bool:
            app = self.app_type(self, conn)
            app.tls = FakeTls(
                app, is_server=True, certificate=certificate, early_data=early_data, tickets=tickets
            )
            self._add(app)
            if accept is not None:
                accept(app)
            return True

        listener = Listener((alpn,), config or ConnectionConfig(), take, validate_address=validate_address)
        self.endpoint.listen(listener)

    def connect(
        self,
        remote: Address,
        config: ConnectionConfig | None = None,
        *,
        alpn: bytes = ALPN,
        padding: int = 0,
        token: bytes = b"",
        remembered: TransportParameters | None = None,
        early: Callable[[App], None] = lambda app: None,
    ) -> App:
        """With `remembered` parameters of the server, early data are offered: what `early` does before TLS begins."""
        conn = self.endpoint.connect(
            self.network.now, remote, config or ConnectionConfig(), local=self.address, token=token
        )
        app = self.app_type(self, conn)
        offers = remembered is not None
        app.tls = FakeTls(app, is_server=False, alpn=alpn, padding=padding, early_data=offers)
        app.begin_anew = lambda: self._begin_anew(app, alpn, padding)
        self._add(app)
        if remembered is not None:
            conn.prepare_early_data(remembered)
            early(app)
        app.tls.start()
        self.flush()
        return app

    def _add(self, app: App) -> None:
        self.apps.append(app)
        self._by_conn[app.conn] = app

    def _begin_anew(self, app: App, alpn: bytes, padding: int) -> None:
        """The server speaks other versions: a new connection, with a new ClientHello, in the same App."""
        app.conn = self.endpoint.restart(self.network.now, app.conn)
        self._by_conn[app.conn] = app
        app.tls = FakeTls(app, is_server=False, alpn=alpn, padding=padding)
        app.tls.start()
        self.flush()

    # --- the network's side

    def handle_train(
        self,
        now: float,
        source: Address,
        data: bytearray,
        segment_size: int,
        ecn: int,
        local: Address | None = None,
    ) -> None:
        local = local or self.address
        touched = self.endpoint.handle(now, memoryview(data), segment_size, source, local, ecn)
        for conn in touched:
            app = self._by_conn.get(conn)
            if app is not None:
                app.step(now)
        self._flush(touched)

    def next_timeout(self) -> float | None:
        times = [due for conn in self.endpoint.connections if (due := conn.next_timeout()) is not None]
        return min(times, default=None)

    def handle_timeout(self, now: float) -> None:
        late = []
        for conn in self.endpoint.connections:
            due = conn.next_timeout()
            if due is not None and due <= now:
                late.append(conn)
        for conn in late:
            conn.handle_timeout(now)
            app = self._by_conn.get(conn)
            if app is not None:
                app.step(now)
        self._flush(late)

    def flush(self) -> None:
        """Put on the network whatever wants to leave now."""
        self._flush(list(self.endpoint.connections))

    def _flush(self, conns: list[Connection]) -> None:
        now = self.network.now
        while (reply := self.endpoint.poll_reply()) is not None:
            self._send(reply)
        for conn in conns:
            for _ in range(10_000):
                train = conn.poll_transmit(now, self._buffer)
                if train is None:
                    break
                self._send(train)
            else:
                raise AssertionError("a connection transmits without end")
            if conn.state is State.CLOSED:
                self.endpoint.forget(conn)

    def _send(self, train: Transmit) -> None:
        data, segment_size, remote, local, ecn = train
        assert 0 < segment_size <= len(data)
        self.transmitted += 1
        for start in range(0, len(data), segment_size):
            piece = bytes(data[start : start + segment_size])
            self.network.send(Datagram(local or self.address, remote, piece, ecn))


class _Interface:
    """Another address of a host; its timers are the host's."""

    def __init__(self, host: Host, address: Address) -> None:
        self._host = host
        self._address = address

    def handle_train(self, now: float, source: Address, data: bytearray, segment_size: int, ecn: int) -> None:
        self._host.handle_train(now, source, data, segment_size, ecn, self._address)

    def next_timeout(self) -> float | None:
        return None

    def handle_timeout(self, now: float) -> None:
        raise AssertionError("an interface has no timers")


@dataclass
class Pair:
    """A client and a server, each on a host of its own."""

    network: Network
    client_host: Host
    server_host: Host
    client: App

    @property
    def server(self) -> App:
        return self.server_host.apps[0]

    def run(self, done: Callable[[], bool], limit: float = 60.0) -> None:
        self.network.run(done, limit)

    def establish(self, limit: float = 60.0) -> Pair:
        """Run until both ends consider the handshake confirmed."""
        self.run(
            lambda: self.client.confirmed and bool(self.server_host.apps) and self.server.confirmed, limit
        )
        return self


def make_pair(
    seed: int = 0,
    *,
    client: ConnectionConfig | None = None,
    server: ConnectionConfig | None = None,
    mtu: int = 1472,
    validate_address: bool = False,
    certificate: int = 2500,
    padding: int = 0,
    prepare: Callable[[Network], None] | None = None,
) -> Pair:
    """Two hosts, and a client that has sent its first Initial. `prepare` shapes the links before that."""
    network = Network(seed)
    if prepare is not None:
        prepare(network)
    server_host = Host(network, SERVER, seed * 2 + 1, mtu=mtu)
    server_host.listen(server, validate_address=validate_address, certificate=certificate)
    client_host = Host(network, CLIENT, seed * 2 + 2, mtu=mtu)
    return Pair(network, client_host, server_host, client_host.connect(SERVER, client, padding=padding))


def both_ways(network: Network, **settings: float | int | bool | None) -> None:
    """Set the same properties on the links of both directions."""
    for link in (network.link(CLIENT[0], SERVER[0]), network.link(SERVER[0], CLIENT[0])):
        for name, value in settings.items():
            assert hasattr(link, name)
            setattr(link, name, value)
